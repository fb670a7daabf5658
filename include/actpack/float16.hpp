// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The two-byte floating-point storage types, and every conversion the format names.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/detail/float_bits.hpp"

namespace actpack {

/// bfloat16 storage: the upper half of a float. Converting from float rounds to nearest, ties to
/// even; overflow gives ±∞, NaN a quiet NaN. Converting to float is exact.
struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  ACTPACK_CORE constexpr explicit bfloat16(float x) : bits(round_to_nearest(x)) {}
  ACTPACK_CORE static constexpr bfloat16 from_bits(std::uint16_t bits) {
    bfloat16 x{0.0f};
    x.bits = bits;
    return x;
  }
  ACTPACK_CORE constexpr operator float() const {
    return detail::float_of(std::uint32_t{bits} << 16);
  }

 private:
  ACTPACK_CORE static constexpr std::uint16_t round_to_nearest(float x) {
    const std::uint32_t b = detail::bits_of(x);
    const std::uint32_t nearest = (b + 0x7FFF + (b >> 16 & 1)) >> 16;
    const std::uint32_t quiet_nan = b >> 16 | 0x40;
    return static_cast<std::uint16_t>(detail::is_nan(x) ? quiet_nan : nearest);
  }
};

/// IEEE binary16 storage. Converting from float rounds to nearest, ties to even; overflow gives ±∞,
/// NaN a quiet NaN. Converting to float is exact.
struct float16 {
  std::uint16_t bits;

  float16() = default;
  ACTPACK_CORE constexpr explicit float16(float x) : bits(round_to_nearest(x)) {}
  ACTPACK_CORE static constexpr float16 from_bits(std::uint16_t bits) {
    float16 x{0.0f};
    x.bits = bits;
    return x;
  }

  // The 15 magnitude bits, shifted to where a float has them, lack 112 in the exponent, and ∞ and
  // NaN lack twice that. A subnormal gets the leading 1 of 2^−14, which a difference takes away
  // again, exactly: no step is a subnormal float, which processors may flush.
  ACTPACK_CORE constexpr operator float() const {
    constexpr std::uint32_t rebias = 112u << 23;
    const std::uint32_t sign = std::uint32_t{bits} << 16 & detail::sign_bit;
    const std::uint32_t moved = (bits & 0x7FFFu) << 13;
    const std::uint32_t normal = moved + (moved < 0x7C00u << 13 ? rebias : 2 * rebias);
    const float subnormal = detail::float_of(moved + rebias + (1u << 23)) - 0x1p-14f;
    return detail::float_of((moved < 0x400u << 13 ? detail::bits_of(subnormal) : normal) | sign);
  }

 private:
  ACTPACK_CORE static constexpr std::uint16_t round_to_nearest(float x) {
    const std::uint32_t magnitude = detail::magnitude_bits(x);
    const std::uint32_t sign = detail::bits_of(x) >> 16 & 0x8000;
    // Normal results: drop 13 bits, ties to even, and rebias the exponent by 112.
    const std::uint32_t normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    // Subnormal results: adding 1/2 leaves |x| / 2^−24, rounded to nearest even, in the low bits.
    const std::uint32_t subnormal =
        detail::bits_of(detail::float_of(magnitude) + 0.5f) - detail::bits_of(0.5f);
    const std::uint32_t quiet_nan = 0x7E00 | (magnitude >> 13 & 0x3FF);
    std::uint32_t result = magnitude < 0x38800000u ? subnormal : normal;  // below 2^−14
    result = magnitude >= 0x47800000u ? 0x7C00u : result;                 // 2^16 and above
    result = magnitude > detail::infinity_bits ? quiet_nan : result;
    return static_cast<std::uint16_t>(result | sign);
  }
};

/// The types a tensor may have outside the library. Arithmetic is always in float.
template <class T>
concept Element =
    std::is_same_v<T, float> || std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// As round_down, for an x that is not NaN.
ACTPACK_CORE constexpr bfloat16 round_number_down(float x) {
  const std::uint32_t b = bits_of(x);
  const std::uint32_t away_from_zero = b >> 31 != 0 ? 0xFFFF : 0;
  return bfloat16::from_bits(static_cast<std::uint16_t>((b + away_from_zero) >> 16));
}

}  // namespace actpack::detail

namespace actpack {

/// Returns the largest bfloat16 that is not above `x`; −∞ where there is no finite one, NaN for
/// NaN.
ACTPACK_CORE constexpr bfloat16 round_down(float x) {
  return detail::is_nan(x) ? bfloat16(x) : detail::round_number_down(x);
}

/// Returns `x` in T, rounded to nearest even; a finite x beyond T's range gives T's largest finite
/// value of that sign. ±∞ and NaN stay as they are.
template <Element T>
ACTPACK_CORE constexpr T saturate_cast(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    constexpr float largest = std::is_same_v<T, bfloat16> ? 0x1.fep127f : 65504.0f;
    const float below = x > largest && x <= detail::float_max ? largest : x;
    return T(below < -largest && below >= -detail::float_max ? -largest : below);
  }
}

}  // namespace actpack
