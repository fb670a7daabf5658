// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Which vector instructions the host verbs use. The program finds out when it runs, so a plain
// build has the fastest path of every processor; callers may override it.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"
#include "actpack/detail/require.hpp"

namespace actpack {

/// Ways to compute the same words and the same values, slowest first.
enum class InstructionSet {
  portable,  // C++ alone
  avx2,      // x86-64 with AVX2, FMA and F16C
  avx512,    // x86-64 with AVX-512 F, BW, DQ and VL
};

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

#if ACTPACK_X86
/// What the instruction CPUID says about `leaf`. <cpuid.h> would bring a hundred macros along, and
/// not every compiler's __builtin_cpu_supports knows F16C.
struct CpuId {
  std::uint32_t eax, ebx, ecx, edx;

  explicit CpuId(std::uint32_t leaf) {
    __asm__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(leaf), "c"(0));
  }
};

/// Whether all bits of `mask` are set.
constexpr bool has_all(std::uint32_t bits, std::uint32_t mask) { return (bits & mask) == mask; }

/// The set of registers that the operating system keeps for each thread. Precondition: OSXSAVE.
inline std::uint32_t kept_registers() {
  std::uint32_t registers = 0;
  __asm__("xgetbv" : "=a"(registers) : "c"(0) : "edx");
  return registers;
}

#endif

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Returns the fastest that this processor and its operating system support. Asks for each feature
/// that ACTPACK_AVX2 and ACTPACK_AVX512 name, because hypervisors and emulators mask single ones.
inline InstructionSet best_instruction_set() {
#if ACTPACK_X86
  constexpr std::uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
  constexpr std::uint32_t avx2 = 1u << 5, avx512f = 1u << 16, avx512dq = 1u << 17,
                          avx512bw = 1u << 30, avx512vl = 1u << 31;
  constexpr std::uint32_t xmm_and_ymm = 0x06, opmasks_and_zmm = 0xE0;
  using detail::CpuId, detail::has_all;
  if (CpuId(0).eax >= 7 && has_all(CpuId(1).ecx, fma | osxsave | avx | f16c)) {
    const std::uint32_t features = CpuId(7).ebx;
    const std::uint32_t registers = detail::kept_registers();
    if (has_all(features, avx2) && has_all(registers, xmm_and_ymm)) {
      const bool has_avx512 = has_all(features, avx512f | avx512dq | avx512bw | avx512vl) &&
                              has_all(registers, opmasks_and_zmm);
      return has_avx512 ? InstructionSet::avx512 : InstructionSet::avx2;
    }
  }
#endif
  return InstructionSet::portable;
}

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// Read and written atomically, by the compiler's own functions, which spare every file <atomic>.
ACTPACK_INLINE inline int& chosen_instruction_set() {
  static int chosen = static_cast<int>(best_instruction_set());
  return chosen;
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Returns what the host verbs use: the best, unless `use_instruction_set` chose another.
inline InstructionSet instruction_set() {
#if ACTPACK_X86
  return static_cast<InstructionSet>(
      __atomic_load_n(&detail::chosen_instruction_set(), __ATOMIC_RELAXED));
#else
  return InstructionSet::portable;
#endif
}

/// Makes the host verbs of this program use `chosen` from their next call on, for tests and
/// measurements: words and values are the same whatever is chosen. A shared library compiled with
/// hidden visibility has a choice of its own. Throws std::invalid_argument if this processor lacks
/// it. Any thread may call it at any time.
inline void use_instruction_set(InstructionSet chosen) {
  detail::refuse_unless(chosen <= best_instruction_set(),
                        "this processor lacks the chosen instruction set");
#if ACTPACK_X86
  __atomic_store_n(&detail::chosen_instruction_set(), static_cast<int>(chosen), __ATOMIC_RELAXED);
#endif
}

}  // namespace actpack
