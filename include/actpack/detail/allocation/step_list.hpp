// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Steps from width to width: a budget buys those of greatest gain.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/workspace.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct Step {
  double gain;
  std::int64_t cost;
  std::uint32_t item;
  std::uint8_t from;
  std::uint8_t to;

  Step() = default;
  Step(double g, std::int64_t c, std::size_t i, int f, int t)
      : gain(g), cost(c), item(static_cast<std::uint32_t>(i)), from(static_cast<std::uint8_t>(f)),
        to(static_cast<std::uint8_t>(t)) {}

  /// Larger gains come first, then lower items, then narrower widths.
  friend bool operator<(const Step& a, const Step& b) {
    if (a.gain != b.gain) return a.gain > b.gain;
    return a.item != b.item ? a.item < b.item : a.from < b.from;
  }
};

class StepList {
 public:
  StepList(Workspace& workspace, std::size_t items)
      : steps_(workspace.take<Step>((num_widths - 1) * items)) {}

  void add(const Step& step) { steps_[size_++] = step; }

  /// Widens `bits` by the first steps that together fit into the budget, and subtracts their cost
  /// from it. Returns the gain of the next step, which is the price of a bit; 0 if all steps fit.
  double take(std::int64_t& budget, std::span<std::uint8_t> bits) {
    Step* first = steps_.data();
    Step* const end = first + size_;
    const bool is_sorted = std::is_sorted(first, end);  // as if all items are equal
    for (Step* last = end; first != last;) {
      Step* const middle = first + (last - first) / 2;
      if (!is_sorted) std::nth_element(first, middle, last);
      std::int64_t cost = 0;
      for (const Step* step = first; step <= middle && cost <= budget; ++step) cost += step->cost;
      if (cost > budget) {
        last = middle;
        continue;
      }
      budget -= cost;
      for (; first <= middle; ++first) {
        std::uint8_t& width = bits[first->item];
        width = (std::max)(width, static_cast<std::uint8_t>(bits_at(first->to)));
      }
    }
    return first == end ? 0 : first->gain;
  }

 private:
  std::span<Step> steps_;
  std::size_t size_ = 0;
};

}  // namespace actpack::detail
