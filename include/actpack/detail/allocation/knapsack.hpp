// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Bit allocation as a multiple-choice knapsack: one width per item, the least sum of variances, and
// a budget for the sum of bits.
//
// At a price λ per bit, every item has a width that makes variance + λ · bits least. At the lowest
// price whose widths fit into the budget, those widths are nearly best. Less than one item's step
// to the next width is left of the budget then; a search among the few items that may change at a
// small loss spends it.
//
// A *step* takes an item to a wider width; its *gain* is the variance that it saves per bit. A
// *change* takes an item from its width at price λ to any other; its *loss*, never negative, is the
// increase of variance + λ · bits.
//
// Only fma() ever adds a product to anything, here and in what builds on this: every compiler and
// machine finds the same widths, whatever the flags.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// a · b, rounded before it is added to anything.
ACTPACK_HD inline double product(double a, double b) { return std::fma(a, b, 0.0); }

/// A width is known by its index in `widths`: 0 to 3 for 1, 2, 4 and 8 bits.
inline constexpr int num_widths = 4;
ACTPACK_HD constexpr int bits_at(int width_index) { return 1 << width_index; }
ACTPACK_HD constexpr int index_of_width(int bits) {
  return bits == 1 ? 0 : bits == 2 ? 1 : bits == 4 ? 2 : 3;
}

/// Common to items of all kinds: a size, and the indices of the widths that they may
/// have. A kind adds saving(from, to), by how much the variance at one width exceeds that at
/// another, and says whether its variances are convex: then every step leads to the next width.
struct KnapsackItem {
  std::int64_t numel = 0;
  int narrowest = 0;
  int widest = num_widths - 1;

  /// The bits that a change from one width to another takes.
  ACTPACK_HD constexpr std::int64_t cost(int from, int to) const {
    return numel * (bits_at(to) - bits_at(from));
  }
};

/// The variance that a change of `item` saves per bit; positive if the variance falls with the
/// width.
template <class Item>
ACTPACK_HD double gain_of(const Item& item, int from, int to) {
  return item.saving(from, to) / static_cast<double>(item.cost(from, to));
}

/// Calls f(gain, from, to) for the steps along the lower convex hull of an item's variances: they
/// lead through the widths that are best at some price. Their gains never increase.
ACTPACK_AS_CALLABLE
template <class Item, class F>
ACTPACK_HD void for_each_step(const Item& item, const F& f) {
  double last_gain = infinity;
  for (int from = item.narrowest; from < item.widest;) {
    double gain = 0;
    int next = from;
    const int last = Item::is_convex ? from + 1 : item.widest;
    for (int to = from + 1; to <= last; ++to) {
      const double gain_to = gain_of(item, from, to);
      if (gain_to > gain) {
        gain = gain_to;
        next = to;
      }
    }
    if (next == from) return;
    if (gain < last_gain) last_gain = gain;  // rounding does not put steps out of order
    f(last_gain, from, next);
    from = next;
  }
}

// Items of one size: of each of the 12 kinds (from, to), only the 13 changes of least loss matter,
// and no sum beyond 13 · 7 units does. Proof: in units of that size, a change costs δ = ±1, 2, 3,
// 4, 6 or 7, and at most 6 are left of the budget. Undoing changes that cost 0 together, or that
// save no more than remains unused, makes no solution worse; so some best solution has no such
// changes. The sum of its δ is between -6 and 6. Order them so that a negative δ follows a positive
// partial sum, and a positive δ any other. Then all partial sums are between -6 and 7, and all
// differ: there are at most 13 changes.
inline constexpr int max_changes = 13;
inline constexpr int num_kinds = num_widths * (num_widths - 1);
inline constexpr int max_core = num_kinds * max_changes;
inline constexpr std::int64_t max_units = 7 * max_changes;

ACTPACK_HD constexpr int kind_of(int from, int to) {
  return from * (num_widths - 1) + (to < from ? to : to - 1);
}
ACTPACK_HD constexpr int from_of(int kind) { return kind / (num_widths - 1); }
ACTPACK_HD constexpr int to_of(int kind) {
  const int to = kind % (num_widths - 1);
  return to < from_of(kind) ? to : to + 1;
}

struct Change {
  double distance = infinity;  // of its gain from the price
  double loss = infinity;
  std::int64_t item = -1;  // no change, which is further away than any

  template <class Item>
  ACTPACK_HD static Change of(const Item& item, std::int64_t i, int from, int to, double price) {
    const double distance =
        to > from ? price - gain_of(item, from, to) : gain_of(item, from, to) - price;
    if (!(distance > 0)) return {0, 0, i};
    const std::int64_t cost = item.cost(from, to);
    return {distance, product(distance, static_cast<double>(cost > 0 ? cost : -cost)), i};
  }
};

/// Whether `a` is nearer than `b`. Among equal items, the first become wider, the last narrower.
ACTPACK_HD constexpr bool is_nearer(const Change& a, const Change& b, bool becomes_wider) {
  if (a.distance != b.distance) return a.distance < b.distance;
  return becomes_wider ? a.item < b.item : a.item > b.item;
}

/// Whether a change may be of use: a wider item must have less variance.
template <class Item>
ACTPACK_HD bool is_useful(const Item& item, int from, int to) {
  return to < from ? to >= item.narrowest
                   : to > from && to <= item.widest && item.saving(from, to) > 0;
}

/// The changes of each kind whose gains are nearest to the price. For items of one size, they have
/// the least losses.
class NearestChanges {
 public:
  void insert(int from, int to, const Change& change) {
    const int kind = kind_of(from, to);
    Change* const changes = changes_ + kind * max_changes;
    int& size = sizes_[kind];
    if (size == max_changes) {
      const bool is_in = is_nearer(change, changes[size - 1], to > from);
      const double loss = is_in ? changes[size - 1].loss : change.loss;
      if (loss < least_left_out_) least_left_out_ = loss;
      if (!is_in) return;
      --size;
    }
    int position = size++;
    for (; position > 0 && is_nearer(change, changes[position - 1], to > from); --position) {
      changes[position] = changes[position - 1];
    }
    changes[position] = change;
  }

  /// Inserts the changes of item `i` from its width `from` to wider ones. Fastest if called in the
  /// order of the items.
  template <class Item>
  void insert_wider(const Item& item, std::int64_t i, int from, double price) {
    for (int to = from + 1; to <= item.widest; ++to) {
      if (is_useful(item, from, to)) insert(from, to, Change::of(item, i, from, to, price));
    }
  }

  /// The same for narrower ones. Fastest in reverse order.
  template <class Item>
  void insert_narrower(const Item& item, std::int64_t i, int from, double price) {
    for (int to = item.narrowest; to < from; ++to) {
      insert(from, to, Change::of(item, i, from, to, price));
    }
  }

  /// max_changes of each kind; unused ones have item -1.
  const Change* data() const { return changes_; }

  /// The least loss of all changes that were left out.
  double least_left_out() const { return least_left_out_; }

 private:
  Change changes_[max_core];
  int sizes_[num_kinds] = {};
  double least_left_out_ = infinity;
};

}  // namespace actpack::detail
