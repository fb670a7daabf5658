// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The kernels of bit allocation on the device, which the host never waits for. Radix selection
// finds the price per bit, one digit at a time; next to that price, the device does what the host
// does. Devices and tests on the host compile the same source.
//
// The search at the end is one block's work for an answer equal to the host's, bit for bit: see
// knapsack_search.hpp for what it gains, and why not to extend it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "actpack/allocation_problem.hpp"
#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/knapsack_search.hpp"
#include "actpack/detail/allocation/variance_sum.hpp"
#include "actpack/detail/allocation/workspace.hpp"
#include "device_thread_block.hpp"

namespace actpack::detail {

// The digits of a gain are bits of its double: doubles that are not negative are ordered as their
// 64 bits are.
inline constexpr int num_digits = 6;
inline constexpr int digit_bits = 11;
inline constexpr int num_bins = 1 << digit_bits;

/// The position of a digit's lowest bit. The last digit has fewer bits.
ACTPACK_HD constexpr int shift_of(int digit) {
  return digit + 1 == num_digits ? 0 : 64 - digit_bits * (digit + 1);
}
ACTPACK_HD constexpr int bin_of(std::uint64_t gain_bits, int digit) {
  return static_cast<int>(gain_bits >> shift_of(digit) & (num_bins - 1));
}
static_assert(shift_of(num_digits - 2) < digit_bits);

ACTPACK_HD inline std::uint64_t bits_of(double value) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Sums over all items: they tell what the host would refuse, and what needs no search.
struct ItemCounts {
  SizeSum numel;
  std::uint64_t bits_at_width[num_widths] =
      {};                     // if all items had this width, or the nearest allowed
  std::uint64_t invalid = 0;  // items
  std::uint64_t noisy = 0;
  std::uint64_t of_other_size = 0;  // than the first

  ACTPACK_HD std::int64_t total_bits(int width_index) const {
    return static_cast<std::int64_t>(bits_at_width[width_index]);
  }
  ACTPACK_HD bool have_solution(std::int64_t bit_budget) const {
    return invalid == 0 && numel.is_allowed() && total_bits(0) <= bit_budget;
  }
  ACTPACK_HD int even_width_index(std::int64_t bit_budget) const {
    int width_index = num_widths - 1;
    while (width_index > 0 && total_bits(width_index) > bit_budget) --width_index;
    return width_index;
  }

  /// Calls f(a's sum, b's) for every sum.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD static void for_each_pair(ItemCounts& a, const ItemCounts& b, const F& f) {
    f(a.numel.low, b.numel.low);
    f(a.numel.high, b.numel.high);
    for (int w = 0; w < num_widths; ++w) {
      f(a.bits_at_width[w], b.bits_at_width[w]);
    }
    f(a.invalid, b.invalid);
    f(a.noisy, b.noisy);
    f(a.of_other_size, b.of_other_size);
  }
};

/// The state of the search for the price.
struct PriceSearch {
  enum Kind : std::int32_t {
    open,       // the price is a gain; its digits so far are in gain_bits
    all_taken,  // the budget buys all steps
    even,       // all widths are equally good
    none        // the problem has no solution
  };

  std::uint64_t gain_bits;
  std::int64_t budget;  // what is left for steps of gains with these digits, or for none
  Kind kind;

  ACTPACK_HD double gain() const {
    double value;
    __builtin_memcpy(&value, &gain_bits, sizeof value);
    return value;
  }
};

/// The device memory that an allocation works in.
struct DeviceAllocationMemory {
  static constexpr std::int64_t max_blocks = 256;
  static constexpr std::int64_t least_share = 1024;  // items
  static constexpr std::int64_t strands_per_block = warp_size * warp_size;
  static constexpr std::int64_t strand_blocks = num_strands / strands_per_block;

