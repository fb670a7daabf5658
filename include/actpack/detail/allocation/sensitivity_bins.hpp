// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Separates, in two passes over any number of items, those whose width is beyond doubt from the few
// that the knapsack must look at.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/allocation/step_list.hpp"
#include "actpack/detail/allocation/workspace.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Items in bins of their sensitivity per value, 32 to an octave. The gain of a step (1 to 2, 2 to
/// 4, 4 to 8 bits) is that times a constant, so one sum of sizes per step and bin gives the cost of
/// the widths at any price per bit.
class SensitivityBins {
 public:
  SensitivityBins(Workspace& workspace, std::size_t items, bool has_limits)
      : has_limits_(has_limits), keys_(workspace.take<std::uint16_t>(items)),
        candidates_(workspace.take<std::uint32_t>(items)),
        choices_(workspace.take<std::uint8_t>(num_bins)) {
    for (std::size_t step = 0; step < num_steps; ++step) {
      numel_from_[step] = step == 0 || has_limits ? workspace.take<std::int64_t>(num_bins + 1)
                                                  : numel_from_[0];  // every item has every step
    }
  }

  void fill(const SensitiveItems& items) {
    for (const auto& numel : distinct_sums()) std::ranges::fill(numel, 0);
    const std::span<std::int64_t> numel_in = numel_from_[0];
    for (std::size_t i = 0; i < items.size(); ++i) {
      const std::int64_t numel = items.numel[i];
      const std::size_t bin = bin_of(items.sensitivity[i] / static_cast<double>(numel));
      keys_[i] = static_cast<std::uint16_t>(bin);
      if (has_limits_) {
        for (int step = items.narrowest(i); step < items.widest(i); ++step) {
          numel_from_[static_cast<std::size_t>(step)][bin] += numel;
        }
      } else {
        numel_in[bin] += numel;
      }
    }
    for (const auto& numel : distinct_sums()) {
      for (std::size_t bin = num_bins; bin-- > 0;) numel[bin] += numel[bin + 1];
    }
  }

