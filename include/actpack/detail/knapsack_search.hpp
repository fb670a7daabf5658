// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The last step of bit allocation: the best use of a rest of the budget that buys no step of the
// next item in turn.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "actpack/config.hpp"
#include "actpack/detail/knapsack.hpp"

namespace actpack::detail {

/// What the search found beyond widths.
struct KnapsackSolution {
  std::int64_t unused = 0;  // bits of the budget
  double gap = 0;           // no widths are better by more than this
  bool is_best = false;     // none are better at all
};

/// Searches the nearest changes for the best use of what is left of the budget: complete for items
/// of one size, and for up to 8 of any; else limited in effort, which it tells.
class KnapsackSearch {
 public:
  /// What some changes come to together.
  struct State {
    std::int64_t cost;
    double loss;
    double difference;  // of the sum of variances
    std::int32_t record;
  };

  /// The last of some changes, and the record of the one before.
  struct Record {
    std::int32_t before;
    std::int32_t to;
    std::int64_t item;
  };

  // Enough for all 4^7 choices for seven items (those for an eighth are not stored), and for 2 · 91
  // + 1 sums at each of 156 items.
  static constexpr std::int64_t max_states = 1 << 14;
  static constexpr std::int64_t max_records = 1 << 15;

  ACTPACK_HD static constexpr std::int64_t states_for(std::int64_t items) {
    return items < 7 ? std::int64_t{1} << (2 * items) : max_states;
  }

  /// Works in memory for twice states_for(items) states, and max_records records.
  ACTPACK_HD KnapsackSearch(State* states, Record* records, std::int64_t items)
      : room_(states_for(items)), states_(states), next_states_(states + room_), records_(records) {
  }

  /// Changes `bits` from the widths at `price` to better ones that take at most `rest` bits more.
  /// items(i) is item i; `nearest` are the changes that may be made, of all unless `is_partial`.
  ACTPACK_AS_CALLABLE
  template <class Items>
  ACTPACK_HD KnapsackSolution solve(const Items& items, const NearestChanges& nearest, double price,
                                    std::int64_t rest, bool has_equal_sizes, bool is_partial,
                                    std::uint8_t* bits) {
    price_ = price;
    rest_ = rest;
    list_core(nearest);
    max_cost_ =
        has_equal_sizes && num_core_ > 0 ? max_units * items(core_[0].item).numel : unlimited;
    least_left_out_ = is_partial ? 0 : nearest.least_left_out();
    is_complete_ = true;
    num_records_ = 0;
    best_ = {};
    set_gap();
    fill(items, bits);
    num_states_ = 1;
    states_[0] = {0, 0, 0, no_record};
    for (int i = 0; i < num_core_ && core_[i].loss <= gap_; ++i) {
      const auto item = items(core_[i].item);
      combine(item, core_[i].item, width_place(bits[core_[i].item]), num_core_ - 1 - i);
    }
    if (best_.last.to >= 0) {
      make_changes(bits);
      order_ties(items, bits);
    }
    return {rest_ - best_.cost, gap_, is_complete_ && (has_equal_sizes || least_left_out_ >= gap_)};
  }

 private:
  static constexpr std::int32_t no_record = -1;
  static constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

  /// The best changes so far. Their last is not among the records, which may be taken back.
  struct Best {
    std::int64_t cost = 0;
    double difference = 0;
    Record last = {no_record, -1, 0};  // no change: to < 0
  };

  /// What one item may do: stay, or change.
  struct Choice {
    std::int64_t cost;
    double loss;
    double saving;
    int to;
    std::int64_t next;  // of the states to combine it with
  };

  // The bound is price · rest below the variance without changes.
  ACTPACK_HD void set_gap() {
    gap_ = std::fma(price_, static_cast<double>(rest_), best_.difference);
    if (gap_ < 0) gap_ = 0;
  }

  // Lists every item of the nearest changes once, by its least loss.
  ACTPACK_HD void list_core(const NearestChanges& nearest) {
    num_core_ = 0;
    for (int kind = 0; kind < num_kinds; ++kind) {
      for (int place = 0; place < nearest.size(kind); ++place) {
        const Change& change = nearest.change(kind, place);
        int i = 0;
        while (i < num_core_ && core_[i].item != change.item) ++i;
        if (i == num_core_) core_[num_core_++] = change;
        if (change.loss < core_[i].loss) core_[i].loss = change.loss;
      }
    }
    sort_core([](const Change& a, const Change& b) {
      return a.loss != b.loss ? a.loss < b.loss : a.item < b.item;
    });
  }

  ACTPACK_AS_CALLABLE
  template <class Less>
  ACTPACK_HD void sort_core(const Less& less) {
    for (int i = 1; i < num_core_; ++i) {
      const Change change = core_[i];
      int place = i;
      for (; place > 0 && less(change, core_[place - 1]); --place) core_[place] = core_[place - 1];
      core_[place] = change;
    }
  }

