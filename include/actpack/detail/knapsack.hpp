// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The multiple-choice knapsack that bit allocation is: one width per item, the least sum of
// variances, and a budget for the sum of bits.
//
// For a price λ per bit, every item has a width of its own that makes variance + λ · bits least;
// those widths cost what they cost. solve() finds the price at which the widths just fit, by
// selection among steps from one width to the next, and then searches the few items near that price
// for the best use of what is left of the budget.
//
// Words: a *step* goes from one width of an item to a wider one; its *gain* is the variance it
// saves per bit. A *change* takes an item from its width at price λ to another one; its *loss* is
// by how much that makes variance + λ · bits worse, and is never negative.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "actpack/variance.hpp"

namespace actpack::detail {

/// The place of a width in `widths`, and the width at a place.
constexpr int width_index(int bits) { return std::countr_zero(static_cast<unsigned>(bits)); }
constexpr int bits_at(int index) { return 1 << index; }

/// One item: its size, its variance at each width, and the widths it may have, narrowest to widest,
/// by their places in `widths`.
struct KnapsackItem {
  std::int64_t numel = 0;
  std::array<double, 4> variance{};
  int narrowest = 0;
  int widest = 3;

  double variance_at(int index) const { return variance[static_cast<std::size_t>(index)]; }
  std::int64_t cost(int from, int to) const { return numel * (bits_at(to) - bits_at(from)); }
  bool operator==(const KnapsackItem&) const = default;
};

/// From one width of an item to a wider one.
struct Step {
  double gain = 0;
  std::int64_t cost = 0;
  std::uint32_t item = 0;
  std::uint8_t from = 0;
  std::uint8_t to = 0;

  /// Larger gains come first, then lower items, then an item's own order.
  friend bool operator<(const Step& a, const Step& b) {
    if (a.gain != b.gain) return a.gain > b.gain;
    return a.item != b.item ? a.item < b.item : a.from < b.from;
  }
};

/// Calls f(gain, from, to) for the steps along the lower convex hull of an item's variances: the
/// widths that are best at some price. Their gains never increase.
template <class F>
void for_each_step(const KnapsackItem& item, const F& f) {
  double last_gain = std::numeric_limits<double>::infinity();
  for (int from = item.narrowest; from < item.widest;) {
    double gain = 0;
    int next = from;
    for (int to = from + 1; to <= item.widest; ++to) {
      const double gain_to = (item.variance_at(from) - item.variance_at(to)) /
                             static_cast<double>(item.cost(from, to));
      if (gain_to > gain) {
        gain = gain_to;
        next = to;
      }
    }
    if (next == from) return;
    last_gain = std::min(gain, last_gain);  // rounding does not put an item's steps out of order
    f(last_gain, from, next);
    from = next;
  }
}

/// Memory handed out piece by piece from a caller's workspace. Without one, adds up what is needed.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::span<std::byte> memory) : memory_(memory) {}

  /// An array whose elements come into being uninitialised: bytes do that for types that need no
  /// constructor.
  template <class T>
  std::span<T> take(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignment);
    std::byte* const bytes = memory_.data() == nullptr ? nullptr : aligned() + used_;
    used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    if (bytes == nullptr) return {};
    return {reinterpret_cast<T*>(bytes), count};
  }

  /// Bytes for what was taken, wherever the workspace starts.
  std::size_t size() const { return used_ + alignment; }

 private:
  static constexpr std::size_t alignment = 64;

  std::byte* aligned() const {
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (alignment - start % alignment) % alignment;
  }

  std::span<std::byte> memory_;
  std::size_t used_ = 0;
};

/// What solve() found beyond the widths.
struct KnapsackSolution {
  double price = 0;         // λ
  std::int64_t unused = 0;  // bits of the budget
  double gap = 0;           // no choice of widths is better by more than this
  bool is_best = false;     // none is better at all
};

class Knapsack {
 public:
  Knapsack(Workspace& workspace, std::size_t items)
      : steps_(workspace.take<Step>(3 * items)), core_(workspace.take<CoreItem>(max_core)),
        states_(workspace.take<State>(states_for(items))),
        next_states_(workspace.take<State>(states_for(items))),
        records_(workspace.take<Record>(max_records)) {}

  /// Forgets the steps.
  void clear() { num_steps_ = 0; }

  /// Adds a step that solve() may take.
  void add_step(double gain, std::int64_t cost, std::size_t item, int from, int to) {
    steps_[num_steps_++] = {gain, cost, static_cast<std::uint32_t>(item),
                            static_cast<std::uint8_t>(from), static_cast<std::uint8_t>(to)};
  }