  /// Sets a window of bins for each step. Outside, no step is in doubt when `budget` bits can be
  /// spent on steps. Each window includes, on either side of the bins in doubt, room for the
  /// max_changes nearest items if none is larger than `largest_numel`.
  void set_windows(std::int64_t budget, std::int64_t largest_numel) {
    std::size_t low = 0;  // the first bin of gains above which all steps fit into the budget
    for (std::size_t high = num_bins - 1; low < high;) {
      const std::size_t middle = low + (high - low) / 2;
      std::int64_t cost = 0;
      for (std::size_t step = 0; step < num_steps; ++step) {
        cost += step_cost(step) * numel_from_[step][bin_of_sensitivity(middle, step) + 1];
      }
      if (cost <= budget) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    for (std::size_t step = 0; step < num_steps; ++step) {
      const std::span<const std::int64_t> from = numel_from_[step];
      const std::size_t first = bin_of_sensitivity(low == 0 ? 0 : low - 1, step);
      const std::size_t last = bin_of_sensitivity(low, step);
      // A bin more, since gains are rounded.
      const Window inner = {first - std::min<std::size_t>(first, 1),
                            (std::min)(last + 1, num_bins - 1)};
      Window window = inner;
      const auto has_enough = [&](std::size_t low_bin, std::size_t high_bin) {
        return (from[low_bin] - from[high_bin]) / max_changes >= largest_numel;
      };
      while (window.first > 0 && !has_enough(window.first, inner.first)) --window.first;
      while (window.last + 1 < num_bins && !has_enough(inner.last + 1, window.last + 1)) {
        ++window.last;
      }
      windows_[step] = window;
    }
  }

  /// The cost of the steps above the windows.
  std::int64_t cost_above_windows() const {
    std::int64_t cost = 0;
    for (std::size_t step = 0; step < num_steps; ++step) {
      cost += step_cost(step) * numel_from_[step][windows_[step].last + 1];
    }
    return cost;
  }

  /// Sets all `bits` to the widths that the steps above the windows lead to, and lists the steps
  /// within the windows. Returns the items that have such steps.
  std::span<const std::uint32_t> decide(const SensitiveItems& items, StepList& steps,
                                        std::span<std::uint8_t> bits) {
    std::ranges::fill(choices_, 1);
    for (std::size_t step = 0; step < num_steps; ++step) {
      const auto [first, last] = windows_[step];
      const int wider = bits_at(static_cast<int>(step) + 1);
      std::ranges::fill(choices_.subspan(last + 1), static_cast<std::uint8_t>(wider));
    }
    for (const auto [first, last] : windows_) {
      for (std::uint8_t& choice : choices_.subspan(first, last + 1 - first)) choice |= in_doubt;
    }
    // Local pointers stay in registers. Members would be reloaded after every byte written, which
    // may alias them.
    const std::size_t count = items.size();
    const std::uint16_t* const keys = keys_.data();
    const std::uint8_t* const choices = choices_.data();
    std::uint32_t* const list = candidates_.data();
    std::uint8_t* const chosen = bits.data();
    std::size_t num_candidates = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t choice = choices[keys[i]];
      chosen[i] = choice & static_cast<std::uint8_t>(~in_doubt);
      list[num_candidates] = static_cast<std::uint32_t>(i);
      num_candidates += choice >= in_doubt;
    }
    if (has_limits_) {
      for (std::size_t i = 0; i < items.size(); ++i) {
        const int width =
            std::clamp<int>(bits[i], bits_at(items.narrowest(i)), bits_at(items.widest(i)));
        bits[i] = static_cast<std::uint8_t>(width);
      }
    }
    const auto candidates = candidates_.first(num_candidates);
    for (const std::uint32_t i : candidates) {
      const SensitiveItem item = items(i);
      for (int from = item.narrowest; from < item.widest; ++from) {
        const Window& window = windows_[static_cast<std::size_t>(from)];
        if (keys_[i] < window.first || keys_[i] > window.last) continue;
        const double gain = gain_of(item, from, from + 1);
        if (gain > 0) steps.add({gain, item.cost(from, from + 1), i, from, from + 1});
      }
    }
    return candidates;
  }

 private:
  static constexpr std::size_t num_steps = 3;
  static constexpr std::size_t num_bins = std::size_t{1} << 16;
  static constexpr std::uint8_t in_doubt = 0x80;

  struct Window {
    std::size_t first = 0;
    std::size_t last = 0;
  };

  /// The upper 16 bits of a double, its sign left out: -0 is in the bin of 0.
  static std::size_t bin_of(double value) {
    return static_cast<std::uint32_t>(std::bit_cast<std::uint64_t>(value) << 1 >> 48);
  }
  static double lower_edge(std::size_t bin) {
    return std::bit_cast<double>(std::uint64_t{bin} << 47);
  }

  static constexpr std::int64_t step_cost(std::size_t step) {
    return bits_at(static_cast<int>(step));
  }

  /// The gain of a step for one unit of sensitivity per value.
  static constexpr double gain(std::size_t step) {
    const int from = static_cast<int>(step);
    return (share_at(from) - share_at(from + 1)) / static_cast<double>(step_cost(step));
  }

  /// The bin of the sensitivity at which a step has the least gain of `gain_bin`.
  static std::size_t bin_of_sensitivity(std::size_t gain_bin, std::size_t step) {
    return (std::min)(bin_of(lower_edge(gain_bin) / gain(step)), num_bins - 1);
  }

  std::span<std::span<std::int64_t>> distinct_sums() {
    return std::span(numel_from_).first(has_limits_ ? num_steps : 1);
  }

  bool has_limits_;
  std::span<std::uint16_t> keys_;
  std::span<std::uint32_t> candidates_;
  std::span<std::uint8_t> choices_;  // by bin: a width, and whether a step from it is in doubt
  std::array<std::span<std::int64_t>, num_steps> numel_from_;  // of items in a bin or above
  std::array<Window, num_steps> windows_;
};

}  // namespace actpack::detail
