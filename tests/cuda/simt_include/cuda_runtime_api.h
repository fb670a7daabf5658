// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// In the place of CUDA's header of this name: all that the library's headers take from it, for
// tests that run kernels without the toolkit.
#pragma once

struct CUstream_st;
using cudaStream_t = CUstream_st*;
