// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The two sides of 0 in one group of a sign-magnitude context: their parameters, positions and
// values.
#pragma once

#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/affine.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Each side of 0 is an affine group whose smallest value is 0. If one is poisoned, both are.
ACTPACK_HD inline SignMagnitudeParams fit_sides(ValueRange range, int bits) {
  const GroupParams positive = fit_params(0, range.max < 0 ? 0 : range.max, bits);
  const GroupParams negative = fit_params(0, range.min > 0 ? 0 : -range.min, bits);
  if (is_poisoned(positive) || is_poisoned(negative)) {
    return {poisoned_params.scale, poisoned_params.scale};
  }
  return {positive.scale, negative.scale};
}

ACTPACK_HD constexpr bool is_poisoned(SignMagnitudeParams params) {
  return is_nan(params.positive);
}

/// As is_near_overflow of an affine group; also true of NaN.
ACTPACK_HD constexpr bool is_near_overflow(SignMagnitudeParams params) {
  return is_near_overflow(params.positive, 0) || is_near_overflow(params.negative, 0);
}

/// A pair of factors, one for each side, chosen without a branch because no processor predicts
/// signs.
class SideFactor {
 public:
  ACTPACK_HD SideFactor(float positive, float negative)
      : negative_(bits_of(negative)), flip_(bits_of(positive) ^ negative_) {}

  ACTPACK_HD float operator()(std::uint32_t sign) const {
    return float_of(negative_ ^ (flip_ & (0 - sign)));
  }

 private:
  std::uint32_t negative_, flip_;
};

/// Turns values of one group into positions between the magnitude codes of their side.
class SideEncoder {
 public:
  ACTPACK_HD explicit SideEncoder(SignMagnitudeParams params)
      : steps_(steps_per_unit(params.positive), steps_per_unit(params.negative)) {}

  /// Returns the position of |y| in steps of 2^−14. Precondition: the parameters are not poisoned.
  /// Near overflow there is nothing to halve: a magnitude is its own distance from 0.
  ACTPACK_HD std::int32_t operator()(float y) const {
    return floor_product(float_of(magnitude_bits(y)), steps_(y > 0));
  }

 private:
  SideFactor steps_;
};

/// `value`, with +0 for −0. Adding +0 to a product would not do: where a compiler fuses the two, a
/// negative product that underflows stays −0.
ACTPACK_HD inline float without_negative_zero(float value) {
#if ACTPACK_DEVICE_ARCH
  return __fadd_rn(value, 0.0f);  // never fused with a product
#else
  return value == 0 ? 0.0f : value;
#endif
}

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_ONCE {

/// Whether decoding keeps values that are not positive or turns them into 0.
enum class NegativeSide { kept, zero };

/// A context to decode.
struct SideSource : ConstSignMagnitudeView {
  NegativeSide negative_side;
};

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_TARGET {

/// Turns signs and magnitude codes of one group back into values.
class SideDecoder {
 public:
  // A code times a negative step gives the negative side; times 0, zero; times NaN, NaN.
  ACTPACK_HD SideDecoder(SignMagnitudeParams params, NegativeSide negative_side, float alpha)
      : step_(params.positive, negative_side == NegativeSide::zero && !is_poisoned(params)
                                   ? 0.0f
                                   : -params.negative),
        alpha_(alpha), near_overflow_(is_near_overflow(params)) {}

  ACTPACK_HD float operator()(std::uint32_t sign, std::uint32_t code) const {
    return finish(static_cast<float>(code) * step_(sign));
  }
  ACTPACK_HD float operator()(std::uint32_t sign, std::uint32_t code, std::uint32_t dither) const {
    return finish(position_of(code, dither, alpha_) * (step_(sign) * 0x1p-15f));
  }

 private:
  ACTPACK_HD float finish(float value) const {
    return without_negative_zero(near_overflow_ ? saturate(value) : value);
  }

  SideFactor step_;
  float alpha_;
  bool near_overflow_;
};

}  // namespace actpack::detail
