// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Bit allocation as a device does it, with nothing for the host to wait for: the price per bit by
// radix selection, a digit of its bits at a time, and then what the host does next to that price.
// The same source for devices and for tests on the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "actpack/bit_allocation.hpp"
#include "actpack/detail/allocation/workspace.hpp"
#include "device_crew.hpp"

namespace actpack::detail {

// The digits of a gain, as the 64 bits of a double that is not negative: the greater, the more.
inline constexpr int num_digits = 6;
inline constexpr int digit_bits = 11;
inline constexpr int num_bins = 1 << digit_bits;

/// The place of a digit's lowest bit. The last digit has fewer.
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

/// What the host refuses or sees at a glance.
struct ItemCounts {
  SizeSum numel;
  std::uint64_t bits_at_place[num_widths] = {};  // if all items had this width, or the next allowed
  std::uint64_t invalid = 0;                     // items
  std::uint64_t noisy = 0;
  std::uint64_t of_other_size = 0;  // than the first

  ACTPACK_HD std::int64_t total_bits(int place) const {
    return static_cast<std::int64_t>(bits_at_place[place]);
  }
  ACTPACK_HD bool have_solution(std::int64_t bit_budget) const {
    return invalid == 0 && numel.is_allowed() && total_bits(0) <= bit_budget;
  }
  ACTPACK_HD int even_place(std::int64_t bit_budget) const {
    int place = num_widths - 1;
    while (place > 0 && total_bits(place) > bit_budget) --place;
    return place;
  }

  /// Calls f(a's sum, b's) for every sum.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD static void for_each_pair(ItemCounts& a, const ItemCounts& b, const F& f) {
    f(a.numel.low, b.numel.low);
    f(a.numel.high, b.numel.high);
    for (int place = 0; place < num_widths; ++place) {
      f(a.bits_at_place[place], b.bits_at_place[place]);
    }
    f(a.invalid, b.invalid);
    f(a.noisy, b.noisy);
    f(a.of_other_size, b.of_other_size);
  }
};

/// How far the search for the price has come.
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

/// What a device's allocation works in, all of it device memory.
struct DeviceAllocationMemory {
  static constexpr std::int64_t max_tiles = 256;
  static constexpr std::int64_t least_tile = 1024;  // items
  static constexpr std::int64_t strands_per_block = warp_size * warp_size;
  static constexpr std::int64_t strand_blocks = num_strands / strands_per_block;

  explicit DeviceAllocationMemory(Workspace& memory, std::size_t items)
      : counts(memory.take<ItemCounts>(1).data()),
        bins(memory.take<std::uint64_t>(num_digits * num_bins).data()),
        price(memory.take<PriceSearch>(1).data()), rest(memory.take<std::int64_t>(1).data()),
        tie_offsets(memory.take<std::int64_t>(items).data()),
        nearest(memory.take<Change>(max_tiles * max_core).data()),
        least_left_out(memory.take<double>(max_tiles * num_kinds).data()),
        search{memory.take<SearchState>(2 * max_states).data(),
               memory.take<SearchRecord>(max_records).data(),
               memory.take<std::uint32_t>(num_widths * max_states).data()},
        solution(memory.take<KnapsackSolution>(1).data()),
        block_sums(memory.take<double>(strand_blocks).data()) {}

  ItemCounts* counts;
  std::uint64_t* bins;  // [num_digits][num_bins] bits of steps, by the digits of their gains
  PriceSearch* price;
  std::int64_t* rest;         // bits that are left when all affordable steps are taken
  std::int64_t* tie_offsets;  // [items] bits of the steps at the price, of all items before
  Change* nearest;            // [max_tiles][num_kinds][max_changes]
  double* least_left_out;     // [max_tiles][num_kinds]
  SearchMemory search;
  KnapsackSolution* solution;
  double* block_sums;  // [strand_blocks]
};

/// Items first, first + 1, … of a block that shares them evenly with others.
struct ItemShare {
  std::int64_t first;
  std::int64_t count;

