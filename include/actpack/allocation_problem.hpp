// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The question that bit allocation answers, and the answer; see bit_allocation.hpp for the host and
// cuda/bit_allocation.hpp for the device.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/config.hpp"

namespace actpack {

/// Items (rows, groups or layers) whose variance at a width is sensitivity / (2^bits − 1)². The
/// sensitivity is a gain times rounding_sensitivity; see variance.hpp. All spans are host memory
/// for the host's functions and device memory for the device's.
struct AllocationProblem {
  std::span<const double> sensitivity;          // [items] not negative, finite
  std::span<const std::int64_t> numel;          // [items] values in each item, positive
  std::int64_t bit_budget = 0;                  // limits Σ numel · bits
  std::span<const std::uint8_t> min_bits = {};  // [items] widths, or empty: 1 for all
  std::span<const std::uint8_t> max_bits = {};  // [items] widths, or empty: 8 for all
};

/// The same for items whose variance was measured at each width; see measure_rounding_noise.
struct MeasuredAllocationProblem {
  std::span<const std::array<double, 4>> variance;  // [items] in the order of `widths` (codes.hpp)
  std::span<const std::int64_t> numel;
  std::int64_t bit_budget = 0;
  std::span<const std::uint8_t> min_bits = {};
  std::span<const std::uint8_t> max_bits = {};
};

/// Sums over all items at their widths.
struct AllocationTotals {
  std::int64_t bits_used = 0;  // Σ numel · bits
  double variance = 0;         // Σ over items
  double lower_bound = 0;      // no widths within the budget have less variance than this
};

struct Allocation {
  std::vector<std::uint8_t> bits;  // [items] 1, 2, 4 or 8
  std::int64_t bits_used = 0;
  double variance = 0;
  double lower_bound = 0;
};

}  // namespace actpack
