// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Vectors of random bits, for each instruction set.
#pragma once

#include "actpack/config.hpp"

#if ACTPACK_X86_KERNELS

#include <cstdint>

#include "actpack/detail/x86/avx2.hpp"
#include "actpack/detail/x86/avx512.hpp"
#include "actpack/philox.hpp"
#include "actpack/rounding.hpp"

#define ACTPACK_KERNELS "actpack/detail/x86/noise.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"

#endif  // ACTPACK_X86_KERNELS
