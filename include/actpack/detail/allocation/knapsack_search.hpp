// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The last step of bit allocation: the best use of a rest of the budget that does not buy the next
// step.
//
// Stopping at that step instead would leave more variance: 4 to 13 % more at 8 items, .5 to 1.4 %
// at 128, .06 to .2 % at 1,024, on average. So the search pays where items are few, as whole layers
// are. On the device it is more than most models need; it stays because host and device give the
// same answer, bit for bit. Extend it no further.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "actpack/config.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/thread_block.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The search's result: how good its widths are.
struct KnapsackSolution {
  std::int64_t unused = 0;  // bits of the budget
  double gap = 0;           // no widths are better by more than this
  bool is_best = false;     // none are better at all
};

/// Returns a variance that no widths go below, given a solution's variance.
ACTPACK_HD inline double lower_bound_of(double variance, const KnapsackSolution& solution) {
  const double bound = solution.is_best ? variance : variance - solution.gap;
  return bound > 0 ? bound : 0;
}

/// The sums over some changes.
struct SearchState {
  std::int64_t cost;
  double loss;
  double difference;  // of the sum of variances
  std::int32_t record;
};

/// The last of some changes, and the record of the change before.
struct SearchRecord {
  std::int32_t before;
  std::int32_t to;
  std::int64_t item;
};

// Enough for all 4^7 choices for seven items (those for an eighth are not stored), and for 2 · 91
// + 1 sums at each of 156 items of one size.
inline constexpr std::int64_t max_states = 1 << 14;
inline constexpr std::int64_t max_records = 1 << 16;

ACTPACK_HD constexpr std::int64_t states_for(std::int64_t items) {
  return items < 7 ? std::int64_t{1} << (2 * items) : max_states;
}

/// The uninitialised memory that a search works in.
struct SearchMemory {
  SearchState* states;    // 2 · states_for(items)
  SearchRecord* records;  // max_records
  std::uint32_t* order;   // num_widths · states_for(items); null for OneThread
};

/// The items that may change.
template <class Item>
struct SearchCore {
  struct Member {
    Item item;
    std::int64_t number;
    double loss;  // the least of its changes
    int width_index;
  };

  Change changes[max_core];  // the first of each item
  Member members[max_core];  // least loss first
};

/// Searches the nearest changes for the best use of what is left of the budget. The search is
/// complete for items of one size, and for up to 8 items of any sizes; otherwise its effort is
/// limited, which the solution tells. The result does not depend on the thread block.
template <class ThreadBlock, class Items>
class KnapsackSearch {
 public:
  using Item = typename Items::Item;
  using Core = SearchCore<Item>;

  ACTPACK_HD KnapsackSearch(const ThreadBlock& block, const Items& items,
                            const SearchMemory& memory, Core& core)
      : block_(block), items_(items), room_(states_for(static_cast<std::int64_t>(items.size()))),
        states_(memory.states), next_states_(memory.states + room_), records_(memory.records),
        order_(memory.order), core_(core) {}

  /// Changes `bits` from the widths at `price` to better ones that take at most `rest` bits more.
  /// `nearest` has max_core changes, of which some may be unused; no other change has less loss
  /// than `least_left_out` (0: unknown).
  ACTPACK_HD KnapsackSolution solve(const Change* nearest, double least_left_out, double price,
                                    std::int64_t rest, bool has_equal_sizes, std::uint8_t* bits) {
    price_ = price;
    rest_ = rest;
    list_core(nearest, bits);
    const std::int64_t numel = num_core_ > 0 ? core_.members[0].item.numel : unlimited;
    max_cost_ = has_equal_sizes && numel <= unlimited / max_units ? max_units * numel : unlimited;
    least_left_out_ = least_left_out;
    is_complete_ = true;
    num_records_ = 0;
    best_ = {};
    set_gap();
    fill();
    num_states_ = 1;
    if (block_.is_leader()) states_[0] = {0, 0, 0, no_record};
    block_.sync();
    for (int i = 0; i < num_core_ && core_.members[i].loss <= gap_; ++i) {
      combine(core_.members[i], num_core_ - 1 - i);
    }
    if (best_.last.to >= 0) {
      if (block_.is_leader()) make_changes(bits);
      block_.sync();
      order_ties(bits);
    }
    return {rest_ - best_.cost, gap_, is_complete_ && (has_equal_sizes || least_left_out_ >= gap_)};
  }