  /// Widens `bits` by the first of the steps, in the order of their gains, that fit into `budget`
  /// bits; then searches changes to the items `candidates`, a list in ascending order, for a better
  /// use of the rest. items(i) is item i. Only steps that are certain to be taken, or certain not
  /// to be, may be missing; the former are in `bits` already and not in the budget.
  ///
  /// Best among changes to the candidates: for items of one size, and for up to 8 of any; for more
  /// it often is, and says so.
  template <class Items, class Candidates>
  KnapsackSolution solve(const Items& items, const Candidates& candidates, bool has_equal_sizes,
                         std::int64_t budget, std::span<std::uint8_t> bits) {
    rest_ = budget;
    price_ = take_steps(bits);
    if (price_ == 0)
      return {.unused = rest_, .is_best = true};  // every item has its least variance
    select_core(items, candidates, bits);
    search(items, has_equal_sizes, bits);
    if (best_.has_changes) {
      make_changes(bits);
      order_ties(items, bits);
    }
    const double gap = std::max(0.0, gap_to_bound());
    return {price_, rest_ - best_.cost, gap,
            is_complete_ && (has_equal_sizes || least_left_out_ >= gap)};
  }

 private:
  // In units of one size, a change δ of an item's bits is among ±1, 2, 3, 4, 6, 7 and the rest of
  // the budget at most 6. Undoing changes that cost 0 together, or that save no more than remains
  // unused, makes no solution worse; so one of the best has no such changes. Their sum is then
  // between -6 and 6; made in an order in which a saving follows a positive sum and a cost any
  // other, they have sums between -6 and 7, which are all different: there are 13 changes at the
  // most. Hence only the 13 of least loss matter of each kind (from, to), and sums beyond 13 · 7
  // units do not.
  static constexpr std::size_t max_changes = 13;
  static constexpr std::size_t num_kinds = 12;
  static constexpr std::size_t max_core = num_kinds * max_changes;
  static constexpr std::int64_t max_units = 7 * std::int64_t{max_changes};

  // Enough for all 4^7 choices for seven items (those for the last one are not stored), and for 2 ·
  // 91 + 1 sums at each of 156 items.
  static constexpr std::size_t max_states = 1 << 14;
  static constexpr std::size_t max_records = 1 << 15;

  static constexpr std::size_t states_for(std::size_t items) {
    return items < 7 ? std::size_t{1} << (2 * items) : max_states;
  }

  struct Change {
    double loss = 0;
    std::size_t item = 0;
  };

  /// The changes of least loss of one kind, best first.
  class Nearest {
   public:
    /// Puts a change in its place, behind equal ones. Returns the loss of what is left out for it,
    /// ∞ if nothing is.
    double insert(const Change& change) {
      double left_out = std::numeric_limits<double>::infinity();
      if (size_ == max_changes) {
        if (change.loss >= changes_.back().loss) return change.loss;
        left_out = changes_[--size_].loss;
      }
      std::size_t place = size_++;
      for (; place > 0 && changes_[place - 1].loss > change.loss; --place) {
        changes_[place] = changes_[place - 1];
      }
      changes_[place] = change;
      return left_out;
    }

    std::span<const Change> changes() const { return {changes_.data(), size_}; }

   private:
    std::array<Change, max_changes> changes_{};
    std::size_t size_ = 0;
  };

  /// An item that may change, and the least loss of that.
  struct CoreItem {
    double least_loss = 0;
    std::size_t item = 0;
  };

  /// The last of some changes, and where the one before is recorded.
  struct Record {
    std::uint32_t before = 0;
    std::uint32_t item = 0;
    std::uint8_t to = 0;
  };
  static constexpr std::uint32_t no_record = std::numeric_limits<std::uint32_t>::max();

  /// What some changes cost together and lose.
  struct State {
    std::int64_t cost = 0;
    double loss = 0;
    std::uint32_t record = no_record;
  };

  struct Best {
    std::int64_t cost = 0;
    double difference = 0;  // of the sum of variances
    Record record;
    bool has_changes = false;
  };

  /// What one item may do in the search: stay, or change.
  struct Choice {
    std::int64_t cost = 0;
    double loss = 0;
    int to = 0;
    std::size_t next = 0;  // of the states to combine it with
  };

  // By how much changes lower or raise the sum of variances.
  double difference(std::int64_t cost, double loss) const {
    return loss - price_ * static_cast<double>(cost);
  }

  // Without changes the sum of variances is at most price · rest above the bound.
  double gap_to_bound() const { return price_ * static_cast<double>(rest_) + best_.difference; }

