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
#include "actpack/detail/allocation/workspace.hpp"
#include "actpack/detail/auto_precision/statistics.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct WidthLimits {
  int min_bits;
  int max_bits;
};

/// Finds the widths of least total variance. All memory is taken in the beginning, so that finding
/// them cannot fail.
class WidthSolver {
 public:
  WidthSolver(std::size_t items, WidthLimits limits)
      : min_bits_(items, static_cast<std::uint8_t>(limits.min_bits)),
        max_bits_(items, static_cast<std::uint8_t>(limits.max_bits)), bits_(items),
        workspace_(allocate_bits_workspace(static_cast<std::int64_t>(items))) {
    variance_.reserve(items);
    sensitivity_.reserve(items);
    numel_.reserve(items);
  }

  void add(const NoiseByWidth& variance, std::int64_t numel) {
    variance_.push_back(variance);
    sensitivity_.push_back(variance[0]);
    numel_.push_back(numel);
  }

  /// Returns the widths of the items added. Variances that were not measured follow from those at
  /// one bit.
  std::span<const std::uint8_t> solve(std::int64_t bit_budget, bool is_measured) {
    const auto first = [&](std::span<std::uint8_t> bits) { return bits.first(numel_.size()); };
    if (is_measured) {
      allocate_measured_bits({variance_, numel_, bit_budget, first(min_bits_), first(max_bits_)},
                             first(bits_), workspace_.span());
    } else {
      allocate_bits({sensitivity_, numel_, bit_budget, first(min_bits_), first(max_bits_)},
                    first(bits_), workspace_.span());
    }
    return first(bits_);
  }

 private:
  std::vector<NoiseByWidth> variance_;
  std::vector<double> sensitivity_;
  std::vector<std::int64_t> numel_;
  std::vector<std::uint8_t> min_bits_;
  std::vector<std::uint8_t> max_bits_;
  std::vector<std::uint8_t> bits_;
  UninitialisedBytes workspace_;
};

/// Calls set(i, bits) for each item with one of the two widths next to `average_bits`, the wider
/// ones spread among the others. Returns the bits used: at most `average_bits` per value.
template <class Set>
std::int64_t spread_evenly(std::span<const std::int64_t> numel, double average_bits,
                           WidthLimits limits, const Set& set) {
  int narrow = limits.min_bits;
  while (2 * narrow <= std::min<double>(limits.max_bits, average_bits)) narrow *= 2;
  const int wide = (std::min)(2 * narrow, limits.max_bits);
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

}  // namespace actpack::detail