  ACTPACK_HD ItemShare(std::int64_t items, std::int64_t block, std::int64_t blocks) {
    const std::int64_t most = (items + blocks - 1) / blocks;
    first = block * most < items ? block * most : items;
    count = items - first < most ? items - first : most;
  }
};

struct NothingShared {};

/// Adds up `counts`, which are 0 before.
template <class Items>
struct CountItems {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t block,
                             std::int64_t blocks) const {
    const ItemShare share(static_cast<std::int64_t>(items.size()), block, blocks);
    crew.for_each_team(crew_warps, [&](const auto& team, std::int64_t number) {
      const auto of_lanes = team.map([&](int lane) {
        ItemCounts counts;
        for (std::int64_t i = number * warp_size + lane; i < share.count; i += crew_threads) {
          count(static_cast<std::size_t>(share.first + i), counts);
        }
        return counts;
      });
      const ItemCounts sums = team.reduce(of_lanes, [](ItemCounts a, const ItemCounts& b) {
        ItemCounts::for_each_pair(a, b, [](std::uint64_t& x, std::uint64_t y) { x += y; });
        return a;
      });
      team.map([&](int lane) {
        if (lane != 0) return;
        ItemCounts::for_each_pair(
            *memory.counts, sums,
            [&](std::uint64_t& sum, std::uint64_t value) { crew.add(sum, value); });
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
    for (int place = 0; place < num_widths; ++place) {
      const std::int64_t bits = numel * bits_at(items.allowed_place(i, place));
      counts.bits_at_place[place] += static_cast<std::uint64_t>(bits);
    }
    counts.noisy += items.is_noiseless(i) ? 0 : 1;
    counts.of_other_size += numel != items.numel[0];
  }
};

/// By one block: what there is to search for.
template <class Items>
struct BeginPrice {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t, std::int64_t) const {
    if (!crew.leads()) return;
    const ItemCounts counts = *memory.counts;
    const std::int64_t bit_budget = items.bit_budget;
    if (!counts.have_solution(bit_budget)) {
      *memory.price = {0, 0, PriceSearch::none};
    } else if (counts.noisy == 0) {
      *memory.price = {0, bit_budget - counts.total_bits(counts.even_place(bit_budget)),
                       PriceSearch::even};
    } else {
      *memory.price = {0, bit_budget - counts.total_bits(0), PriceSearch::open};
    }
  }
};

/// Adds the bits of all steps whose gains have the digits found so far to the bins of the next one.
template <class Items>
struct FillBins {
  struct Shared {
    std::uint64_t bins[num_bins];
  };

  Items items;
  DeviceAllocationMemory memory;
  int digit;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared& shared, std::int64_t block,
                             std::int64_t blocks) const {
    const PriceSearch price = *memory.price;
    if (price.kind != PriceSearch::open) return;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block, blocks);
    crew.for_each(num_bins, [&](std::int64_t bin) { shared.bins[bin] = 0; });
    crew.for_each(share.count, [&](std::int64_t i) {
      const auto item = items(share.first + i);
      for_each_step(item, [&](double gain, int from, int to) {
        const std::uint64_t gain_bits = bits_of(gain);
        const bool has_digits =
            digit == 0 || (gain_bits ^ price.gain_bits) >> shift_of(digit - 1) == 0;
        if (!has_digits) return;
        crew.add(shared.bins[bin_of(gain_bits, digit)],
                 static_cast<std::uint64_t>(item.cost(from, to)));
      });
    });
    crew.for_each(num_bins, [&](std::int64_t bin) {
      if (shared.bins[bin] != 0) crew.add(memory.bins[digit * num_bins + bin], shared.bins[bin]);
    });
  }
};

/// By one block: finds the next digit of the price, that is, of the greatest gain whose steps do
/// not all fit into the budget.
struct FindDigit {
  struct Shared {
    PriceSearch next;
  };

