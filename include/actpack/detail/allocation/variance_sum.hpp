// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Adds up the variances of all items, in an order that a device can reproduce: item i belongs to
// strand i mod 2^14, each strand is added up in turn, and then 32 sums at a time become one, as the
// lanes of a warp add them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline constexpr std::size_t num_strands = std::size_t{1} << 14;

inline constexpr std::size_t strands_for(std::size_t items) {
  return (std::min)(items, num_strands);
}

/// Returns the sum of `sums`, 32 neighbours at a time. Overwrites them.
inline double add_up(std::span<double> sums) {
  constexpr std::size_t lanes = 32;
  while (sums.size() > 1) {
    const std::size_t groups = (sums.size() + lanes - 1) / lanes;
    for (std::size_t group = 0; group < groups; ++group) {
      double sum[lanes] = {};
      std::ranges::copy(
          sums.subspan(group * lanes).first((std::min)(lanes, sums.size() - group * lanes)), sum);
      for (std::size_t half = lanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
      }
      sums[group] = sum[0];
    }
    sums = sums.first(groups);
  }
  return sums.empty() ? 0 : sums[0];
}

/// Returns the sum over items of their variances at their widths. `sums` [host,
/// strands_for(items.size())] is overwritten.
template <class Items>
double sum_variances(const Items& items, const std::uint8_t* bits, std::span<double> sums) {
  std::ranges::fill(sums, 0.0);
  for (std::size_t first = 0; first < items.size(); first += num_strands) {
    const std::size_t count = (std::min)(num_strands, items.size() - first);
    for (std::size_t strand = 0; strand < count; ++strand) {
      sums[strand] += items.variance(first + strand, bits[first + strand]);
    }
  }
  return add_up(sums);
}

}  // namespace actpack::detail
