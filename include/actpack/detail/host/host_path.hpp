// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The choice of an instruction set for one call.
#pragma once

#include "actpack/instruction_set.hpp"

/// Returns `call` in the namespace of the chosen instruction set.
#if ACTPACK_X86_KERNELS
#define ACTPACK_HOST_PATH(call)                       \
  switch (instruction_set()) {                        \
    case InstructionSet::avx512: return avx512::call; \
    case InstructionSet::avx2: return avx2::call;     \
    case InstructionSet::portable: break;             \
  }                                                   \
  return portable::call
#else
#define ACTPACK_HOST_PATH(call) return portable::call
#endif