  explicit DeviceAllocationMemory(Workspace& memory, std::size_t items)
      : counts(memory.take<ItemCounts>(1).data()),
        bins(memory.take<std::uint64_t>(num_digits * num_bins).data()),
        price(memory.take<PriceSearch>(1).data()), rest(memory.take<std::int64_t>(1).data()),
        tie_offsets(memory.take<std::int64_t>(items).data()),
        nearest(memory.take<Change>(max_blocks * max_core).data()),
        least_left_out(memory.take<double>(max_blocks * num_kinds).data()),
        search{memory.take<SearchState>(2 * max_states).data(),
               memory.take<SearchRecord>(max_records).data(),
               memory.take<std::uint32_t>(num_widths * max_states).data()},
        solution(memory.take<KnapsackSolution>(1).data()),
        block_sums(memory.take<double>(strand_blocks).data()) {}

  ItemCounts* counts;
  std::uint64_t* bins;  // [num_digits][num_bins] bits of steps, by the digits of their gains
  PriceSearch* price;
  std::int64_t* rest;         // bits left when all affordable steps are taken
  std::int64_t* tie_offsets;  // [items] bits of the steps at the price of all items before
  Change* nearest;            // [max_blocks][num_kinds][max_changes]
  double* least_left_out;     // [max_blocks][num_kinds]
  SearchMemory search;
  KnapsackSolution* solution;
  double* block_sums;  // [strand_blocks]
};

/// Items first, first + 1, … of a block that shares them evenly with others.
struct ItemShare {
  std::int64_t first;
  std::int64_t count;

  ACTPACK_HD ItemShare(std::int64_t items, std::int64_t block_index, std::int64_t num_blocks) {
    const std::int64_t most = (items + num_blocks - 1) / num_blocks;
    first = block_index * most < items ? block_index * most : items;
    count = items - first < most ? items - first : most;
  }
};

/// Adds up `counts`, which are 0 before.
template <class Items>
struct CountItems {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t block_index,
                             std::int64_t num_blocks) const {
    const ItemShare share(static_cast<std::int64_t>(items.size()), block_index, num_blocks);
    block.for_each_warp(thread_block_warps, [&](const auto& warp, std::int64_t warp_index) {
      const auto of_lanes = warp.map([&](int lane) {
        ItemCounts counts;
        for (std::int64_t i = warp_index * warp_size + lane; i < share.count;
             i += thread_block_size) {
          count(static_cast<std::size_t>(share.first + i), counts);
        }
        return counts;
      });
      const ItemCounts sums = warp.reduce(of_lanes, [](ItemCounts a, const ItemCounts& b) {
        ItemCounts::for_each_pair(a, b, [](std::uint64_t& x, std::uint64_t y) { x += y; });
        return a;
      });
      warp.map([&](int lane) {
        if (lane != 0) return;
        ItemCounts::for_each_pair(
            *memory.counts, sums,
            [&](std::uint64_t& sum, std::uint64_t value) { block.add(sum, value); });
      });
    });
  }

 private:
  ACTPACK_HD void count(std::size_t i, ItemCounts& counts) const {
    const std::int64_t numel = items.numel[i];
    const bool is_valid =
        items.is_valid(i) && items.has_width(i) && numel > 0 && numel <= max_total_numel;
    if (!is_valid) {
      ++counts.invalid;
      return;
    }
    counts.numel.add(numel);
    for (int w = 0; w < num_widths; ++w) {
      const std::int64_t bits = numel * bits_at(items.allowed_index(i, w));
      counts.bits_at_width[w] += static_cast<std::uint64_t>(bits);
    }
    counts.noisy += items.is_noiseless(i) ? 0 : 1;
    counts.of_other_size += numel != items.numel[0];
  }
};

/// By one block: begins the search for the price.
template <class Items>
struct BeginPrice {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t, std::int64_t) const {
    if (!block.is_leader()) return;
    const ItemCounts counts = *memory.counts;
    const std::int64_t bit_budget = items.bit_budget;
    if (!counts.have_solution(bit_budget)) {
      *memory.price = {0, 0, PriceSearch::none};
    } else if (counts.noisy == 0) {
      *memory.price = {0, bit_budget - counts.total_bits(counts.even_width_index(bit_budget)),
                       PriceSearch::even};
    } else {
      *memory.price = {0, bit_budget - counts.total_bits(0), PriceSearch::open};
    }
  }
};