 private:
  using Member = typename Core::Member;
  static constexpr std::int32_t no_record = -1;
  static constexpr std::int64_t unlimited = (std::numeric_limits<std::int64_t>::max)();

  /// The best changes so far. The last one is no record, since records may be discarded.
  struct Best {
    std::int64_t cost = 0;
    double difference = 0;
    SearchRecord last = {no_record, -1, 0};  // no change: to < 0
  };

  /// An item may stay, which is the first choice, or change.
  struct Choice {
    std::int64_t cost;
    double loss;
    double saving;
    int to;

    ACTPACK_HD SearchState combined_with(const SearchState& state) const {
      return {state.cost + cost, state.loss + loss, state.difference - saving, state.record};
    }
  };
  struct Choices {
    Choice choice[num_widths];
    int count;
    std::int64_t item;
  };

  /// How many of the states in order survive, and which of them is the last that the rest can pay
  /// for; -1 if none.
  struct Survivors {
    std::int64_t count = 0;
    std::int64_t last_paid = -1;
  };

  // The bound lies price · rest below the variance without changes.
  ACTPACK_HD void set_gap() {
    gap_ = std::fma(price_, static_cast<double>(rest_), best_.difference);
    if (gap_ < 0) gap_ = 0;
  }

  // Lists every item of the nearest changes once, ordered by its least loss.
  ACTPACK_HD void list_core(const Change* nearest, const std::uint8_t* bits) {
    constexpr int of_one_width = max_core / num_widths;  // an item's changes are among these
    Change* const changes = core_.changes;
    num_core_ = block_.scan(
        max_core, 0, [](int a, int b) { return a + b; },
        [&](std::int64_t i) {
          if (nearest[i].item < 0) return 0;
          for (std::int64_t j = i - i % of_one_width; j < i; ++j) {
            if (nearest[j].item == nearest[i].item) return 0;
          }
          return 1;
        },
        [&](std::int64_t i, int is_first, int before) {
          if (is_first == 0) return;
          changes[before] = nearest[i];
          for (std::int64_t j = i + 1; j % of_one_width != 0; ++j) {
            if (nearest[j].item == nearest[i].item && nearest[j].loss < changes[before].loss) {
              changes[before].loss = nearest[j].loss;
            }
          }
        });
    block_.for_each(num_core_, [&](std::int64_t i) {
      const Change change = changes[i];
      int before = 0;
      for (int j = 0; j < num_core_; ++j) {
        const bool is_equal = changes[j].loss == change.loss;
        before += (changes[j].loss < change.loss) | (is_equal & (changes[j].item < change.item));
      }
      core_.members[before] = {items_(change.item), change.item, change.loss,
                               index_of_width(bits[change.item])};
    });
  }

  // Spends the rest on one item after another: a first answer, which rules out most others.
  ACTPACK_HD void fill() {
    for (int i = 0; i < num_core_; ++i) {
      const Member& member = core_.members[i];
      const int from = member.width_index;
      int best_to = from;
      for (int to = from + 1; to <= member.item.widest; ++to) {
        if (best_.cost + member.item.cost(from, to) <= rest_ &&
            member.item.saving(best_to, to) > 0) {
          best_to = to;
        }
      }
      if (best_to == from) continue;
      const std::int32_t before = best_.last.to < 0 ? no_record : add_record(best_.last);
      best_ = {best_.cost + member.item.cost(from, best_to),
               best_.difference - member.item.saving(from, best_to),
               {before, best_to, member.number}};
    }
    set_gap();
  }

  ACTPACK_HD std::int32_t add_record(const SearchRecord& record) {
    if (block_.is_leader()) records_[num_records_] = record;
    return static_cast<std::int32_t>(num_records_++);
  }