  DeviceAllocationMemory memory;
  int digit;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared& shared, std::int64_t, std::int64_t) const {
    const PriceSearch price = *memory.price;
    if (price.kind != PriceSearch::open) return;
    const auto from_the_top = [](std::int64_t i) { return num_bins - 1 - i; };
    const std::uint64_t* const bins = memory.bins + digit * num_bins;
    const std::int64_t total = crew.scan(
        num_bins, std::int64_t{0}, [](std::int64_t a, std::int64_t b) { return a + b; },
        [&](std::int64_t i) { return static_cast<std::int64_t>(bins[from_the_top(i)]); },
        [&](std::int64_t i, std::int64_t cost, std::int64_t before) {
          if (before > price.budget || before + cost <= price.budget) return;
          const std::uint64_t bin = static_cast<std::uint64_t>(from_the_top(i));
          shared.next = {price.gain_bits | bin << shift_of(digit), price.budget - before,
                         PriceSearch::open};
        });
    if (!crew.leads()) return;
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

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t block,
                             std::int64_t blocks) const {
    const PriceSearch price = *memory.price;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block, blocks);
    crew.for_each(share.count, [&](std::int64_t k) {
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

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t block,
                             std::int64_t blocks) const {
    const PriceSearch price = *memory.price;
    const int even_place =
        price.kind == PriceSearch::even ? memory.counts->even_place(items.bit_budget) : 0;
    const ItemShare share(static_cast<std::int64_t>(items.size()), block, blocks);
    crew.for_each(share.count, [&](std::int64_t k) {
      const std::int64_t i = share.first + k;
      bits[i] = static_cast<std::uint8_t>(bits_at(place_of(i, price, even_place)));
    });
  }

 private:
  ACTPACK_HD int place_of(std::int64_t i, const PriceSearch& price, int even_place) const {
    const std::size_t index = static_cast<std::size_t>(i);
    const int narrowest = items.narrowest(index);
    if (price.kind == PriceSearch::none) return items.has_width(index) ? narrowest : 0;
    if (price.kind == PriceSearch::even) return items.allowed_place(index, even_place);
    const auto item = items(i);
    std::int64_t before = memory.tie_offsets[i];
    int place = narrowest;
    for_each_step(item, [&](double gain, int from, int to) {
      const std::uint64_t gain_bits = bits_of(gain);
      if (price.kind == PriceSearch::all_taken || gain_bits > price.gain_bits) place = to;
      if (price.kind == PriceSearch::all_taken || gain_bits != price.gain_bits) return;
      const std::int64_t after = before + item.cost(from, to);
      if (after <= price.budget) {
        place = to;
      } else if (before <= price.budget) {  // the first that the budget does not buy
        *memory.rest = price.budget - before;
      }
      before = after;
    });
    return place;
  }
};

/// The nearest of many changes, held by a team's first max_changes lanes in no order.
template <class Team>
class NearestOfTeam {
 public:
  /// `becomes_wider` is of all the changes.
  ACTPACK_HD NearestOfTeam(const Team& team, bool becomes_wider)
      : team_(team), becomes_wider_(becomes_wider), held_(team.map([](int lane) {
          return Held{Change(), lane, infinity};
        })),
        furthest_(find_furthest()) {}