/// Adds the bits of the steps whose gains have the digits found so far to the bins of the next
/// digit.
template <class Items>
struct FillBins {
  struct Shared {
    std::uint64_t bins[num_bins];
  };

  Items items;
  DeviceAllocationMemory memory;
  int digit;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared& shared, std::int64_t block_index,
                             std::int64_t num_blocks) const {
    const PriceSearch price = *memory.price;
    if (price.kind != PriceSearch::open) return;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block_index, num_blocks);
    block.for_each(num_bins, [&](std::int64_t bin) { shared.bins[bin] = 0; });
    block.for_each(share.count, [&](std::int64_t i) {
      const auto item = items(share.first + i);
      for_each_step(item, [&](double gain, int from, int to) {
        const std::uint64_t gain_bits = bits_of(gain);
        const bool has_digits =
            digit == 0 || (gain_bits ^ price.gain_bits) >> shift_of(digit - 1) == 0;
        if (!has_digits) return;
        block.add(shared.bins[bin_of(gain_bits, digit)],
                  static_cast<std::uint64_t>(item.cost(from, to)));
      });
    });
    block.for_each(num_bins, [&](std::int64_t bin) {
      if (shared.bins[bin] != 0) block.add(memory.bins[digit * num_bins + bin], shared.bins[bin]);
    });
  }
};

/// By one block: finds the next digit of the price, which is the greatest gain whose steps do not
/// all fit into the budget.
struct FindDigit {
  struct Shared {
    PriceSearch next;
  };

  DeviceAllocationMemory memory;
  int digit;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared& shared, std::int64_t, std::int64_t) const {
    const PriceSearch price = *memory.price;
    if (price.kind != PriceSearch::open) return;
    const auto from_the_top = [](std::int64_t i) { return num_bins - 1 - i; };
    const std::uint64_t* const bins = memory.bins + digit * num_bins;
    const std::int64_t total = block.scan(
        num_bins, std::int64_t{0}, [](std::int64_t a, std::int64_t b) { return a + b; },
        [&](std::int64_t i) { return static_cast<std::int64_t>(bins[from_the_top(i)]); },
        [&](std::int64_t i, std::int64_t cost, std::int64_t before) {
          if (before > price.budget || before + cost <= price.budget) return;
          const std::uint64_t bin = static_cast<std::uint64_t>(from_the_top(i));
          shared.next = {price.gain_bits | bin << shift_of(digit), price.budget - before,
                         PriceSearch::open};
        });
    if (!block.is_leader()) return;
    *memory.price = total > price.budget
                        ? shared.next
                        : PriceSearch{0, price.budget - total, PriceSearch::all_taken};
  }
};

/// Sets `tie_offsets` to the bits of each item's own steps whose gain is the price.
template <class Items>
struct CountTies {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t block_index,
                             std::int64_t num_blocks) const {
    const PriceSearch price = *memory.price;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block_index, num_blocks);
    block.for_each(share.count, [&](std::int64_t k) {
      const std::int64_t i = share.first + k;
      std::int64_t cost = 0;
      if (price.kind == PriceSearch::open) {
        const auto item = items(i);
        for_each_step(item, [&](double gain, int from, int to) {
          if (bits_of(gain) == price.gain_bits) cost += item.cost(from, to);
        });
      }
      memory.tie_offsets[i] = cost;
    });
  }
};