  // Combines all states with all choices of an item.
  ACTPACK_HD void combine(const Member& member, int items_left) {
    Choices choices{{{0, 0, 0, member.width_index}}, 1, member.number};
    for (int to = member.item.narrowest; to <= member.item.widest; ++to) {
      if (is_useful(member.item, member.width_index, to)) {
        choices.choice[choices.count++] = {
            member.item.cost(member.width_index, to),
            Change::of(member.item, member.number, member.width_index, to, price_).loss,
            member.item.saving(member.width_index, to), to};
      }
    }
    // The last item's states need not be stored: only the best matters.
    std::int64_t room = 0;
    if (items_left > 0) {
      room = (max_records - num_records_) / items_left;
      if (room > room_) room = room_;
      if (room == 0) is_complete_ = false;
    }
    // Where states are too many, those of greater loss go; at first only those that the best so far
    // rules out.
    double max_loss = infinity;
    std::int64_t survivors = 0;
    for (int halvings = 0;;) {
      const double limit = max_loss < gap_ ? max_loss : gap_;
      survivors = merge(choices, limit, room);
      set_gap();
      if (survivors <= room || room == 0) break;
      if (gap_ < limit) continue;
      if (halvings++ == 8) {
        is_complete_ = false;
        break;
      }
      max_loss = limit / 2;
    }
    if (max_loss < least_left_out_) least_left_out_ = max_loss;
    num_states_ = survivors < room ? survivors : room;
    num_records_ += num_states_;
    SearchState* const states = states_;
    states_ = next_states_;
    next_states_ = states;
  }

  // Makes the next states, ordered by cost: those that no other state beats in both cost and
  // variance, and that could still become the best. Stores the first `room` of them, and returns
  // how many there are.
  ACTPACK_HD std::int64_t merge(const Choices& choices, double max_loss, std::int64_t room) {
    if constexpr (ThreadBlock::is_one_thread) {
      return merge_in_turn(choices, max_loss, room);
    } else {
      return merge_by_rank(choices, max_loss, room);
    }
  }

  ACTPACK_HD static bool comes_before(const SearchState& a, const SearchState& b) {
    return a.cost < b.cost || (a.cost == b.cost && a.difference < b.difference);
  }
  ACTPACK_HD bool is_eligible(const SearchState& state, double max_loss) const {
    return state.loss <= max_loss && state.cost <= max_cost_ && state.cost >= -max_cost_;
  }

  ACTPACK_HD void store(SearchState state, std::int64_t at, int choice, const Choices& choices) {
    if (choice > 0) {
      const std::int64_t number = num_records_ + at;
      records_[number] = {state.record, choices.choice[choice].to, choices.item};
      state.record = static_cast<std::int32_t>(number);
    }
    next_states_[at] = state;
  }

  ACTPACK_HD void offer(const SearchState& state, int choice, const Choices& choices) {
    if (!(state.difference < best_.difference)) return;  // above all, the state without changes
    best_ = {state.cost, state.difference,
             choice > 0 ? SearchRecord{state.record, choices.choice[choice].to, choices.item}
                        : records_[state.record]};
  }

  // For one thread.
  ACTPACK_HD std::int64_t merge_in_turn(const Choices& choices, double max_loss,
                                        std::int64_t room) {
    std::int64_t survivors = 0;
    double least_difference = infinity;
    SearchState last_paid{};
    int choice_of_last_paid = -1;
    std::int64_t next_of[num_widths] = {};  // of the states to combine each choice with
    for (;;) {
      int choice = -1;
      SearchState next{};
      for (int c = 0; c < choices.count; ++c) {
        if (next_of[c] == num_states_) continue;
        const SearchState other = choices.choice[c].combined_with(states_[next_of[c]]);
        if (choice < 0 || comes_before(other, next)) {
          choice = c;
          next = other;
        }
      }
      if (choice < 0) break;
      ++next_of[choice];
      if (!is_eligible(next, max_loss) || next.difference >= least_difference) continue;
      least_difference = next.difference;
      if (next.cost <= rest_) {
        last_paid = next;
        choice_of_last_paid = choice;
      }
      if (survivors < room) store(next, survivors, choice, choices);
      ++survivors;
    }
    if (choice_of_last_paid >= 0) offer(last_paid, choice_of_last_paid, choices);
    return survivors;
  }

