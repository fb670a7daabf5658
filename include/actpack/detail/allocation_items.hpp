// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The items of a bit allocation as the solver sees them, and what is refused of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "actpack/bit_pack.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/knapsack.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/variance.hpp"

namespace actpack::detail {

/// Sizes may add up to this, so that no sum of bits overflows.
inline constexpr std::int64_t max_total_numel = std::numeric_limits<std::int64_t>::max() / 8;

/// Variances may reach this: times all bits that there can be it is still finite.
inline constexpr double max_variance = 0x1p960;

/// What both forms of a problem have in common.
struct AllocationLimits {
  std::span<const std::int64_t> numel;
  std::int64_t bit_budget;
  std::span<const std::uint8_t> min_bits;
  std::span<const std::uint8_t> max_bits;

  bool are_default() const { return min_bits.empty() && max_bits.empty(); }
  int narrowest(std::size_t i) const { return min_bits.empty() ? 0 : width_place(min_bits[i]); }
  int widest(std::size_t i) const { return max_bits.empty() ? 3 : width_place(max_bits[i]); }
  KnapsackItem item_at(std::size_t i) const { return {numel[i], narrowest(i), widest(i)}; }
};

/// The variance of a unit of sensitivity at the width in a place.
ACTPACK_HD constexpr double share_at(int place) {
  return place == 0 ? 1 : place == 1 ? 1.0 / 9 : place == 2 ? 1.0 / 225 : 1.0 / 65025;
}

/// An item of the closed form.
struct SensitiveItem : KnapsackItem {
  double sensitivity = 0;

  ACTPACK_HD constexpr double saving(int from, int to) const {
    return sensitivity * (share_at(from) - share_at(to));
  }
  ACTPACK_HD constexpr bool operator==(const SensitiveItem& other) const {
    return numel == other.numel && sensitivity == other.sensitivity &&
           narrowest == other.narrowest && widest == other.widest;
  }
};

/// An item with a variance of its own at every width.
struct MeasuredItem : KnapsackItem {
  std::array<double, 4> variance{};

  double saving(int from, int to) const {
    return variance[static_cast<std::size_t>(from)] - variance[static_cast<std::size_t>(to)];
  }
  bool operator==(const MeasuredItem& other) const {
    return numel == other.numel && variance == other.variance && narrowest == other.narrowest &&
           widest == other.widest;
  }
};

struct SensitiveItems : AllocationLimits {
  std::span<const double> sensitivity;

  static constexpr const char* name = "sensitivity";
  std::size_t size() const { return sensitivity.size(); }
  SensitiveItem operator()(std::int64_t i) const {
    return {item_at(static_cast<std::size_t>(i)), sensitivity[static_cast<std::size_t>(i)]};
  }
  double variance(std::size_t i, int bits) const {
    return sensitivity[i] * share_at(width_place(bits));
  }
  bool is_noiseless() const {
    return std::ranges::all_of(sensitivity, [](double c) { return c == 0; });
  }

  void validate() const {
    // One pass to see whether something is wrong, another one to find it.
    bool is_valid = true;
    for (const double c : sensitivity) is_valid &= c >= 0 && c <= max_variance;
    if (is_valid) return;
    for (std::size_t i = 0; i < size(); ++i) {
      require(sensitivity[i] >= 0 && sensitivity[i] <= max_variance, "sensitivity[", i,
              "] = ", sensitivity[i], " is not in [0, 2^960]");
    }
  }
};

struct MeasuredItems : AllocationLimits {
  std::span<const std::array<double, 4>> table;

  static constexpr const char* name = "variance";
  std::size_t size() const { return table.size(); }
  MeasuredItem operator()(std::int64_t i) const {
    return {item_at(static_cast<std::size_t>(i)), table[static_cast<std::size_t>(i)]};
  }
  double variance(std::size_t i, int bits) const {
    return table[i][static_cast<std::size_t>(width_place(bits))];
  }
  bool is_noiseless() const {
    return std::ranges::all_of(table, [](const auto& row) {
      return row == std::array{0.0, 0.0, 0.0, 0.0};
    });
  }

  void validate() const {
    for (std::size_t i = 0; i < size(); ++i) {
      for (std::size_t width = 0; width < widths.size(); ++width) {
        require(table[i][width] >= 0 && table[i][width] <= max_variance, "variance[", i, "][",
                width, "] = ", table[i][width], " is not in [0, 2^960]");
      }
    }
  }
};

/// What the sizes and limits of all items come to.
struct AllocationSizes {
  std::int64_t largest_numel = 0;
  bool are_equal = true;
  std::int64_t least_bits = 0;  // Σ numel · min_bits
};

inline void require_widths(std::span<const std::uint8_t> bits, const char* name,
                           std::size_t items) {
  if (bits.empty()) return;
  require(bits.size() == items, name, ".size() = ", bits.size(), " but there are ", items,
          " items");
  for (std::size_t i = 0; i < items; ++i) {
    require(is_width(bits[i]), name, "[", i, "] = ", int{bits[i]}, " is not 1, 2, 4 or 8");
  }
}

/// Throws std::invalid_argument unless the items make a problem that has a solution.
template <class Items>
AllocationSizes measure_sizes(const Items& items) {
  const std::size_t count = items.size();
  require(count <= std::numeric_limits<std::uint32_t>::max(), Items::name, ".size() = ", count,
          " exceeds 2^32 - 1");
  require(items.numel.size() == count, "numel.size() = ", items.numel.size(), " but ", Items::name,
          ".size() = ", count);
  require_widths(items.min_bits, "min_bits", count);
  require_widths(items.max_bits, "max_bits", count);
  items.validate();
  AllocationSizes sizes;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t numel = items.numel[i];
    if (numel <= 0 || numel > max_total_numel - total) {
      require(numel > 0, "numel[", i, "] = ", numel, " is not positive");
      require(false, "numel[", i, "] = ", numel, " makes a sum beyond 2^60 - 1");
    }
    total += numel;
    sizes.largest_numel = std::max(sizes.largest_numel, numel);
    sizes.are_equal &= numel == items.numel[0];
  }
  sizes.least_bits = total;
  if (!items.are_default()) {
    sizes.least_bits = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const int narrowest = bits_at(items.narrowest(i));
      const int widest = bits_at(items.widest(i));
      require(narrowest <= widest, "min_bits[", i, "] = ", narrowest, " exceeds max_bits[", i,
              "] = ", widest);
      sizes.least_bits += items.numel[i] * narrowest;
    }
  }
  require(sizes.least_bits <= items.bit_budget, "bit_budget = ", items.bit_budget,
          " but the narrowest widths take ", sizes.least_bits, " bits");
  return sizes;
}

}  // namespace actpack::detail