/// Widens `bits` by the steps that the budget buys.
template <class Items>
struct TakeSteps {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;
  std::uint8_t* bits;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t block_index,
                             std::int64_t num_blocks) const {
    const PriceSearch price = *memory.price;
    const int even_width_index =
        price.kind == PriceSearch::even ? memory.counts->even_width_index(items.bit_budget) : 0;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block_index, num_blocks);
    block.for_each(share.count, [&](std::int64_t k) {
      const std::int64_t i = share.first + k;
      bits[i] = static_cast<std::uint8_t>(bits_at(width_index_of(i, price, even_width_index)));
    });
  }

 private:
  ACTPACK_HD int width_index_of(std::int64_t i, const PriceSearch& price,
                                int even_width_index) const {
    const std::size_t index = static_cast<std::size_t>(i);
    const int narrowest = items.narrowest(index);
    if (price.kind == PriceSearch::none) return items.has_width(index) ? narrowest : 0;
    if (price.kind == PriceSearch::even) return items.allowed_index(index, even_width_index);
    const auto item = items(i);
    std::int64_t before = memory.tie_offsets[i];
    int width_index = narrowest;
    for_each_step(item, [&](double gain, int from, int to) {
      const std::uint64_t gain_bits = bits_of(gain);
      if (price.kind == PriceSearch::all_taken || gain_bits > price.gain_bits) width_index = to;
      if (price.kind == PriceSearch::all_taken || gain_bits != price.gain_bits) return;
      const std::int64_t after = before + item.cost(from, to);
      if (after <= price.budget) {
        width_index = to;
      } else if (before <= price.budget) {  // the first that the budget does not buy
        *memory.rest = price.budget - before;
      }
      before = after;
    });
    return width_index;
  }
};

/// The nearest of many changes. A warp's first max_changes lanes hold them, in no order.
template <class Warp>
class NearestOfWarp {
 public:
  /// `becomes_wider`: whether all changes are to wider widths.
  ACTPACK_HD NearestOfWarp(const Warp& warp, bool becomes_wider)
      : warp_(warp), becomes_wider_(becomes_wider), held_(warp.map([](int lane) {
          return Held{Change(), lane, infinity};
        })),
        furthest_(find_furthest()) {}

  /// Looks at change(i) for 0 <= i < count, of which some may be unused. Fastest if the nearest of
  /// equal changes come first.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void look_at(std::int64_t count, const F& change) {
    for (std::int64_t first = 0; first < count; first += warp_.lanes()) {
      auto seen = warp_.map([&](int lane) {
        return Held{first + lane < count ? change(first + lane) : Change(), lane, 0};
      });
      for (;;) {
        const Held nearest = warp_.reduce(
            seen, [this](const Held& a, const Held& b) { return is_before(b, a) ? b : a; });
        if (!comes_first(nearest.change, furthest_.change)) break;
        held_ = warp_.map(
            [&](int lane, Held held) {
              if (lane == furthest_.lane) {
                held.least_left_out = smaller(held.least_left_out, held.change.loss);
                held.change = nearest.change;
              }
              return held;
            },
            held_);
        seen = warp_.map(
            [&](int lane, Held held) {
              if (lane == nearest.lane) held.change = Change();
              return held;
            },
            seen);
        furthest_ = find_furthest();
      }
      held_ = warp_.map(
          [&](int, Held held, const Held& own) {
            held.least_left_out = smaller(held.least_left_out, own.change.loss);
            return held;
          },
          held_, seen);
    }
  }

  /// Writes max_changes changes, of which some may be unused, and the least loss of all others.
  ACTPACK_HD void write(Change* changes, double* least_left_out) const {
    const Held least = warp_.reduce(held_, [](const Held& a, const Held& b) {
      return a.least_left_out < b.least_left_out ? a : b;
    });
    warp_.map(
        [&](int lane, const Held& held) {
          if (lane < max_changes) changes[lane] = held.change;
          if (lane == 0) *least_left_out = least.least_left_out;
        },
        held_);
  }

 private:
  struct Held {
    Change change;
    int lane;
    double least_left_out;
  };

  ACTPACK_HD static double smaller(double a, double b) { return a < b ? a : b; }
  ACTPACK_HD bool comes_first(const Change& a, const Change& b) const {
    return is_nearer(a, b, becomes_wider_);
  }
  /// Lanes break all ties, so that all lanes find the same, whatever the order of a reduction.
  ACTPACK_HD bool is_before(const Held& a, const Held& b) const {
    if (comes_first(a.change, b.change)) return true;
    return !comes_first(b.change, a.change) && a.lane < b.lane;
  }

  /// Of the first max_changes lanes.
  ACTPACK_HD Held find_furthest() const {
    return warp_.reduce(held_, [this](const Held& a, const Held& b) {
      if (a.lane >= max_changes || b.lane >= max_changes) return a.lane < b.lane ? a : b;
      return is_before(a, b) ? b : a;
    });
  }

  const Warp& warp_;
  bool becomes_wider_;
  typename Warp::template PerLane<Held> held_;
  Held furthest_;
};

