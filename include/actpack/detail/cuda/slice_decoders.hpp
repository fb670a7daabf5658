// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Values from a slice's levels or positions: the arithmetic of affine.hpp and detail/sides.hpp in
// the instructions of GPUs, to the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "actpack/affine.hpp"
#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The largest number that a decoded value may be before it is stored as a T.
template <class T>
inline constexpr float largest_of = std::is_same_v<T, float16>    ? 65504.0f
                                    : std::is_same_v<T, bfloat16> ? 0x1.fep127f
                                                                  : float_max;

/// Turns levels or positions, in steps of `unit`, into the values of an affine group, as Decoder
/// (affine.hpp) does.
template <int Bits>
class AffineSliceDecoder {
 public:
  ACTPACK_HD AffineSliceDecoder(GroupParams params, float unit)
      : scale_(params.scale), min_(params.min), unit_scale_(unit * params.scale) {}

  ACTPACK_HD float operator()(float steps, int) const { return fma(steps, unit_scale_, min_); }

  /// No value is larger: half a step beyond the last code is as far as subtraction goes.
  ACTPACK_HD float bound() const {
    return fma(static_cast<float>(max_code(Bits)) + 0.5f, scale_, std::fabs(min_));
  }

 private:
  float scale_, min_, unit_scale_;
};

/// The same for a sign-magnitude group, as SideDecoder (sign_magnitude.hpp) does: bit j of `signs`
/// is the sign of element j.
template <int Bits>
class SideSliceDecoder {
 public:
  ACTPACK_HD SideSliceDecoder(SignMagnitudeParams params, NegativeSide negative_side, float unit,
                              std::uint32_t signs)
      : positive_(params.positive),
        negative_(negative_side == NegativeSide::zero && !is_poisoned(params) ? 0.0f
                                                                              : -params.negative),
        unit_step_(unit * positive_, unit * negative_), signs_(signs) {}

  ACTPACK_HD float operator()(float steps, int j) const {
    return without_negative_zero(steps * unit_step_(signs_ >> j & 1));
  }
  ACTPACK_HD float bound() const {
    return (static_cast<float>(max_code(Bits)) + 0.5f) * max_or_nan(positive_, -negative_);
  }

 private:
  float positive_, negative_;
  SideFactor unit_step_;
  std::uint32_t signs_;
};

/// Calls store(x) with the values of a slice, given their distances in steps. None is beyond T's
/// finite values. For floats there is one call, where all lanes of a warp meet.
template <class T, class Decoder, class Store>
ACTPACK_HD void decode_slice(const Slice& steps, const Decoder& decoder, const Store& store) {
  Slice x;
  for (int j = 0; j < elements_per_call; ++j) {
    x.value[j] = decoder(steps.value[j], j);
  }
  const bool are_all_finite = decoder.bound() <= largest_of<T>;
  if constexpr (!std::is_same_v<T, float>) {
    if (are_all_finite) {  // a store of its own spares a tenth of the instructions
      store(x);
      return;
    }
  }
  if (!are_all_finite) {  // some may not be, or the group is poisoned
    for (float& value : x.value) {
      value = value > largest_of<T>    ? largest_of<T>
              : value < -largest_of<T> ? -largest_of<T>
                                       : value;
    }
  }
  store(x);
}

}  // namespace actpack::detail