  /// Looks at change(i) for 0 <= i < count; those may be none. Quickest if the nearest of equals
  /// come first.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void look_at(std::int64_t count, const F& change) {
    for (std::int64_t first = 0; first < count; first += team_.lanes()) {
      auto seen = team_.map([&](int lane) {
        return Held{first + lane < count ? change(first + lane) : Change(), lane, 0};
      });
      for (;;) {
        const Held nearest = team_.reduce(
            seen, [this](const Held& a, const Held& b) { return is_before(b, a) ? b : a; });
        if (!comes_first(nearest.change, furthest_.change)) break;
        held_ = team_.map(
            [&](int lane, Held held) {
              if (lane == furthest_.lane) {
                held.least_left_out = smaller(held.least_left_out, held.change.loss);
                held.change = nearest.change;
              }
              return held;
            },
            held_);
        seen = team_.map(
            [&](int lane, Held held) {
              if (lane == nearest.lane) held.change = Change();
              return held;
            },
            seen);
        furthest_ = find_furthest();
      }
      held_ = team_.map(
          [&](int, Held held, const Held& own) {
            held.least_left_out = smaller(held.least_left_out, own.change.loss);
            return held;
          },
          held_, seen);
    }
  }

  /// Writes max_changes changes, some of them none, and the least loss of all others.
  ACTPACK_HD void write(Change* changes, double* least_left_out) const {
    const Held least = team_.reduce(held_, [](const Held& a, const Held& b) {
      return a.least_left_out < b.least_left_out ? a : b;
    });
    team_.map(
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
  /// All differ, since lanes do: whatever the order of a reduction, all lanes find the same.
  ACTPACK_HD bool is_before(const Held& a, const Held& b) const {
    if (comes_first(a.change, b.change)) return true;
    return !comes_first(b.change, a.change) && a.lane < b.lane;
  }

  /// Of the first max_changes lanes.
  ACTPACK_HD Held find_furthest() const {
    return team_.reduce(held_, [this](const Held& a, const Held& b) {
      if (a.lane >= max_changes || b.lane >= max_changes) return a.lane < b.lane ? a : b;
      return is_before(a, b) ? b : a;
    });
  }

  const Team& team_;
  bool becomes_wider_;
  typename Team::template PerLane<Held> held_;
  Held furthest_;
};

/// Finds the nearest changes of each kind within a tile of items.
template <class Items>
struct FindNearest {
  using Shared = NothingShared;

  Items items;
  DeviceAllocationMemory memory;
  const std::uint8_t* bits;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t tile,
                             std::int64_t tiles) const {
    if (memory.price->kind != PriceSearch::open) return;
    const double price = memory.price->gain();
    const ItemShare share(static_cast<std::int64_t>(items.size()), tile, tiles);
    crew.for_each_team(num_kinds, [&](const auto& team, std::int64_t kind) {
      const int from = from_of(static_cast<int>(kind));
      const int to = to_of(static_cast<int>(kind));
      NearestOfTeam nearest(team, to > from);
      nearest.look_at(share.count, [&](std::int64_t k) {
        const std::int64_t i = share.first + (to > from ? k : share.count - 1 - k);
        if (width_place(bits[i]) != from) return Change();
        const auto item = items(i);
        return is_useful(item, from, to) ? Change::of(item, i, from, to, price) : Change();
      });
      nearest.write(memory.nearest + tile * max_core + kind * max_changes,
                    memory.least_left_out + tile * num_kinds + kind);
    });
  }
};

/// By one block: joins what the tiles found, and searches the best use of the rest.
template <class Items>
struct SearchRest {
  struct Shared {
    Change nearest[max_core];
    double least_left_out[num_kinds];
    SearchCore<typename Items::Item> core;
  };

  Items items;
  DeviceAllocationMemory memory;
  std::int64_t tiles;
  std::uint8_t* bits;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared& shared, std::int64_t, std::int64_t) const {
    const PriceSearch price = *memory.price;
    KnapsackSolution solution{price.budget, 0, true};
    if (price.kind == PriceSearch::open) {
      crew.for_each_team(num_kinds, [&](const auto& team, std::int64_t kind) {
        const int from = from_of(static_cast<int>(kind));
        const int to = to_of(static_cast<int>(kind));
        NearestOfTeam nearest(team, to > from);
        nearest.look_at(tiles * max_changes, [&](std::int64_t k) {
          const std::int64_t j = to > from ? k : tiles * max_changes - 1 - k;
          return memory.nearest[j / max_changes * max_core + kind * max_changes + j % max_changes];
        });
        nearest.write(shared.nearest + kind * max_changes, shared.least_left_out + kind);
      });
      const auto smaller = [](double a, double b) { return a < b ? a : b; };
      double least_left_out = is_partial(items) ? 0 : infinity;
      for (const double loss : shared.least_left_out) {
        least_left_out = smaller(loss, least_left_out);
      }
      const double least_of_tiles = crew.scan(
          tiles * num_kinds, infinity, smaller,
          [&](std::int64_t i) { return memory.least_left_out[i]; },
          [](std::int64_t, double, double) {});
      least_left_out = smaller(least_of_tiles, least_left_out);
      KnapsackSearch search(crew, items, memory.search, shared.core);
      solution = search.solve(shared.nearest, least_left_out, price.gain(), *memory.rest,
                              memory.counts->of_other_size == 0, bits);
    }
    if (crew.leads()) *memory.solution = solution;
  }
};

