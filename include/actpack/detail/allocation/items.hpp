// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The items of a bit allocation as the solver sees them, and what is refused of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::detail {

/// Sizes may add up to this, so that no sum of bits overflows.
inline constexpr std::int64_t max_total_numel = std::numeric_limits<std::int64_t>::max() / 8;

/// Variances may reach this: times all bits that there can be it is still finite.
inline constexpr double max_variance = 0x1p960;

/// The sum of sizes that may be too large, by their low and high halves: of up to 2^32 sizes, the
/// sums of those cannot overflow.
struct SizeSum {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  ACTPACK_HD void add(std::int64_t numel) {
    low += static_cast<std::uint64_t>(numel) & 0xFFFFFFFF;
    high += static_cast<std::uint64_t>(numel) >> 32;
  }
  ACTPACK_HD bool is_allowed() const { return high + (low >> 32) <= max_total_numel >> 32; }
  /// Precondition: is_allowed().
  ACTPACK_HD std::int64_t total() const { return static_cast<std::int64_t>((high << 32) + low); }
};

/// What both forms of a problem have in common. The memory is the host's or a device's, whoever
/// asks for items.
struct AllocationItems {
  std::size_t count;
  const std::int64_t* numel;
  std::int64_t bit_budget;
  const std::uint8_t* min_bits;  // null: 1 for all
  const std::uint8_t* max_bits;  // null: 8 for all

  ACTPACK_HD std::size_t size() const { return count; }
  ACTPACK_HD bool has_limits() const { return min_bits != nullptr || max_bits != nullptr; }
  ACTPACK_HD int narrowest(std::size_t i) const {
    return min_bits == nullptr ? 0 : width_place(min_bits[i]);
  }
  ACTPACK_HD int widest(std::size_t i) const {
    return max_bits == nullptr ? num_widths - 1 : width_place(max_bits[i]);
  }
  /// The place of the width next to that of `place` which the item may have.
  ACTPACK_HD int allowed_place(std::size_t i, int place) const {
    return place < narrowest(i) ? narrowest(i) : place > widest(i) ? widest(i) : place;
  }
  /// Whether there is one.
  ACTPACK_HD bool has_width(std::size_t i) const {
    return (min_bits == nullptr || is_width(min_bits[i])) &&
           (max_bits == nullptr || is_width(max_bits[i])) && narrowest(i) <= widest(i);
  }
  ACTPACK_HD KnapsackItem item_at(std::size_t i) const {
    return {numel[i], narrowest(i), widest(i)};
  }
};

/// (2^bits − 1)² at the width in a place.
ACTPACK_HD constexpr double squared_levels_at(int place) {
  return place == 0 ? 1 : place == 1 ? 9 : place == 2 ? 225 : 65025;
}

/// The variance of a unit of sensitivity at the width in a place.
ACTPACK_HD constexpr double share_at(int place) {
  return place == 0 ? 1 : place == 1 ? 1.0 / 9 : place == 2 ? 1.0 / 225 : 1.0 / 65025;
}

/// An item of the closed form.
struct SensitiveItem : KnapsackItem {
  double sensitivity = 0;

  static constexpr bool is_convex = true;

  ACTPACK_HD double saving(int from, int to) const {
    return product(sensitivity, share_at(from) - share_at(to));
  }
  ACTPACK_HD bool operator==(const SensitiveItem& other) const {
    return numel == other.numel && sensitivity == other.sensitivity &&
           narrowest == other.narrowest && widest == other.widest;
  }
};

/// An item with a variance of its own at every width.
struct MeasuredItem : KnapsackItem {
  double variance[num_widths] = {};

  static constexpr bool is_convex = false;

  ACTPACK_HD double saving(int from, int to) const { return variance[from] - variance[to]; }
  ACTPACK_HD bool operator==(const MeasuredItem& other) const {
    bool are_equal = numel == other.numel && narrowest == other.narrowest && widest == other.widest;
    for (int place = 0; place < num_widths; ++place) {
      are_equal = are_equal && variance[place] == other.variance[place];
    }
    return are_equal;
  }
};

struct SensitiveItems : AllocationItems {
  const double* sensitivity;

  using Item = SensitiveItem;
  static constexpr bool has_bins = true;  // of sensitivity: see SensitivityBins

