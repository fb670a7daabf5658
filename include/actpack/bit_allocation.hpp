// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Which width each row, group or layer gets: the least variance of the gradient under a budget of
// bits, with a bound that certifies it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/allocation/thread_block.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/knapsack_search.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/allocation/sensitivity_bins.hpp"
#include "actpack/detail/allocation/step_list.hpp"
#include "actpack/detail/allocation/variance_sum.hpp"
#include "actpack/detail/allocation/workspace.hpp"

namespace actpack {

/// Items whose variance is sensitivity / (2^bits − 1)² at a width; see rounding_sensitivity and the
/// gains in variance.hpp.
struct AllocationProblem {
  std::span<const double> sensitivity;          // [host, items] not negative, finite
  std::span<const std::int64_t> numel;          // [host, items] values in each item, positive
  std::int64_t bit_budget = 0;                  // Σ numel · bits must not exceed it
  std::span<const std::uint8_t> min_bits = {};  // [host, items] widths, or empty: 1 for all
  std::span<const std::uint8_t> max_bits = {};  // [host, items] widths, or empty: 8 for all
};

/// The same for items whose variance was measured at each width; see measure_rounding_noise.
struct MeasuredAllocationProblem {
  std::span<const std::array<double, 4>> variance;  // [host, items] in the order of `widths`
  std::span<const std::int64_t> numel;
  std::int64_t bit_budget = 0;
  std::span<const std::uint8_t> min_bits = {};
  std::span<const std::uint8_t> max_bits = {};
};

/// What widths come to.
struct AllocationTotals {
  std::int64_t bits_used = 0;  // Σ numel · bits
  double variance = 0;         // Σ over items
  double lower_bound = 0;      // no widths within the budget have less variance than this
};

struct Allocation {
  std::vector<std::uint8_t> bits;  // 1, 2, 4 or 8 for each item
  std::int64_t bits_used = 0;
  double variance = 0;
  double lower_bound = 0;
};

namespace detail {

/// Up to so many items, all of them go to the knapsack at once.
inline constexpr std::size_t few_items = 2048;

/// Whether bins of sensitivity keep most items out of sight, and with them the losses of changes
/// that are not among the nearest.
template <class Items>
ACTPACK_HD bool is_partial(const Items& items) {
  return Items::has_bins && items.size() > few_items && !items.has_limits();
}

/// Every item gets the widest width that all can have; narrower or wider where its limits say so.
template <class Items>
KnapsackSolution allocate_evenly(const Items& items, std::span<std::uint8_t> bits) {
  for (int width = 3;; --width) {
    std::int64_t cost = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const int own = bits_at(items.allowed_place(i, width));
      bits[i] = static_cast<std::uint8_t>(own);
      cost += items.numel[i] * own;
    }
    if (cost <= items.bit_budget || width == 0) {
      return {.unused = items.bit_budget - cost, .is_best = true};
    }
  }
}

/// The list 0, 1, 2 …
struct AllItems {
  std::size_t count;

  std::size_t size() const { return count; }
  std::size_t operator[](std::size_t i) const { return i; }
};

/// What solving takes from a workspace.
struct AllocationMemory {
  AllocationMemory(Workspace memory, std::size_t items, bool has_limits)
      : steps(memory, items), bins(memory, items > few_items ? items : 0, has_limits),
        sums(memory.take<double>(strands_for(items))),
        search{memory
                   .take<SearchState>(
                       2 * static_cast<std::size_t>(states_for(static_cast<std::int64_t>(items))))
                   .data(),
               memory.take<SearchRecord>(max_records).data(), nullptr},
        bytes(memory.size()) {}