  // For many threads: each state finds its rank among all.
  ACTPACK_HD std::int64_t merge_by_rank(const Choices& choices, double max_loss,
                                        std::int64_t room) {
    constexpr std::uint32_t survives = 0x80000000;
    const auto state_at = [&](int choice, std::int64_t i) {
      return choices.choice[choice].combined_with(states_[i]);
    };
    const auto choice_in = [](std::uint32_t entry) {
      return static_cast<int>(entry / max_states % num_widths);
    };
    const auto state_in = [&](std::uint32_t entry) {
      return state_at(choice_in(entry), entry % max_states);
    };
    const std::int64_t count = choices.count * num_states_;
    block_.for_each(count, [&](std::int64_t i) {
      const int choice = static_cast<int>(i / num_states_);
      const SearchState own = state_at(choice, i % num_states_);
      std::int64_t rank = i % num_states_;
      for (int c = 0; c < choices.count; ++c) {
        if (c == choice) continue;
        std::int64_t low = 0;  // how many come before
        for (std::int64_t high = num_states_; low < high;) {
          const std::int64_t middle = low + (high - low) / 2;
          const SearchState other = state_at(c, middle);
          if (c < choice ? !comes_before(own, other) : comes_before(other, own)) {
            low = middle + 1;
          } else {
            high = middle;
          }
        }
        rank += low;
      }
      order_[rank] = static_cast<std::uint32_t>(choice * max_states + i % num_states_);
    });
    block_.scan(
        count, infinity, [](double a, double b) { return a < b ? a : b; },
        [&](std::int64_t i) {
          const SearchState state = state_in(order_[i]);
          return is_eligible(state, max_loss) ? state.difference : infinity;
        },
        [&](std::int64_t i, double difference, double least_before) {
          if (difference < least_before) order_[i] |= survives;
        });
    const Survivors all = block_.scan(
        count, Survivors{},
        [](const Survivors& a, const Survivors& b) {
          return Survivors{a.count + b.count, b.last_paid < 0 ? a.last_paid : b.last_paid};
        },
        [&](std::int64_t i) {
          const std::uint32_t entry = order_[i];
          if ((entry & survives) == 0) return Survivors{};
          return Survivors{1, state_in(entry).cost <= rest_ ? i : -1};
        },
        [&](std::int64_t i, const Survivors& own, const Survivors& before) {
          if (own.count == 0 || before.count >= room) return;
          store(state_in(order_[i]), before.count, choice_in(order_[i]), choices);
        });
    if (all.last_paid >= 0) {
      const std::uint32_t entry = order_[all.last_paid];
      offer(state_in(entry), choice_in(entry), choices);
      block_.sync();  // before the next order
    }
    return all.count;
  }

  ACTPACK_HD void make_changes(std::uint8_t* bits) const {
    for (SearchRecord record = best_.last;; record = records_[record.before]) {
      bits[record.item] = static_cast<std::uint8_t>(bits_at(record.to));
      if (record.before == no_record) break;
    }
  }

  // Makes the first of equal items the widest.
  ACTPACK_HD void order_ties(std::uint8_t* bits) {
    block_.for_each(num_core_, [&](std::int64_t i) {
      core_.members[i].width_index = index_of_width(bits[core_.members[i].number]);
    });
    block_.for_each(num_core_, [&](std::int64_t i) {
      const Member& own = core_.members[i];
      int before = 0;  // of its equals
      int having[num_widths] = {};
      for (int j = 0; j < num_core_; ++j) {
        const Member& other = core_.members[j];
        if (!(other.item == own.item)) continue;
        before += other.number < own.number;
        ++having[other.width_index];
      }
      int width_index = num_widths - 1;
      for (; before >= having[width_index]; --width_index) before -= having[width_index];
      bits[own.number] = static_cast<std::uint8_t>(bits_at(width_index));
    });
  }

  ThreadBlock block_;
  const Items& items_;
  std::int64_t room_;
  SearchState* states_;
  SearchState* next_states_;
  SearchRecord* records_;
  std::uint32_t* order_;
  Core& core_;
  std::int64_t num_states_ = 0;
  std::int64_t num_records_ = 0;
  int num_core_ = 0;

  double price_ = 0;
  std::int64_t rest_ = 0;
  std::int64_t max_cost_ = 0;
  Best best_;
  double gap_ = 0;
  double least_left_out_ = 0;
  bool is_complete_ = true;
};

}  // namespace actpack::detail