  ACTPACK_HD SensitiveItem operator()(std::int64_t i) const {
    return {item_at(static_cast<std::size_t>(i)), sensitivity[i]};
  }
  ACTPACK_HD double variance(std::size_t i, int bits) const {
    return sensitivity[i] / squared_levels_at(width_place(bits));
  }
  ACTPACK_HD bool is_valid(std::size_t i) const {
    return sensitivity[i] >= 0 && sensitivity[i] <= max_variance;
  }
  ACTPACK_HD bool is_noiseless(std::size_t i) const { return sensitivity[i] == 0; }

  void refuse(std::size_t i) const {
    require(is_valid(i), "sensitivity[", i, "] = ", sensitivity[i], " is not in [0, 2^960]");
  }
};

struct MeasuredItems : AllocationItems {
  const double* table;  // [items][num_widths]

  using Item = MeasuredItem;
  static constexpr bool has_bins = false;

  ACTPACK_HD double variance_at(std::size_t i, int place) const {
    return table[num_widths * i + static_cast<std::size_t>(place)];
  }
  ACTPACK_HD MeasuredItem operator()(std::int64_t i) const {
    MeasuredItem item{item_at(static_cast<std::size_t>(i))};
    for (int place = 0; place < num_widths; ++place) {
      item.variance[place] = variance_at(static_cast<std::size_t>(i), place);
    }
    return item;
  }
  ACTPACK_HD double variance(std::size_t i, int bits) const {
    return variance_at(i, width_place(bits));
  }
  ACTPACK_HD bool is_valid(std::size_t i) const {
    bool valid = true;
    for (int place = 0; place < num_widths; ++place) {
      valid = valid && variance_at(i, place) >= 0 && variance_at(i, place) <= max_variance;
    }
    return valid;
  }
  ACTPACK_HD bool is_noiseless(std::size_t i) const {
    bool noiseless = true;
    for (int place = 0; place < num_widths; ++place) {
      noiseless = noiseless && variance_at(i, place) == 0;
    }
    return noiseless;
  }

  void refuse(std::size_t i) const {
    for (int place = 0; place < num_widths; ++place) {
      const double v = variance_at(i, place);
      require(v >= 0 && v <= max_variance, "variance[", i, "][", place, "] = ", v,
              " is not in [0, 2^960]");
    }
  }
};

template <class Items>
bool are_noiseless(const Items& items) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items.is_noiseless(i)) return false;
  }
  return true;
}

/// What the sizes and limits of all items come to.
struct AllocationSizes {
  std::int64_t largest_numel = 0;
  bool are_equal = true;
  std::int64_t least_bits = 0;  // Σ numel · min_bits
};

inline void require_widths(const std::uint8_t* bits, const char* name, std::size_t items) {
  if (bits == nullptr) return;
  for (std::size_t i = 0; i < items; ++i) {
    require(is_width(bits[i]), name, "[", i, "] = ", int{bits[i]}, " is not 1, 2, 4 or 8");
  }
}

/// Throws std::invalid_argument for the first item that is wrong.
template <class Items>
void refuse(const Items& items) {
  for (std::size_t i = 0; i < items.size(); ++i) items.refuse(i);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t numel = items.numel[i];
    require(numel > 0, "numel[", i, "] = ", numel, " is not positive");
    require(numel <= max_total_numel - total, "numel[", i, "] = ", numel,
            " makes a sum beyond 2^60 - 1");
    total += numel;
  }
}

/// Throws std::invalid_argument unless the items, in the host's memory, make a problem that has a
/// solution.
template <class Items>
AllocationSizes measure_sizes(const Items& items) {
  const std::size_t count = items.size();
  require_widths(items.min_bits, "min_bits", count);
  require_widths(items.max_bits, "max_bits", count);
  // One pass, without branches, to see whether something is wrong, another one to find it.
  AllocationSizes sizes;
  bool are_valid = true;
  SizeSum sum;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t numel = items.numel[i];
    are_valid &= items.is_valid(i) & (numel > 0);
    sum.add(numel);
    sizes.largest_numel = std::max(sizes.largest_numel, numel);
    sizes.are_equal &= numel == items.numel[0];
  }
  if (!are_valid || !sum.is_allowed()) refuse(items);
  sizes.least_bits = sum.total();
  if (items.has_limits()) {
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