  StepList steps;
  SensitivityBins bins;
  std::span<double> sums;
  SearchMemory search;
  std::size_t bytes;  // needed, wherever the workspace starts
};

/// Takes the steps that the budget buys, and searches changes to the `candidates` for the best use
/// of the rest.
template <class Items, class Candidates>
KnapsackSolution solve(const Items& items, const Candidates& candidates, bool has_equal_sizes,
                       std::int64_t budget, AllocationMemory& memory,
                       std::span<std::uint8_t> bits) {
  const double price = memory.steps.take(budget, bits);
  if (price == 0) return {.unused = budget, .is_best = true};  // all have their least variance
  NearestChanges nearest;
  for (std::size_t k = 0; k < candidates.size(); ++k) {
    const std::int64_t i = static_cast<std::int64_t>(candidates[k]);
    nearest.insert_wider(items(i), i, width_place(bits[candidates[k]]), price);
  }
  for (std::size_t k = candidates.size(); k-- > 0;) {
    const std::int64_t i = static_cast<std::int64_t>(candidates[k]);
    nearest.insert_narrower(items(i), i, width_place(bits[candidates[k]]), price);
  }
  SearchCore<typename Items::Item> core;
  KnapsackSearch search(SoloCrew(), items, memory.search, core);
  return search.solve(nearest.data(), is_partial(items) ? 0 : nearest.least_left_out(), price,
                      budget, has_equal_sizes, bits.data());
}

/// Finds the widths by looking at every item's steps.
template <class Items>
KnapsackSolution solve_directly(const Items& items, const AllocationSizes& sizes,
                                AllocationMemory& memory, std::span<std::uint8_t> bits) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto item = items(static_cast<std::int64_t>(i));
    bits[i] = static_cast<std::uint8_t>(bits_at(item.narrowest));
    for_each_step(item, [&](double gain, int from, int to) {
      memory.steps.add({gain, item.cost(from, to), i, from, to});
    });
  }
  return solve(items, AllItems{items.size()}, sizes.are_equal, items.bit_budget - sizes.least_bits,
               memory, bits);
}

/// Finds the same widths by looking only at steps next to the price.
inline KnapsackSolution solve_by_bins(const SensitiveItems& items, const AllocationSizes& sizes,
                                      AllocationMemory& memory, std::span<std::uint8_t> bits) {
  SensitivityBins& bins = memory.bins;
  bins.fill(items);
  bins.set_windows(items.bit_budget - sizes.least_bits, sizes.largest_numel);
  const std::span<const std::uint32_t> candidates = bins.decide(items, memory.steps, bits);
  const std::int64_t budget = items.bit_budget - sizes.least_bits - bins.cost_above_windows();
  // With limits, an item next to the price may lack the very change that the search could use.
  return is_partial(items)
             ? solve(items, candidates, sizes.are_equal, budget, memory, bits)
             : solve(items, AllItems{items.size()}, sizes.are_equal, budget, memory, bits);
}

inline std::size_t allocation_workspace(std::size_t items) {
  return AllocationMemory(Workspace(), items, true).bytes;
}

template <class Items>
AllocationTotals allocate(const Items& items, std::span<std::uint8_t> bits,
                          std::span<std::byte> workspace) {
  const AllocationSizes sizes = measure_sizes(items);
  const std::size_t count = items.size();
  require(bits.size() == count, "bits.size() = ", bits.size(), " but there are ", count, " items");
  const std::size_t needed = allocation_workspace(count);
  require(workspace.size() >= needed, "workspace.size() = ", workspace.size(), " but ", needed,
          " bytes are needed");
  AllocationMemory memory(Workspace(workspace), count, items.has_limits());
  KnapsackSolution solution;
  if (are_noiseless(items)) {
    solution = allocate_evenly(items, bits);
  } else if constexpr (Items::has_bins) {
    solution = count > few_items ? solve_by_bins(items, sizes, memory, bits)
                                 : solve_directly(items, sizes, memory, bits);
  } else {
    solution = solve_directly(items, sizes, memory, bits);
  }
  const double variance = sum_variances(items, bits.data(), memory.sums);
  return {items.bit_budget - solution.unused, variance, lower_bound_of(variance, solution)};
}

template <class Items>
Allocation allocate(const Items& items) {
  const std::size_t bytes = allocation_workspace(items.size());
  const auto workspace = std::make_unique_for_overwrite<std::byte[]>(bytes);
  Allocation allocation{.bits = std::vector<std::uint8_t>(items.size())};
  const AllocationTotals totals = allocate(items, allocation.bits, {workspace.get(), bytes});
  allocation.bits_used = totals.bits_used;
  allocation.variance = totals.variance;
  allocation.lower_bound = totals.lower_bound;
  return allocation;
}

