// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Which vector instructions the host verbs use. The program finds out when it runs, so a plain
// build has the fastest path of every processor; callers may override it.
#pragma once

#include "actpack/config.hpp"
#include "actpack/detail/require.hpp"

namespace actpack {

/// Ways to compute the same words and the same values, slowest first.
enum class InstructionSet {
  portable,  // C++ alone
  avx2,      // x86-64 with AVX2, FMA and F16C
  avx512,    // x86-64 with AVX-512 F, BW, DQ and VL
};

/// Returns the fastest that this processor and its operating system support.
inline InstructionSet best_instruction_set() {
#if ACTPACK_X86
  __builtin_cpu_init();
  // Not every compiler can ask for F16C, but every processor with AVX2 and FMA has it.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return InstructionSet::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return InstructionSet::avx2;
  }
#endif
  return InstructionSet::portable;
}

namespace detail {

/// Read and written atomically, by the compiler's own functions, which spare every file <atomic>.
inline int& chosen_instruction_set() {
  static int chosen = static_cast<int>(best_instruction_set());
  return chosen;
}

}  // namespace detail

/// Returns what the host verbs use: the best, unless `use_instruction_set` chose another.
inline InstructionSet instruction_set() {
#if ACTPACK_X86
  return static_cast<InstructionSet>(
      __atomic_load_n(&detail::chosen_instruction_set(), __ATOMIC_RELAXED));
#else
  return InstructionSet::portable;
#endif
}

/// Makes the host verbs of this process use `chosen` from their next call on, for tests and
/// measurements: words and values are the same whatever is chosen. Throws std::invalid_argument if
/// this processor lacks it. Any thread may call it at any time.
inline void use_instruction_set(InstructionSet chosen) {
  detail::require(chosen <= best_instruction_set(),
                  "this processor lacks the chosen instruction set");
#if ACTPACK_X86
  __atomic_store_n(&detail::chosen_instruction_set(), static_cast<int>(chosen), __ATOMIC_RELAXED);
#endif
}

}  // namespace actpack
