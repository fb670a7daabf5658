// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The instructions that GPUs are good at. On the host the same functions are spelled out, so that
// tests without a GPU execute all but the instructions themselves.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The bytes of b:a (0 … 7) that the four digits of `selector` name, the first digit's lowest.
ACTPACK_HD inline std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b,
                                              std::uint32_t selector) {
#if ACTPACK_DEVICE_ARCH
  return __byte_perm(a, b, selector);
#else
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t from = selector >> (4 * i) & 7;
    result |= static_cast<std::uint32_t>(bytes >> (8 * from) & 0xFF) << (8 * i);
  }
  return result;
#endif
}

/// sum + Σ a_i · b_i over the four bytes of each.
ACTPACK_HD inline std::uint32_t dot_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t sum) {
#if ACTPACK_DEVICE_ARCH
  return __dp4a(a, b, sum);
#else
  for (int i = 0; i < 32; i += 8) {
    sum += (a >> i & 0xFF) * (b >> i & 0xFF);
  }
  return sum;
#endif
}

/// A function of three bits for each bit of a, b and c, in one instruction. `Table` is that
/// function of 0xF0, 0xCC and 0xAA. Compilers make two instructions of it when b and c are
/// constants.
template <std::uint32_t Table>
ACTPACK_HD std::uint32_t bitwise(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t result = 0;
#if ACTPACK_DEVICE_ARCH
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(Table));
#else
  for (std::uint32_t bits = 0; bits < 8; ++bits) {
    if ((Table >> bits & 1) != 0) {
      result |=
          ((bits & 4) != 0 ? a : ~a) & ((bits & 2) != 0 ? b : ~b) & ((bits & 1) != 0 ? c : ~c);
    }
  }
#endif
  return result;
}
ACTPACK_HD inline std::uint32_t xor_and(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return bitwise<(0xF0 ^ 0xCC) & 0xAA>(a, b, c);
}
ACTPACK_HD inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return bitwise<(0xF0 & 0xCC) | 0xAA>(a, b, c);
}

/// The smaller (larger) of two numbers; NaN if either is.
ACTPACK_HD inline float min_or_nan(float a, float b) {
#if ACTPACK_DEVICE_ARCH >= 800
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b < a || b != b ? b : a;  // keeps a NaN in a, for which both comparisons fail or b is one
#endif
}
ACTPACK_HD inline float max_or_nan(float a, float b) {
#if ACTPACK_DEVICE_ARCH >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a < b || b != b ? b : a;
#endif
}

/// The bits of the float 2^23: below them, a mantissa is an integer.
inline constexpr std::uint32_t integer_bits = 0x4B000000u;
inline constexpr float integer_base = 0x1p23f;

/// The bits of the float 2^23 + n + ⌊distance · steps⌋, given those of 2^23 + n, if 0 ≤ n +
/// distance · steps < 2^23. Other arguments give anything: those elements' codes are dropped.
ACTPACK_HD inline std::uint32_t add_floor_product(std::uint32_t integer, float distance,
                                                  float steps) {
#if ACTPACK_DEVICE_ARCH
  return __float_as_uint(__fmaf_rd(distance, steps, __uint_as_float(integer)));
#else
  const float product = distance * steps;
  return product >= 0 && product <= integer_base
             ? integer + static_cast<std::uint32_t>(floor_product(distance, steps))
             : 0x7FFFFFFFu;  // a device's NaN, and as visible
#endif
}

}  // namespace actpack::detail