  // Takes the first steps that fit into the rest together. Returns the gain of the first that does
  // not, the price; 0 if all do.
  double take_steps(std::span<std::uint8_t> bits) {
    Step* first = steps_.data();
    Step* const end = first + num_steps_;
    const bool is_sorted = std::is_sorted(first, end);  // as items that are all alike are
    for (Step* last = end; first != last;) {
      Step* const middle = first + (last - first) / 2;
      if (!is_sorted) std::nth_element(first, middle, last);
      std::int64_t cost = 0;
      for (const Step* step = first; step <= middle && cost <= rest_; ++step) {
        cost += step->cost;
      }
      if (cost > rest_) {
        last = middle;
        continue;
      }
      rest_ -= cost;
      for (; first <= middle; ++first) {
        const auto width = static_cast<std::uint8_t>(bits_at(first->to));
        bits[first->item] = std::max(bits[first->item], width);
      }
    }
    return first == end ? 0 : first->gain;
  }

  template <class Items, class Candidates>
  void select_core(const Items& items, const Candidates& candidates,
                   std::span<const std::uint8_t> bits) {
    std::array<std::array<Nearest, 4>, 4> kinds;
    least_left_out_ = std::numeric_limits<double>::infinity();
    const auto insert = [&](std::size_t i, const KnapsackItem& item, int to) {
      const int from = width_index(bits[i]);
      Nearest& kind = kinds[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)];
      least_left_out_ = std::min(least_left_out_, kind.insert({loss(item, from, to), i}));
    };
    // Of equal items, the first become wider and the last narrower.
    for (std::size_t k = 0; k < candidates.size(); ++k) {
      const std::size_t i = candidates[k];
      const KnapsackItem item = items(i);
      const int from = width_index(bits[i]);
      for (int to = from + 1; to <= item.widest; ++to) {
        if (item.variance_at(to) < item.variance_at(from)) insert(i, item, to);
      }
    }
    for (std::size_t k = candidates.size(); k-- > 0;) {
      const std::size_t i = candidates[k];
      const KnapsackItem item = items(i);
      for (int to = item.narrowest; to < width_index(bits[i]); ++to) insert(i, item, to);
    }
    num_core_ = 0;
    for (const auto& row : kinds) {
      for (const Nearest& kind : row) {
        for (const Change& change : kind.changes()) {
          core_[num_core_++] = {change.loss, change.item};
        }
      }
    }
    // Every item once, with its least loss.
    const auto first = core_.begin();
    const auto last = first + static_cast<std::ptrdiff_t>(num_core_);
    std::sort(first, last, [](const CoreItem& a, const CoreItem& b) {
      return a.item != b.item ? a.item < b.item : a.least_loss < b.least_loss;
    });
    const auto is_same = [](const CoreItem& a, const CoreItem& b) { return a.item == b.item; };
    num_core_ = static_cast<std::size_t>(std::unique(first, last, is_same) - first);
  }

  double loss(const KnapsackItem& item, int from, int to) const {
    return std::max(0.0, item.variance_at(to) - item.variance_at(from) +
                             price_ * static_cast<double>(item.cost(from, to)));
  }

  // Combines the core's changes, item by item. Of states it keeps those that no other one beats in
  // both cost and variance, and that could still become better than the best.
  template <class Items>
  void search(const Items& items, bool has_equal_sizes, std::span<const std::uint8_t> bits) {
    const std::span<CoreItem> core = core_.first(num_core_);
    std::ranges::sort(core, [](const CoreItem& a, const CoreItem& b) {
      return a.least_loss != b.least_loss ? a.least_loss < b.least_loss : a.item < b.item;
    });
    best_ = {};
    is_complete_ = true;
    num_records_ = 0;
    num_states_ = 1;
    states_[0] = {};
    max_cost_ = std::numeric_limits<std::int64_t>::max();
    if (has_equal_sizes && num_core_ > 0) max_cost_ = max_units * items(core[0].item).numel;
    fill(items, bits);
    for (std::size_t i = 0; i < core.size() && core[i].least_loss <= gap_to_bound(); ++i) {
      const KnapsackItem item = items(core[i].item);
      const int from = width_index(bits[core[i].item]);
      std::array<Choice, 4> choices{};
      std::size_t num_choices = 1;  // the first is to stay
      for (int to = item.narrowest; to <= item.widest; ++to) {
        if (to < from || item.variance_at(to) < item.variance_at(from)) {
          choices[num_choices++] = {item.cost(from, to), loss(item, from, to), to};
        }
      }
      combine(std::span(choices).first(num_choices), static_cast<std::uint32_t>(core[i].item),
              core.size() - 1 - i);
    }
  }

  // Spends the rest on one item after the other: a first answer, that rules out most others.
  template <class Items>
  void fill(const Items& items, std::span<const std::uint8_t> bits) {
    for (const CoreItem& candidate : core_.first(num_core_)) {
      const KnapsackItem item = items(candidate.item);
      const int from = width_index(bits[candidate.item]);
      Best next = best_;
      for (int to = from + 1; to <= item.widest; ++to) {
        const std::int64_t cost = best_.cost + item.cost(from, to);
        const double change = best_.difference + item.variance_at(to) - item.variance_at(from);
        if (cost <= rest_ && change < next.difference) {
          const std::uint32_t before = best_.has_changes ? add_record(best_.record) : no_record;
          next = {
              cost,
              change,
              {before, static_cast<std::uint32_t>(candidate.item), static_cast<std::uint8_t>(to)},
              true};
        }
      }
      best_ = next;
    }
  }

  // Makes the next states from all states and choices, in the order of their costs. Where there
  // are too many, those of greater loss are given up.
  void combine(std::span<Choice> choices, std::uint32_t item, std::size_t items_left) {
    const std::size_t room =
        items_left == 0 ? 0
                        : std::min(next_states_.size(), (max_records - num_records_) / items_left);
    const std::size_t first_record = num_records_;
    double max_loss = std::numeric_limits<double>::infinity();
    for (int attempt = 0;; ++attempt) {
      for (Choice& choice : choices) choice.next = 0;
      num_records_ = first_record;
      if (merge(choices, item, max_loss, room) || items_left == 0) break;
      if (attempt == 8) {
        is_complete_ = false;
        break;
      }
      max_loss = std::min(max_loss, gap_to_bound()) / 2;
    }
    least_left_out_ = std::min(least_left_out_, max_loss);
    std::swap(states_, next_states_);
  }

  // Returns whether there was room for all that is worth keeping.
  bool merge(std::span<Choice> choices, std::uint32_t item, double max_loss, std::size_t room) {
    std::size_t kept = 0;
    double least_difference = std::numeric_limits<double>::infinity();
    for (;;) {
      Choice* choice = nullptr;
      std::int64_t cost = 0;
      double loss = 0;
      for (Choice& other : choices) {
        if (other.next == num_states_) continue;
        const State& state = states_[other.next];
        const std::int64_t other_cost = state.cost + other.cost;
        const double other_loss = state.loss + other.loss;
        if (choice == nullptr || other_cost < cost || (other_cost == cost && other_loss < loss)) {
          choice = &other;
          cost = other_cost;
          loss = other_loss;
        }
      }
      if (choice == nullptr) break;
      const State& state = states_[choice->next++];
      const double change = difference(cost, loss);
      if (change >= least_difference || loss > std::min(max_loss, gap_to_bound()) ||
          cost > max_cost_ || cost < -max_cost_) {
        continue;
      }
      least_difference = change;
      const bool stays = choice == choices.data();
      const Record record{state.record, item, static_cast<std::uint8_t>(choice->to)};
      if (!stays && cost <= rest_ && change < best_.difference)
        best_ = {cost, change, record, true};
      if (kept == room) {
        if (room > 0) return false;
        continue;
      }
      next_states_[kept++] = {cost, loss, stays ? state.record : add_record(record)};
    }
    num_states_ = kept;
    return true;
  }

  std::uint32_t add_record(const Record& record) {
    records_[num_records_] = record;
    return static_cast<std::uint32_t>(num_records_++);
  }

  void make_changes(std::span<std::uint8_t> bits) const {
    for (Record record = best_.record;; record = records_[record.before]) {
      bits[record.item] = static_cast<std::uint8_t>(bits_at(record.to));
      if (record.before == no_record) break;
    }
  }

  // Of equal items, the first ones are the widest.
  template <class Items>
  void order_ties(const Items& items, std::span<std::uint8_t> bits) {
    const std::span<CoreItem> core = core_.first(num_core_);
    std::ranges::sort(core, {}, &CoreItem::item);
    for (std::size_t i = 0; i < core.size(); ++i) {
      for (std::size_t j = i + 1; j < core.size(); ++j) {
        std::uint8_t& first = bits[core[i].item];
        std::uint8_t& second = bits[core[j].item];
        if (first < second && items(core[i].item) == items(core[j].item)) {
          std::swap(first, second);
        }
      }
    }
  }

  std::span<Step> steps_;
  std::span<CoreItem> core_;
  std::span<State> states_;
  std::span<State> next_states_;
  std::span<Record> records_;
  std::size_t num_steps_ = 0;
  std::size_t num_core_ = 0;
  std::size_t num_states_ = 0;
  std::size_t num_records_ = 0;

  std::int64_t rest_ = 0;  // of the budget
  double price_ = 0;
  std::int64_t max_cost_ = 0;
  Best best_;
  double least_left_out_ = 0;  // the least loss of a change that the search does not know
  bool is_complete_ = true;
};

}  // namespace actpack::detail