/// What both forms of a problem have in common. Throws std::invalid_argument if lengths differ.
template <class Problem>
AllocationItems common_items_of(const Problem& problem, const char* name, std::size_t count) {
  require(count <= std::numeric_limits<std::uint32_t>::max(), name, ".size() = ", count,
          " exceeds 2^32 - 1");
  require(problem.numel.size() == count, "numel.size() = ", problem.numel.size(), " but ", name,
          ".size() = ", count);
  const auto widths_of = [&](std::span<const std::uint8_t> bits, const char* limits) {
    require(bits.empty() || bits.size() == count, limits, ".size() = ", bits.size(),
            " but there are ", count, " items");
    return bits.empty() ? nullptr : bits.data();
  };
  return {count, problem.numel.data(), problem.bit_budget, widths_of(problem.min_bits, "min_bits"),
          widths_of(problem.max_bits, "max_bits")};
}

inline SensitiveItems items_of(const AllocationProblem& problem) {
  return {common_items_of(problem, "sensitivity", problem.sensitivity.size()),
          problem.sensitivity.data()};
}
inline MeasuredItems items_of(const MeasuredAllocationProblem& problem) {
  return {common_items_of(problem, "variance", problem.variance.size()),
          reinterpret_cast<const double*>(problem.variance.data())};
}

}  // namespace detail

/// Returns the widths of least total variance within a budget of bits.
///
/// Exact for items of one size, however many, and for up to 8 of any sizes; up to some hundred it
/// often is. Beyond, the widths are those at one price per bit, and what is left of the
/// budget is spent by a search among the items next to it. `lower_bound` certifies every answer: it
/// equals `variance` where that is proven to be the least, and is the Lagrangian bound otherwise.
/// Of equal items the first are the widest. A sensitivity of 0 gives the narrowest width; if all
/// are 0, all items get the widest width that fits for all. Multiplying all sensitivities by a
/// power of two changes no width. (That and `lower_bound` ask for doubles that do not underflow:
/// sensitivities of 0, or of 2^-900 and more per value.)
///
/// Throws std::invalid_argument if lengths differ, a sensitivity is NaN, negative or beyond 2^960,
/// a size is not positive or they add up to 2^60 or more, a limit is not a width, or the budget
/// is less than the narrowest widths take. No items: an empty answer. Deterministic. Allocates the
/// answer and a workspace. Source: ActNN, section 4.3, problem (10); the method is that of Dyer and
/// of Pisinger for the multiple-choice knapsack.
inline Allocation allocate_bits(const AllocationProblem& problem) {
  return detail::allocate(detail::items_of(problem));
}

/// The same for variances measured at each width, which need neither fall nor be convex.
inline Allocation allocate_measured_bits(const MeasuredAllocationProblem& problem) {
  return detail::allocate(detail::items_of(problem));
}

/// Returns the bytes of host memory that the two functions below need for so many items. Throws
/// std::invalid_argument if `items` is not in [0, 2^32 - 1].
inline std::size_t allocate_bits_workspace(std::int64_t items) {
  detail::require(items >= 0, "items = ", items, " is negative");
  detail::require(items <= std::numeric_limits<std::uint32_t>::max(), "items = ", items,
                  " exceeds 2^32 - 1");
  return detail::allocation_workspace(static_cast<std::size_t>(items));
}

/// The same without allocating: writes the widths to `bits` [host, items]. `workspace` [host] has
/// at least allocate_bits_workspace(items) bytes, aligned as it may be; what is in it does not
/// matter. Nothing is written before an error is thrown.
inline AllocationTotals allocate_bits(const AllocationProblem& problem,
                                      std::span<std::uint8_t> bits,
                                      std::span<std::byte> workspace) {
  return detail::allocate(detail::items_of(problem), bits, workspace);
}

inline AllocationTotals allocate_measured_bits(const MeasuredAllocationProblem& problem,
                                               std::span<std::uint8_t> bits,
                                               std::span<std::byte> workspace) {
  return detail::allocate(detail::items_of(problem), bits, workspace);
}

}  // namespace actpack
