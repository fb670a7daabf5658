// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The items of a bit allocation as the solver sees them, and the checks that they pass first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "actpack/allocation_problem.hpp"
#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// An item's number has 32 bits.
inline constexpr std::int64_t max_items = (std::numeric_limits<std::uint32_t>::max)();

/// With no more items than this, the solver looks at every step of every item.
inline constexpr std::size_t few_items = 2048;

/// Sizes may add up to this, so that no sum of bits overflows.
inline constexpr std::int64_t max_total_numel = (std::numeric_limits<std::int64_t>::max)() / 8;

/// Variances may reach this: times any number of bits they are still finite.
inline constexpr double max_variance = 0x1p960;

/// A sum of sizes that may be too large. It keeps the low and the high halves of the sizes apart:
/// of up to 2^32 sizes, neither sum can overflow.
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

/// Common to both kinds of problem. The memory belongs to the host or to the device,
/// wherever the items are asked for.
struct AllocationItems {
  std::size_t count;
  const std::int64_t* numel;
  std::int64_t bit_budget;
  const std::uint8_t* min_bits;  // null: 1 for all
  const std::uint8_t* max_bits;  // null: 8 for all

  ACTPACK_HD std::size_t size() const { return count; }
  ACTPACK_HD bool has_limits() const { return min_bits != nullptr || max_bits != nullptr; }
  ACTPACK_HD int narrowest(std::size_t i) const {
    return min_bits == nullptr ? 0 : index_of_width(min_bits[i]);
  }
  ACTPACK_HD int widest(std::size_t i) const {
    return max_bits == nullptr ? num_widths - 1 : index_of_width(max_bits[i]);
  }
  /// The width nearest to `width_index` that the item may have.
  ACTPACK_HD int allowed_index(std::size_t i, int width_index) const {
    const int at_least = width_index < narrowest(i) ? narrowest(i) : width_index;
    return at_least > widest(i) ? widest(i) : at_least;
  }
  /// Whether the limits of the item are widths and leave it one.
  ACTPACK_HD bool has_width(std::size_t i) const {
    return (min_bits == nullptr || is_width(min_bits[i])) &&
           (max_bits == nullptr || is_width(max_bits[i])) && narrowest(i) <= widest(i);
  }
  ACTPACK_HD KnapsackItem item_at(std::size_t i) const {
    return {numel[i], narrowest(i), widest(i)};
  }
};

/// (2^bits − 1)² at a width.
ACTPACK_HD constexpr double squared_levels_at(int width_index) {
  return width_index == 0 ? 1 : width_index == 1 ? 9 : width_index == 2 ? 225 : 65025;
}

/// The variance of a unit of sensitivity at a width.
ACTPACK_HD constexpr double share_at(int width_index) {
  return width_index == 0   ? 1
         : width_index == 1 ? 1.0 / 9
         : width_index == 2 ? 1.0 / 225
                            : 1.0 / 65025;
}

/// An item whose variance follows from its sensitivity.
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
    for (int w = 0; w < num_widths; ++w) {
      are_equal = are_equal && variance[w] == other.variance[w];
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
    return sensitivity[i] / squared_levels_at(index_of_width(bits));
  }
  ACTPACK_HD bool is_valid(std::size_t i) const {
    return sensitivity[i] >= 0 && sensitivity[i] <= max_variance;
  }
  ACTPACK_HD bool is_noiseless(std::size_t i) const { return sensitivity[i] == 0; }

  void refuse(std::size_t i) const {
    refuse_unless(is_valid(i), "sensitivity[", i, "] = ", sensitivity[i], " is not in [0, 2^960]");
  }
};

struct MeasuredItems : AllocationItems {
  const double* table;  // [items][num_widths]

  using Item = MeasuredItem;
  static constexpr bool has_bins = false;

  ACTPACK_HD double variance_at(std::size_t i, int width_index) const {
    return table[num_widths * i + static_cast<std::size_t>(width_index)];
  }
  ACTPACK_HD MeasuredItem operator()(std::int64_t i) const {
    MeasuredItem item{item_at(static_cast<std::size_t>(i))};
    for (int w = 0; w < num_widths; ++w) {
      item.variance[w] = variance_at(static_cast<std::size_t>(i), w);
    }
    return item;
  }
  ACTPACK_HD double variance(std::size_t i, int bits) const {
    return variance_at(i, index_of_width(bits));
  }
  ACTPACK_HD bool is_valid(std::size_t i) const {
    bool valid = true;
    for (int w = 0; w < num_widths; ++w) {
      valid = valid && variance_at(i, w) >= 0 && variance_at(i, w) <= max_variance;
    }
    return valid;
  }
  ACTPACK_HD bool is_noiseless(std::size_t i) const {
    bool noiseless = true;
    for (int w = 0; w < num_widths; ++w) {
      noiseless = noiseless && variance_at(i, w) == 0;
    }
    return noiseless;
  }