/// The sums of each block's strands; see sum_variances.
template <class Items>
struct SumStrands {
  struct Shared {
    double sums[warp_size];
  };

  Items items;
  DeviceAllocationMemory memory;
  const std::uint8_t* bits;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared& shared, std::int64_t block,
                             std::int64_t) const {
    const auto add = [](double a, double b) { return a + b; };
    crew.for_each_team(warp_size, [&](const auto& team, std::int64_t number) {
      const std::size_t first = static_cast<std::size_t>(
          block * DeviceAllocationMemory::strands_per_block + number * warp_size);
      const double sum = team.reduce(team.map([&](int lane) {
        double strand = 0;
        for (std::size_t i = first + static_cast<std::size_t>(lane); i < items.size();
             i += num_strands) {
          strand += items.variance(i, bits[i]);
        }
        return strand;
      }),
                                     add);
      team.map([&](int lane) {
        if (lane == 0) shared.sums[number] = sum;
      });
    });
    crew.for_each_team(1, [&](const auto& team, std::int64_t) {
      const double sum = team.reduce(team.map([&](int lane) { return shared.sums[lane]; }), add);
      team.map([&](int lane) {
        if (lane == 0) memory.block_sums[block] = sum;
      });
    });
  }
};

/// By one block: what the widths come to.
struct WriteTotals {
  using Shared = NothingShared;
  static constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

  DeviceAllocationMemory memory;
  std::int64_t bit_budget;
  AllocationTotals* totals;

  template <class Crew>
  ACTPACK_HD void operator()(const Crew& crew, Shared&, std::int64_t, std::int64_t) const {
    crew.for_each_team(1, [&](const auto& team, std::int64_t) {
      const double variance = team.reduce(team.map([&](int lane) {
        return lane < DeviceAllocationMemory::strand_blocks ? memory.block_sums[lane] : 0;
      }),
                                          [](double a, double b) { return a + b; });
      team.map([&](int lane) {
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

/// Enqueues all of it. A queue has
///   zero(pointer, bytes)
///   run(body, blocks)                    body(crew, shared memory, block, blocks) for all blocks
///   sum_before(values, count)            replaces each by the sum of those before
/// each of which begins when all before have ended.
template <class Queue, class Items>
void enqueue_allocation(const Queue& queue, const Items& items,
                        const DeviceAllocationMemory& memory, std::uint8_t* bits,
                        AllocationTotals* totals) {
  using Memory = DeviceAllocationMemory;
  const std::int64_t count = static_cast<std::int64_t>(items.size());
  const std::int64_t tiles = std::clamp((count + Memory::least_tile - 1) / Memory::least_tile,
                                        std::int64_t{1}, Memory::max_tiles);
  queue.zero(memory.counts, sizeof(ItemCounts));
  queue.zero(memory.bins, num_digits * num_bins * sizeof(std::uint64_t));
  queue.run(CountItems<Items>{items, memory}, tiles);
  queue.run(BeginPrice<Items>{items, memory}, 1);
  for (int digit = 0; digit < num_digits; ++digit) {
    queue.run(FillBins<Items>{items, memory, digit}, tiles);
    queue.run(FindDigit{memory, digit}, 1);
  }
  queue.run(CountTies<Items>{items, memory}, tiles);
  queue.sum_before(memory.tie_offsets, count);
  queue.run(TakeSteps<Items>{items, memory, bits}, tiles);
  queue.run(FindNearest<Items>{items, memory, bits}, tiles);
  queue.run(SearchRest<Items>{items, memory, tiles, bits}, 1);
  if (totals == nullptr) return;
  queue.run(SumStrands<Items>{items, memory, bits}, Memory::strand_blocks);
  queue.run(WriteTotals{memory, items.bit_budget, totals}, 1);
}

}  // namespace actpack::detail
