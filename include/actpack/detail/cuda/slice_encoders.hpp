// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A group's parameters, and the positions of its elements: the arithmetic of affine.hpp and
// detail/sides.hpp in the instructions of GPUs, to the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/affine.hpp"
#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/detail/cuda/slice_codes.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Whether nothing about a group is extreme: no NaN or infinity, no overflow to step aside for.
ACTPACK_HD inline bool is_ordinary(ValueRange range) {
  return std::fabs(range.min) < ordinary_limit && std::fabs(range.max) < ordinary_limit;
}

/// Fits a group's parameters to its range, then gives positions, as Encoder (affine.hpp) does.
template <int Bits>
class AffineSliceEncoder {
 public:
  static constexpr NoiseDomain domain = NoiseDomain::values;

  ACTPACK_HD explicit AffineSliceEncoder(ValueRange range) {
    // Positions are 2^(code_shift − 14) times as fine. Either factor of the product may be larger,
    // as only the distances of a group near overflow are huge, and only its steps are not.
    constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);
    if (is_ordinary(range)) {
      const bfloat16 min = round_number_down(range.min + 0.0f);
      params_ = {fit_scale(subtract_up(range.max, min), Bits), min};
      unit_ = finer;
      steps_ = steps_per_unit(params_.scale);
    } else {
      params_ = fit_params(range.min, range.max, Bits);
      const bool near_overflow = is_near_overflow(params_.scale, params_.min);
      unit_ = near_overflow ? 0.5f : finer;
      steps_ = steps_per_unit(near_overflow ? 0.5f * params_.scale : float{params_.scale}) *
               (near_overflow ? finer : 1);
      keep_ = is_poisoned(params_) ? 0 : keep_;
    }
    offset_ = -(unit_ * params_.min);
  }

  ACTPACK_HD GroupParams params() const { return params_; }

  /// The bits of codes to keep: all, or none in a poisoned group.
  ACTPACK_HD std::uint32_t keep() const { return keep_; }

  /// Returns the bits of 2^23 + `dither` + the position of x, given those of 2^23 + `dither`.
  ACTPACK_HD std::uint32_t operator()(float x, std::uint32_t dither) const {
    return add_floor_product(dither, fma(x, unit_, offset_), steps_);
  }

 private:
  GroupParams params_;
  float unit_, offset_, steps_;
  std::uint32_t keep_ = 0xFFFFFFFFu;
};

/// Fits both sides of a sign-magnitude group, then gives positions of magnitudes, as SideEncoder
/// (sign_magnitude.hpp) does.
template <int Bits>
class SideSliceEncoder {
 public:
  static constexpr NoiseDomain domain = NoiseDomain::magnitudes;

  ACTPACK_HD explicit SideSliceEncoder(ValueRange range)
      : params_(fit_sides(range, Bits)),
        unit_(unit_of(params_.positive), unit_of(params_.negative)),
        steps_(steps_of(params_.positive), steps_of(params_.negative)),
        keep_(is_poisoned(params_) ? 0 : 0xFFFFFFFFu) {}

  ACTPACK_HD SignMagnitudeParams params() const { return params_; }
  ACTPACK_HD std::uint32_t keep() const { return keep_; }
  ACTPACK_HD std::uint32_t operator()(float y, std::uint32_t dither) const {
    return add_floor_product(dither, std::fabs(y) * unit_(y > 0), steps_(y > 0));
  }

 private:
  // As with affine groups, either factor may be finer: magnitudes of a side with huge steps are
  // huge.
  static constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);

  ACTPACK_HD static bool has_huge_steps(float scale) { return !(scale < 0x1p100f); }
  ACTPACK_HD static float unit_of(float scale) { return has_huge_steps(scale) ? 1 : finer; }
  ACTPACK_HD static float steps_of(float scale) {
    return steps_per_unit(scale) * (has_huge_steps(scale) ? finer : 1);
  }

  SignMagnitudeParams params_;
  SideFactor unit_, steps_;
  std::uint32_t keep_;
};

}  // namespace actpack::detail
