// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The two ways in which AutoPrecision finds widths: by what was observed, and evenly before that.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/bit_allocation.hpp"
#include "actpack/detail/auto_precision/statistics.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct WidthLimits {
  int min_bits;
  int max_bits;
};

/// Returns the widths of least total variance. Variances that were not measured follow from those
/// at one bit.
inline std::vector<std::uint8_t> solve_widths(std::span<const NoiseByWidth> variance,
                                              std::span<const std::int64_t> numel,
                                              std::int64_t bit_budget, WidthLimits limits,
                                              bool is_measured) {
  const std::vector<std::uint8_t> min_bits(numel.size(),
                                           static_cast<std::uint8_t>(limits.min_bits));
  const std::vector<std::uint8_t> max_bits(numel.size(),
                                           static_cast<std::uint8_t>(limits.max_bits));
  if (is_measured) {
    return allocate_measured_bits({variance, numel, bit_budget, min_bits, max_bits}).bits;
  }
  std::vector<double> sensitivity(numel.size());
  std::ranges::transform(variance, sensitivity.begin(), [](const auto& row) { return row[0]; });
  return allocate_bits({sensitivity, numel, bit_budget, min_bits, max_bits}).bits;
}

/// Calls set(i, bits) for each item with one of the two widths next to `average_bits`, the wider
/// ones spread among the others. Returns the bits used: at most `average_bits` per value.
template <class Set>
std::int64_t spread_evenly(std::span<const std::int64_t> numel, double average_bits,
                           WidthLimits limits, const Set& set) {
  int narrow = limits.min_bits;
  while (2 * narrow <= std::min<double>(limits.max_bits, average_bits)) narrow *= 2;
  const int wide = std::min(2 * narrow, limits.max_bits);
  const double extra = average_bits - narrow;
  std::int64_t values = 0;  // of the items so far
  std::int64_t used = 0;    // bits beyond `narrow` for each of them
  for (std::size_t i = 0; i < numel.size(); ++i) {
    values += numel[i];
    const std::int64_t cost = (wide - narrow) * numel[i];
    const bool is_wide =
        used + cost <= static_cast<std::int64_t>(extra * static_cast<double>(values));
    if (is_wide) used += cost;
    set(i, static_cast<std::uint8_t>(is_wide ? wide : narrow));
  }
  return narrow * values + used;
}

}  // namespace actpack::detail::inline ACTPACK_TARGET