  void refuse(std::size_t i) const {
    for (int w = 0; w < num_widths; ++w) {
      const double v = variance_at(i, w);
      refuse_unless(v >= 0 && v <= max_variance, "variance[", i, "][", w, "] = ", v,
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

/// Whether bins of sensitivity hide most items from the search, and with them the losses of changes
/// that are not among the nearest.
template <class Items>
ACTPACK_HD bool hides_items(const Items& items) {
  return Items::has_bins && items.size() > few_items && !items.has_limits();
}

/// The sizes and limits of all items together.
struct AllocationSizes {
  std::int64_t largest_numel = 0;
  bool are_equal = true;
  std::int64_t least_bits = 0;  // Σ numel · min_bits
};

inline void require_widths(const std::uint8_t* bits, const char* name, std::size_t items) {
  if (bits == nullptr) return;
  for (std::size_t i = 0; i < items; ++i) {
    refuse_unless(is_width(bits[i]), name, "[", i, "] = ", int{bits[i]}, " is not 1, 2, 4 or 8");
  }
}

/// Throws std::invalid_argument for the first item that is wrong.
template <class Items>
void refuse(const Items& items) {
  for (std::size_t i = 0; i < items.size(); ++i) items.refuse(i);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t numel = items.numel[i];
    refuse_unless(numel > 0, "numel[", i, "] = ", numel, " is not positive");
    refuse_unless(numel <= max_total_numel - total, "numel[", i, "] = ", numel,
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
  // The first pass, without branches, sees whether anything is wrong; refuse() finds it.
  AllocationSizes sizes;
  bool are_valid = true;
  SizeSum sum;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t numel = items.numel[i];
    are_valid &= items.is_valid(i) & (numel > 0);
    sum.add(numel);
    sizes.largest_numel = (std::max)(sizes.largest_numel, numel);
    sizes.are_equal &= numel == items.numel[0];
  }
  if (!are_valid || !sum.is_allowed()) refuse(items);
  sizes.least_bits = sum.total();
  if (items.has_limits()) {
    sizes.least_bits = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const int narrowest = bits_at(items.narrowest(i));
      const int widest = bits_at(items.widest(i));
      refuse_unless(narrowest <= widest, "min_bits[", i, "] = ", narrowest, " exceeds max_bits[", i,
                    "] = ", widest);
      sizes.least_bits += items.numel[i] * narrowest;
    }
  }
  refuse_unless(sizes.least_bits <= items.bit_budget, "bit_budget = ", items.bit_budget,
                " but the narrowest widths take ", sizes.least_bits, " bits");
  return sizes;
}

/// Returns the items of a problem of either kind, without its variances. Throws
/// std::invalid_argument if lengths differ.
template <class Problem>
AllocationItems common_items_of(const Problem& problem, const char* name, std::size_t count) {
  refuse_unless(count <= static_cast<std::size_t>(max_items), name, ".size() = ", count,
                " exceeds 2^32 - 1");
  refuse_unless(problem.numel.size() == count, "numel.size() = ", problem.numel.size(), " but ",
                name, ".size() = ", count);
  const auto limits_of = [&](std::span<const std::uint8_t> bits, const char* limits) {
    refuse_unless(bits.empty() || bits.size() == count, limits, ".size() = ", bits.size(),
                  " but there are ", count, " items");
    return bits.empty() ? nullptr : bits.data();
  };
  return {count, problem.numel.data(), problem.bit_budget, limits_of(problem.min_bits, "min_bits"),
          limits_of(problem.max_bits, "max_bits")};
}

inline SensitiveItems items_of(const AllocationProblem& problem) {
  return {common_items_of(problem, "sensitivity", problem.sensitivity.size()),
          problem.sensitivity.data()};
}
inline MeasuredItems items_of(const MeasuredAllocationProblem& problem) {
  return {common_items_of(problem, "variance", problem.variance.size()),
          reinterpret_cast<const double*>(problem.variance.data())};
}

}  // namespace actpack::detail
