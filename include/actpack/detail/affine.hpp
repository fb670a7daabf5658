// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The float arithmetic of affine codes, with the proofs that it is exact: scales, positions,
// overflow.
#pragma once

#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// No step is smaller, so that what is computed from one is a normal float: 2^−15 of it to decode,
/// and to encode 2^16 times its reciprocal.
inline constexpr float smallest_scale = 0x1p-111f;

/// Returns the smallest float ≥ high − low, exactly. Precondition: high ≥ low, no overflow.
ACTPACK_HD inline float subtract_up(float high, float low) {
#if ACTPACK_DEVICE_ARCH
  return __fsub_ru(high, low);
#else
  // Knuth's two-sum: rounded + error is the difference.
  const float rounded = high - low;
  const float high_part = rounded + low;
  const float low_part = high_part - rounded;
  const float error = (high - high_part) - (low - low_part);
  return error > 0 ? float_of(bits_of(rounded) + 1) : rounded;
#endif
}

/// A little more than 1 / max_code(bits): what fit_scale multiplies by.
ACTPACK_HD constexpr float above_inverse(int bits) {
  constexpr float above_one = 1 + 0x1p-22f;
  return bits == 1   ? above_one
         : bits == 2 ? above_one / 3
         : bits == 4 ? above_one / 15
                     : above_one / 255;
}

/// Returns the smallest bfloat16 s ≥ 2^−111, or +∞, with max_code · s ≥ range; 0 for range 0.
ACTPACK_HD inline bfloat16 fit_scale(float range, int bits) {
  const float smallest = range > 0 ? smallest_scale : 0;
  // The exact quotient lies in (s − step, s]. Two roundings move it by at most 2^−23 of itself, and
  // the factor moves it up by more. So truncation gives s − step or s, and one exact comparison
  // tells which.
  const float quotient = range * above_inverse(bits);
  const float truncated = float_of(bits_of(quotient) & 0xFFFF0000u);
  const float candidate = truncated > smallest ? truncated : smallest;  // +0 rather than −0
  const float covered =
      static_cast<float>(max_code(bits)) * candidate;  // 16 significant bits: exact, or +∞
  const std::uint32_t fitted = bits_of(candidate) + (covered >= range ? 0 : 0x10000u);
  return bfloat16::from_bits(static_cast<std::uint16_t>(fitted >> 16));
}

/// Whether arithmetic on a group's values could leave float's range: then encoding halves and
/// decoding saturates. Otherwise |min + 255.5 · scale| < 2^126 + 2^125, and half a step more
/// changes nothing.
ACTPACK_HD constexpr bool is_near_overflow(float scale, float min) {
  return magnitude_bits(scale) >= bits_of(0x1p117f) || magnitude_bits(min) >= bits_of(0x1p126f);
}

/// A group whose values are smaller than this is never extreme: see is_near_overflow.
inline constexpr float ordinary_limit = 0x1p115f;

/// The largest finite value of its sign where `value` is infinite; keeps NaN.
ACTPACK_HD constexpr float saturate(float value) {
  const float below = value > float_max ? float_max : value;
  return below < -float_max ? -float_max : below;
}

/// The position of a code less alpha times the `dither` that was added to reach it, measured from
/// the centre of the dither's 2^14 values; in steps of 2^−15.
ACTPACK_HD inline float position_of(std::uint32_t code, std::uint32_t dither, float alpha) {
  const std::int32_t centred = static_cast<std::int32_t>(2 * dither + 1) - (1 << fraction_bits);
  const std::int32_t level = static_cast<std::int32_t>(code << (fraction_bits + 1));
  return fma(-alpha, static_cast<float>(centred), static_cast<float>(level));
}

/// Returns 2^14 / scale, correctly rounded, from an approximation within two units in the last
/// place. One Newton step is enough: a scale has 8 significant bits, and for each of the 128
/// mantissas every such start ends at the same number (by enumeration). Precondition: 2^−111 ≤
/// scale < 2^127.
ACTPACK_HD inline float refine_steps(float approximate, float scale) {
  const float error = fma(-approximate, scale * 0x1p-14f, 1.0f);
  return fma(error, approximate, approximate);
}

/// 2^14 / scale, correctly rounded: positions per unit of distance; 0 for a group without a range.
ACTPACK_HD inline float steps_per_unit(float scale) {
#if ACTPACK_DEVICE_ARCH
  float approximate;  // within one unit in the last place
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(approximate) : "f"(scale * 0x1p-14f));
  const float steps = refine_steps(approximate, scale);
  return scale == 0 ? 0 : steps;
#else
  return scale == 0 ? 0 : 0x1p14f / scale;
#endif
}

}  // namespace actpack::detail