  // Spends the rest on one item after the other: a first answer, which rules out most others.
  ACTPACK_AS_CALLABLE
  template <class Items>
  ACTPACK_HD void fill(const Items& items, const std::uint8_t* bits) {
    for (int i = 0; i < num_core_; ++i) {
      const auto item = items(core_[i].item);
      const int from = width_place(bits[core_[i].item]);
      int best_to = from;
      for (int to = from + 1; to <= item.widest; ++to) {
        if (best_.cost + item.cost(from, to) <= rest_ && item.saving(best_to, to) > 0) {
          best_to = to;
        }
      }
      if (best_to == from) continue;
      const std::int32_t before = best_.last.to < 0 ? no_record : add_record(best_.last);
      best_ = {best_.cost + item.cost(from, best_to),
               best_.difference - item.saving(from, best_to),
               {before, best_to, core_[i].item}};
    }
    set_gap();
  }

  // Combines all states with all that an item may do.
  template <class Item>
  ACTPACK_HD void combine(const Item& item, std::int64_t i, int from, int items_left) {
    Choice choices[num_widths];
    int num_choices = 0;
    choices[num_choices++] = {0, 0, 0, from, 0};
    for (int to = item.narrowest; to <= item.widest; ++to) {
      if (NearestChanges::is_useful(item, from, to)) {
        choices[num_choices++] = {item.cost(from, to), Change::of(item, i, from, to, price_).loss,
                                  item.saving(from, to), to, 0};
      }
    }
    // The last item's states need not be kept: only the best matters.
    std::int64_t room = 0;
    if (items_left > 0) {
      room = (max_records - num_records_) / items_left;
      if (room > room_) room = room_;
      if (room == 0) is_complete_ = false;
    }
    // Where there are too many, those of greater loss are given up.
    const std::int64_t first_record = num_records_;
    double max_loss = infinity;
    for (int attempt = 0; !merge(choices, num_choices, i, max_loss, room); ++attempt) {
      if (attempt == 8) {
        is_complete_ = false;
        break;
      }
      num_records_ = first_record;
      max_loss = (gap_ < max_loss ? gap_ : max_loss) / 2;
    }
    if (max_loss < least_left_out_) least_left_out_ = max_loss;
    num_states_ = num_next_states_;
    State* const states = states_;
    states_ = next_states_;
    next_states_ = states;
  }

  // Makes the next states in the order of their costs; of each that no other one beats in both
  // cost and variance, and that could still become the best. Returns whether there was room.
  ACTPACK_HD bool merge(Choice* choices, int num_choices, std::int64_t item, double max_loss,
                        std::int64_t room) {
    for (int c = 0; c < num_choices; ++c) choices[c].next = 0;
    std::int64_t kept = 0;
    double least_difference = infinity;
    for (;;) {
      int choice = -1;
      State next{};
      for (int c = 0; c < num_choices; ++c) {
        if (choices[c].next == num_states_) continue;
        const State& state = states_[choices[c].next];
        const State other = {state.cost + choices[c].cost, state.loss + choices[c].loss,
                             state.difference - choices[c].saving, state.record};
        if (choice < 0 || other.cost < next.cost ||
            (other.cost == next.cost && other.difference < next.difference)) {
          choice = c;
          next = other;
        }
      }
      if (choice < 0) break;
      ++choices[choice].next;
      if (next.difference >= least_difference || next.loss > max_loss || next.loss > gap_ ||
          next.cost > max_cost_ || next.cost < -max_cost_) {
        continue;
      }
      least_difference = next.difference;
      const bool is_best = next.cost <= rest_ && next.difference < best_.difference;
      const Record last = {next.record, choices[choice].to, item};
      if (is_best) {
        best_ = {next.cost, next.difference, choice > 0 ? last : records_[next.record]};
        set_gap();
      }
      if (choice > 0 && kept < room) next.record = add_record(last);
      if (kept < room) {
        next_states_[kept++] = next;
      } else if (room > 0) {
        num_next_states_ = kept;
        return false;
      }
    }
    num_next_states_ = kept;
    return true;
  }

  ACTPACK_HD std::int32_t add_record(const Record& record) {
    records_[num_records_] = record;
    return static_cast<std::int32_t>(num_records_++);
  }

  ACTPACK_HD void make_changes(std::uint8_t* bits) const {
    for (Record record = best_.last;; record = records_[record.before]) {
      bits[record.item] = static_cast<std::uint8_t>(bits_at(record.to));
      if (record.before == no_record) break;
    }
  }

  // Of equal items, the first ones are the widest.
  ACTPACK_AS_CALLABLE
  template <class Items>
  ACTPACK_HD void order_ties(const Items& items, std::uint8_t* bits) {
    sort_core([](const Change& a, const Change& b) { return a.item < b.item; });
    for (int i = 0; i < num_core_; ++i) {
      for (int j = i + 1; j < num_core_; ++j) {
        std::uint8_t& first = bits[core_[i].item];
        std::uint8_t& second = bits[core_[j].item];
        if (first < second && items(core_[i].item) == items(core_[j].item)) {
          const std::uint8_t wide = second;
          second = first;
          first = wide;
        }
      }
    }
  }

  std::int64_t room_;
  State* states_;
  State* next_states_;
  Record* records_;
  std::int64_t num_states_ = 0;
  std::int64_t num_next_states_ = 0;
  std::int64_t num_records_ = 0;
  Change core_[max_core];
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
