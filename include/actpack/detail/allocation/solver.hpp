// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Bit allocation on the host, from items to widths.
//
//   measure_sizes          refuses what makes no problem                        items.hpp
//   list_steps             lists the steps from width to width that are         solver.hpp,
//                          in doubt, and takes those that are not sensitivity_bins.hpp
//   StepList::take         takes the steps of greatest gain that the budget     step_list.hpp
//                          buys; the gain of the next is the price per bit
//   NearestChanges         keeps the changes of width nearest to that price     knapsack.hpp
//   KnapsackSearch::solve  finds their best use of what is left                 knapsack_search.hpp
//   sum_variances          adds up the answer                                   variance_sum.hpp
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/allocation_problem.hpp"
#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/knapsack_search.hpp"
#include "actpack/detail/allocation/sensitivity_bins.hpp"
#include "actpack/detail/allocation/step_list.hpp"
#include "actpack/detail/allocation/thread_block.hpp"
#include "actpack/detail/allocation/variance_sum.hpp"
#include "actpack/detail/allocation/workspace.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The arrays that solving takes from a workspace.
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

inline std::size_t allocation_workspace(std::size_t items) {
  return AllocationMemory(Workspace(), items, true).bytes;
}

/// The decisions that remain once steps are listed.
struct OpenQuestion {
  std::span<const std::uint32_t> candidates;  // items that may change; null: all of them
  std::int64_t budget;                        // bits for the listed steps
};

/// Sets all `bits` to the narrowest widths and lists every step.
template <class Items>
OpenQuestion list_all_steps(const Items& items, const AllocationSizes& sizes,
                            AllocationMemory& memory, std::span<std::uint8_t> bits) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto item = items(static_cast<std::int64_t>(i));
    bits[i] = static_cast<std::uint8_t>(bits_at(item.narrowest));
    for_each_step(item, [&](double gain, int from, int to) {
      memory.steps.add({gain, item.cost(from, to), i, from, to});
    });
  }
  return {{}, items.bit_budget - sizes.least_bits};
}

/// Takes all steps far above the price, and lists those next to it. The widths in the end are the
/// same.
inline OpenQuestion list_steps_by_bins(const SensitiveItems& items, const AllocationSizes& sizes,
                                       AllocationMemory& memory, std::span<std::uint8_t> bits) {
  SensitivityBins& bins = memory.bins;
  bins.fill(items);
  bins.set_windows(items.bit_budget - sizes.least_bits, sizes.largest_numel);
  const std::span<const std::uint32_t> candidates = bins.decide(items, memory.steps, bits);
  const std::int64_t budget = items.bit_budget - sizes.least_bits - bins.cost_above_windows();
  // With limits, an item next to the price may lack the very change that the search could use.
  return {hides_items(items) ? candidates : std::span<const std::uint32_t>(), budget};
}

template <class Items>
OpenQuestion list_steps(const Items& items, const AllocationSizes& sizes, AllocationMemory& memory,
                        std::span<std::uint8_t> bits) {
  if constexpr (Items::has_bins) {
    if (items.size() > few_items) return list_steps_by_bins(items, sizes, memory, bits);
  }
  return list_all_steps(items, sizes, memory, bits);
}

/// Takes the listed steps that the budget buys, and searches changes to the candidates for the best
/// use of what is left.
template <class Items>
KnapsackSolution spend(const OpenQuestion& open, const Items& items, bool has_equal_sizes,
                       AllocationMemory& memory, std::span<std::uint8_t> bits) {
  std::int64_t budget = open.budget;
  const double price = memory.steps.take(budget, bits);
  if (price == 0) return {.unused = budget, .is_best = true};  // all have their least variance
  const std::uint32_t* const candidates = open.candidates.data();
  const std::size_t count = candidates == nullptr ? items.size() : open.candidates.size();
  const auto candidate = [&](std::size_t k) {
    return static_cast<std::int64_t>(candidates == nullptr ? k : candidates[k]);
  };
  NearestChanges nearest;
  for (std::size_t k = 0; k < count; ++k) {
    const std::int64_t i = candidate(k);
    nearest.insert_wider(items(i), i, index_of_width(bits[static_cast<std::size_t>(i)]), price);
  }
  for (std::size_t k = count; k-- > 0;) {
    const std::int64_t i = candidate(k);
    nearest.insert_narrower(items(i), i, index_of_width(bits[static_cast<std::size_t>(i)]), price);
  }
  SearchCore<typename Items::Item> core;
  KnapsackSearch<OneThread, Items> search(OneThread(), items, memory.search, core);
  return search.solve(nearest.data(), hides_items(items) ? 0 : nearest.least_left_out(), price,
                      budget, has_equal_sizes, bits.data());
}

/// Gives every item the widest width that all can have, or the nearest that its limits allow.
template <class Items>
KnapsackSolution give_one_width(const Items& items, std::span<std::uint8_t> bits) {
  for (int width_index = num_widths - 1;; --width_index) {
    std::int64_t cost = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const int own = bits_at(items.allowed_index(i, width_index));
      bits[i] = static_cast<std::uint8_t>(own);
      cost += items.numel[i] * own;
    }
    if (cost <= items.bit_budget || width_index == 0) {
      return {.unused = items.bit_budget - cost, .is_best = true};
    }
  }
}

template <class Items>
AllocationTotals allocate(const Items& items, std::span<std::uint8_t> bits,
                          std::span<std::byte> workspace) {
  const AllocationSizes sizes = measure_sizes(items);
  const std::size_t count = items.size();
  refuse_unless(bits.size() == count, "bits.size() = ", bits.size(), " but there are ", count,
                " items");
  const std::size_t needed = allocation_workspace(count);
  refuse_unless(workspace.size() >= needed, "workspace.size() = ", workspace.size(), " but ",
                needed, " bytes are needed");
  AllocationMemory memory(Workspace(workspace), count, items.has_limits());
  const KnapsackSolution solution =
      are_noiseless(items)
          ? give_one_width(items, bits)
          : spend(list_steps(items, sizes, memory, bits), items, sizes.are_equal, memory, bits);
  const double variance = sum_variances(items, bits.data(), memory.sums);
  return {items.bit_budget - solution.unused, variance, lower_bound_of(variance, solution)};
}

template <class Items>
Allocation allocate(const Items& items) {
  const UninitialisedBytes workspace(allocation_workspace(items.size()));
  Allocation allocation{.bits = std::vector<std::uint8_t>(items.size())};
  const AllocationTotals totals = allocate(items, allocation.bits, workspace.span());
  allocation.bits_used = totals.bits_used;
  allocation.variance = totals.variance;
  allocation.lower_bound = totals.lower_bound;
  return allocation;
}

}  // namespace actpack::detail