/// Finds the nearest changes of each kind within a block's share of the items.
template <class Items>
struct FindNearest {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;
  const std::uint8_t* bits;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t block_index,
                             std::int64_t num_blocks) const {
    if (memory.price->kind != PriceSearch::open) return;
    const double price = memory.price->gain();
    const ItemShare share(static_cast<std::int64_t>(items.size()), block_index, num_blocks);
    block.for_each_warp(num_kinds, [&](const auto& warp, std::int64_t kind) {
      const int from = from_of(static_cast<int>(kind));
      const int to = to_of(static_cast<int>(kind));
      NearestOfWarp nearest(warp, to > from);
      nearest.look_at(share.count, [&](std::int64_t k) {
        const std::int64_t i = share.first + (to > from ? k : share.count - 1 - k);
        if (index_of_width(bits[i]) != from) return Change();
        const auto item = items(i);
        return is_useful(item, from, to) ? Change::of(item, i, from, to, price) : Change();
      });
      nearest.write(memory.nearest + block_index * max_core + kind * max_changes,
                    memory.least_left_out + block_index * num_kinds + kind);
    });
  }
};

/// By one block: joins what all blocks found, and searches the best use of the rest.
template <class Items>
struct SearchRest {
  struct Shared {
    Change nearest[max_core];
    double least_left_out[num_kinds];
    SearchCore<typename Items::Item> core;
  };

  Items items;
  DeviceAllocationMemory memory;
  std::int64_t blocks;
  std::uint8_t* bits;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared& shared, std::int64_t, std::int64_t) const {
    const PriceSearch price = *memory.price;
    KnapsackSolution solution{price.budget, 0, true};
    if (price.kind == PriceSearch::open) {
      block.for_each_warp(num_kinds, [&](const auto& warp, std::int64_t kind) {
        const int from = from_of(static_cast<int>(kind));
        const int to = to_of(static_cast<int>(kind));
        NearestOfWarp nearest(warp, to > from);
        nearest.look_at(blocks * max_changes, [&](std::int64_t k) {
          const std::int64_t j = to > from ? k : blocks * max_changes - 1 - k;
          return memory.nearest[j / max_changes * max_core + kind * max_changes + j % max_changes];
        });
        nearest.write(shared.nearest + kind * max_changes, shared.least_left_out + kind);
      });
      const auto smaller = [](double a, double b) { return a < b ? a : b; };
      double least_left_out = hides_items(items) ? 0 : infinity;
      for (const double loss : shared.least_left_out) {
        least_left_out = smaller(loss, least_left_out);
      }
      const double least_of_blocks = block.scan(
          blocks * num_kinds, infinity, smaller,
          [&](std::int64_t i) { return memory.least_left_out[i]; },
          [](std::int64_t, double, double) {});
      least_left_out = smaller(least_of_blocks, least_left_out);
      KnapsackSearch search(block, items, memory.search, shared.core);
      solution = search.solve(shared.nearest, least_left_out, price.gain(), *memory.rest,
                              memory.counts->of_other_size == 0, bits);
    }
    if (block.is_leader()) *memory.solution = solution;
  }
};

/// Adds up the strands of each block; see sum_variances.
template <class Items>
struct SumStrands {
  struct Shared {
    double sums[warp_size];
  };

