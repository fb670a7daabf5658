// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Memory in sixteen bytes at a time, and pairs of 2-byte numbers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/float16.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Sixteen bytes that move in one instruction.
struct alignas(16) Vector {
  std::uint32_t word[4];
};

template <class U>
ACTPACK_HD U load_from(const void* from) {
#if ACTPACK_DEVICE_ARCH
  return *static_cast<const U*>(from);
#else
  U value;
  std::memcpy(&value, from, sizeof value);
  return value;
#endif
}

template <class U>
ACTPACK_HD void store_to(void* to, const U& value) {
#if ACTPACK_DEVICE_ARCH
  *static_cast<U*>(to) = value;
#else
  std::memcpy(to, &value, sizeof value);
#endif
}

ACTPACK_HD inline Vector load_vector(const void* from) {
#if ACTPACK_DEVICE_ARCH
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
#else
  return load_from<Vector>(from);
#endif
}

ACTPACK_HD inline void store_vector(void* to, const Vector& v) {
#if ACTPACK_DEVICE_ARCH
  __stwb(static_cast<uint4*>(to), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
#else
  store_to(to, v);
#endif
}

ACTPACK_HD inline bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(Vector) == 0;
}

/// The two T of a word, the first from its low half, as floats.
template <class T>
ACTPACK_HD void split_pair(std::uint32_t word, float& first, float& second) {
#if ACTPACK_DEVICE_ARCH
  if constexpr (std::is_same_v<T, float16>) {
    asm("{.reg .b16 low, high;\n\tmov.b32 {low, high}, %2;\n\t"
        "cvt.f32.f16 %0, low;\n\tcvt.f32.f16 %1, high;}"
        : "=f"(first), "=f"(second)
        : "r"(word));
    return;
  }
#endif
  first = T::from_bits(static_cast<std::uint16_t>(word));
  second = T::from_bits(static_cast<std::uint16_t>(word >> 16));
}

/// The inverse, rounding to nearest even. Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD std::uint32_t join_pair(float first, float second) {
#if ACTPACK_DEVICE_ARCH >= 800
  std::uint32_t word;
  if constexpr (std::is_same_v<T, float16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  }
  return word;
#else
  return T(first).bits | std::uint32_t{T(second).bits} << 16;
#endif
}

/// Which of two numbers to take.
enum class Extremum { min, max };

/// The smaller or larger of two pairs of T, half by half; NaN where either is.
template <Extremum which, class T>
ACTPACK_HD std::uint32_t extremum_of_pairs(std::uint32_t a, std::uint32_t b) {
#if ACTPACK_DEVICE_ARCH >= 800
#define ACTPACK_PAIR_INSTRUCTION(name) asm(name " %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b))
  constexpr bool is_half = std::is_same_v<T, float16>;
  std::uint32_t result;
  if constexpr (which == Extremum::min && is_half) {
    ACTPACK_PAIR_INSTRUCTION("min.NaN.f16x2");
  } else if constexpr (which == Extremum::min) {
    ACTPACK_PAIR_INSTRUCTION("min.NaN.bf16x2");
  } else if constexpr (is_half) {
    ACTPACK_PAIR_INSTRUCTION("max.NaN.f16x2");
  } else {
    ACTPACK_PAIR_INSTRUCTION("max.NaN.bf16x2");
  }
#undef ACTPACK_PAIR_INSTRUCTION
  return result;
#else
  float a0, a1, b0, b1;
  split_pair<T>(a, a0, a1);
  split_pair<T>(b, b0, b1);
  return which == Extremum::min ? join_pair<T>(min_or_nan(a0, b0), min_or_nan(a1, b1))
                                : join_pair<T>(max_or_nan(a0, b0), max_or_nan(a1, b1));
#endif
}

}  // namespace actpack::detail
