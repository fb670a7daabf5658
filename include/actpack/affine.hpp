// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The affine code of one group: value ≈ min + scale · code, with the parameters as stored.
#pragma once

#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/affine.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// The parameters that a group stores beside its codes: the step between two codes and the value of
/// code 0.
struct alignas(4) GroupParams {
  bfloat16 scale, min;
};

/// The parameters of a group that no finite ones describe. It decodes to NaN everywhere.
inline constexpr GroupParams poisoned_params = {bfloat16::from_bits(0x7FC0),
                                                bfloat16::from_bits(0x7FC0)};

ACTPACK_CORE constexpr bool is_poisoned(GroupParams params) { return detail::is_nan(params.scale); }

/// Returns the parameters of a group whose smallest and largest values are `min` and `max`: `min`
/// rounded down (never −0), and the smallest scale for which [min, min + max_code · scale] covers
/// `max` exactly. A constant group whose value bfloat16 can hold has scale 0. Poisoned if `min` or
/// `max` is not finite or no finite parameters cover them. Precondition: min ≤ max unless one is
/// NaN.
ACTPACK_CORE inline GroupParams fit_params(float min, float max, int bits) {
  const bfloat16 stored_min = round_down(min + 0.0f);
  const float low = stored_min;
  if (!detail::is_finite(low) || !detail::is_finite(max)) {
    return poisoned_params;
  }
  // A range above FLT_MAX is fitted at half its size; halving numbers that large is exact.
  const bool halve = !detail::is_finite(max - low);
  const float half = halve ? 0.5f : 1.0f;
  const float unit_scale = detail::fit_scale(detail::subtract_up(max * half, low * half), bits);
  const bfloat16 scale(halve ? 2 * unit_scale : unit_scale);
  return detail::is_finite(scale) ? GroupParams{scale, stored_min} : poisoned_params;
}

/// Turns values of one group into positions between its codes.
class Encoder {
 public:
  /// Precondition: `params` are not poisoned.
  ACTPACK_CORE explicit Encoder(GroupParams params)
      : unit_(detail::is_near_overflow(params.scale, params.min) ? 0.5f : 1.0f),
        min_(unit_ * params.min), steps_(detail::steps_per_unit(unit_ * params.scale)) {}

  /// Returns the position of `x` in steps of 2^−14: ⌊d · c⌋ with d = RN(x − min), c = RN(2^14 /
  /// scale), all at half size near overflow. In [0, max_code · 2^14] for every x that the
  /// parameters cover: d ≤ max_code · scale because that bound is a float, hence d · c ≤ max_code ·
  /// 2^14 · (1 + 2^−24), whose floor is the bound.
  ACTPACK_CORE std::int32_t operator()(float x) const {
    // x · unit is exact, contracted or not, unless x is subnormal, where d · c < 1 for steps this
    // large.
    return floor_product(x * unit_ - min_, steps_);
  }

 private:
  float unit_;
  float min_;
  float steps_;
};

/// Turns codes of one group back into values.
class Decoder {
 public:
  ACTPACK_CORE explicit Decoder(GroupParams params, float alpha = 1)
      : near_overflow_(detail::is_near_overflow(params.scale, params.min)), scale_(params.scale),
        min_(params.min), alpha_(alpha) {}

  /// Plain: min + code · scale, rounded once.
  ACTPACK_CORE float operator()(std::uint32_t code) const {
    return near_overflow_ ? detail::saturate(detail::fma(static_cast<float>(code), scale_, min_))
                          : far_from_overflow(code);
  }
  ACTPACK_CORE bool is_near_overflow() const { return near_overflow_; }
  /// The same for groups that are not.
  ACTPACK_CORE float far_from_overflow(std::uint32_t code) const {
    // 8 × 8 significant bits are exact: rounded once, contracted or not.
    return static_cast<float>(code) * scale_ + min_;
  }

  /// Subtractive: at `position_of(code, dither, alpha)`.
  ACTPACK_CORE float operator()(std::uint32_t code, std::uint32_t dither) const {
    const float value =
        detail::fma(detail::position_of(code, dither, alpha_), scale_ * 0x1p-15f, min_);
    return near_overflow_ ? detail::saturate(value) : value;
  }

 private:
  bool near_overflow_;
  float scale_, min_, alpha_;
};

/// Returns the code of `x`: see `Encoder` and `round_code`.
ACTPACK_CORE inline std::uint32_t code_of(float x, const Encoder& encoder, std::uint32_t dither) {
  return round_code(encoder(x), dither);
}

/// Returns the value of `code`, plainly decoded.
ACTPACK_CORE inline float value_of(std::uint32_t code, GroupParams params) {
  return Decoder(params)(code);
}

}  // namespace actpack
