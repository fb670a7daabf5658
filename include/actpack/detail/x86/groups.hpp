// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The loops over groups, for each instruction set: each file builds on those above it.
#pragma once

#include "actpack/config.hpp"

#if ACTPACK_X86_KERNELS

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "actpack/codes.hpp"
#include "actpack/detail/affine.hpp"
#include "actpack/detail/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/affine_codes.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/mask_elements.hpp"
#include "actpack/detail/host/side_codes.hpp"
#include "actpack/detail/host/strips.hpp"
#include "actpack/detail/x86/noise.hpp"
#include "actpack/rounding.hpp"

#define ACTPACK_KERNELS "actpack/detail/x86/ranges.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#define ACTPACK_KERNELS "actpack/detail/x86/affine.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#define ACTPACK_KERNELS "actpack/detail/x86/sides.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#define ACTPACK_KERNELS "actpack/detail/x86/blocks.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#define ACTPACK_KERNELS "actpack/detail/x86/groups.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"

#endif  // ACTPACK_X86_KERNELS
