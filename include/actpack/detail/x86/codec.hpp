// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What kernels on groups share, for each instruction set: see codec.inl.
#pragma once

#include "actpack/config.hpp"

#if ACTPACK_X86_KERNELS

#include <algorithm>
#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/x86/avx2.hpp"
#include "actpack/detail/x86/avx512.hpp"
#include "actpack/rounding.hpp"

#define ACTPACK_KERNELS "actpack/detail/x86/codec.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"

#endif  // ACTPACK_X86_KERNELS
