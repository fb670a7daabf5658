// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The closed form of rounding's variance: a sensitivity from ranges, and its variance at a width.
#pragma once

#include "actpack/codes.hpp"
#include "actpack/config.hpp"

namespace actpack::inline ACTPACK_TARGET {

/// Returns the variance that `sensitivity` gives at a width: sensitivity / (2^bits − 1)².
constexpr double variance_at(double sensitivity, int bits) {
  const double levels = max_code(bits);
  return sensitivity / (levels * levels);
}

/// Returns the sensitivity of the sum of squared rounding errors of groups of `group_size` values
/// whose ranges have the squared norm `squared_range_norm` (the sum of their squares), decoded
/// plainly: (G / 6) ‖R‖². Exact if positions between codes are uniform; half of it is true for ReLU
/// outputs, whose zeros carry no noise. Subtractive decoding: half, whatever the values. One side
/// of a sign-magnitude context: its largest magnitudes are the ranges, and `group_size` is its mean
/// number of values in a group, half a group of symmetric data. Source: ActNN, section 4.
ACTPACK_HD constexpr double rounding_sensitivity(double squared_range_norm, double group_size) {
  return group_size / 6 * squared_range_norm;
}

}  // namespace actpack