  Items items;
  DeviceAllocationMemory memory;
  const std::uint8_t* bits;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared& shared, std::int64_t block_index,
                             std::int64_t) const {
    const auto add = [](double a, double b) { return a + b; };
    block.for_each_warp(warp_size, [&](const auto& warp, std::int64_t warp_index) {
      const std::size_t first = static_cast<std::size_t>(
          block_index * DeviceAllocationMemory::strands_per_block + warp_index * warp_size);
      const double sum = warp.reduce(warp.map([&](int lane) {
        double strand = 0;
        for (std::size_t i = first + static_cast<std::size_t>(lane); i < items.size();
             i += num_strands) {
          strand += items.variance(i, bits[i]);
        }
        return strand;
      }),
                                     add);
      warp.map([&](int lane) {
        if (lane == 0) shared.sums[warp_index] = sum;
      });
    });
    block.for_each_warp(1, [&](const auto& warp, std::int64_t) {
      const double sum = warp.reduce(warp.map([&](int lane) { return shared.sums[lane]; }), add);
      warp.map([&](int lane) {
        if (lane == 0) memory.block_sums[block_index] = sum;
      });
    });
  }
};

/// By one block: writes the sums over all items.
struct WriteTotals {
  using Shared = NothingShared;
  static constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

  DeviceAllocationMemory memory;
  std::int64_t bit_budget;
  AllocationTotals* totals;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t, std::int64_t) const {
    block.for_each_warp(1, [&](const auto& warp, std::int64_t) {
      const double variance = warp.reduce(warp.map([&](int lane) {
        return lane < DeviceAllocationMemory::strand_blocks ? memory.block_sums[lane] : 0;
      }),
                                          [](double a, double b) { return a + b; });
      warp.map([&](int lane) {
        if (lane != 0) return;
        if (memory.price->kind == PriceSearch::none) {
          *totals = {-1, unknown, unknown};
        } else {
          *totals = {bit_budget - memory.solution->unused, variance,
                     lower_bound_of(variance, *memory.solution)};
        }
      });
    });
  }
};

/// Enqueues all kernels. A queue has
///   zero(pointer, bytes)
///   run(kernel, blocks)        calls kernel(block, shared memory, block_index, num_blocks)
///   sum_before(values, count)  replaces each value by the sum of those before
/// Each begins when all before it have ended.
template <class Queue, class Items>
void enqueue_allocation(const Queue& queue, const Items& items,
                        const DeviceAllocationMemory& memory, std::uint8_t* bits,
                        AllocationTotals* totals) {
  using Memory = DeviceAllocationMemory;
  const std::int64_t count = static_cast<std::int64_t>(items.size());
  const std::int64_t blocks = std::clamp((count + Memory::least_share - 1) / Memory::least_share,
                                         std::int64_t{1}, Memory::max_blocks);
  queue.zero(memory.counts, sizeof(ItemCounts));
  queue.zero(memory.bins, num_digits * num_bins * sizeof(std::uint64_t));
  queue.run(CountItems<Items>{items, memory}, blocks);
  queue.run(BeginPrice<Items>{items, memory}, 1);
  for (int digit = 0; digit < num_digits; ++digit) {
    queue.run(FillBins<Items>{items, memory, digit}, blocks);
    queue.run(FindDigit{memory, digit}, 1);
  }
  queue.run(CountTies<Items>{items, memory}, blocks);
  queue.sum_before(memory.tie_offsets, count);
  queue.run(TakeSteps<Items>{items, memory, bits}, blocks);
  queue.run(FindNearest<Items>{items, memory, bits}, blocks);
  queue.run(SearchRest<Items>{items, memory, blocks, bits}, 1);
  if (totals == nullptr) return;
  queue.run(SumStrands<Items>{items, memory, bits}, Memory::strand_blocks);
  queue.run(WriteTotals{memory, items.bit_budget, totals}, 1);
}

}  // namespace actpack::detail
