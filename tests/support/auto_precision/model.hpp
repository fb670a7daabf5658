// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The controller's averages a second time, from the documentation alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "support/allocation_reference.hpp"
#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"

namespace support::auto_precision {

inline bool is_usable(double value) { return std::isfinite(value) && value < 1e140; }
inline bool is_usable(const Table& noise) {
  return std::ranges::all_of(noise, [](double n) { return is_usable(n); });
}

// The observations of one item, a row or a tensor.
struct Item {
  std::vector<Table> new_noises;  // since the last solution
  std::vector<double> new_gains;
  std::optional<Table> noise;
  std::optional<double> gain;
};

// Averages from the documentation alone, over lists of all that was observed. The widths of
// tensors that are not known yet are tested elsewhere: those it takes as they are.
class Model {
 public:
  Model(AutoPrecisionOptions options, std::vector<TensorSpec> tensors)
      : options_(std::move(options)), tensors_(std::move(tensors)) {
    for (const TensorSpec& t : tensors_) {
      items_.emplace_back(t.per == PrecisionPer::row ? t.rows() : 1);
    }
  }

  void observe_noise(std::size_t tensor, const Observation& observation) {
    const TensorSpec& t = tensors_[tensor];
    is_measured_ = is_measured_ || observation.is_measured;
    Table sum{};
    for (std::size_t row = 0; row < t.rows(); ++row) {
      const Table noise = observation.is_measured ? observation.noise[row]
                                                  : closed_form(t, observation.ranges[row]);
      for (std::size_t width = 0; width < 4; ++width) sum[width] += noise[width];
      if (t.per == PrecisionPer::row && is_usable(noise)) {
        items_[tensor][row].new_noises.push_back(noise);
      }
    }
    if (t.per == PrecisionPer::tensor && is_usable(sum)) {
      items_[tensor][0].new_noises.push_back(sum);
    }
  }

  void observe_gains(std::size_t tensor, const std::vector<double>& gains) {
    for (std::size_t row = 0; row < gains.size(); ++row) {
      Item& item = items_[tensor][tensors_[tensor].per == PrecisionPer::row ? row : 0];
      if (is_usable(gains[row])) item.new_gains.push_back(gains[row]);
    }
  }

  bool step() {
    ++steps_;
    if (steps_ != 1 && steps_ % options_.solve_interval != 0) return false;
    for (std::vector<Item>& tensor : items_) {
      for (Item& item : tensor) {
        update(item.noise, item.new_noises);
        update(item.gain, item.new_gains);
      }
    }
    return true;
  }

  bool is_known(std::size_t tensor) const {
    return std::ranges::any_of(items_[tensor], [](const Item& i) { return i.noise.has_value(); }) &&
           std::ranges::any_of(items_[tensor], [](const Item& i) { return i.gain.has_value(); });
  }

  Widths expected(Widths widths) const {
    reference::AllocationInstance problem;
    problem.bit_budget =
        static_cast<std::int64_t>(options_.average_bits * static_cast<double>(numel_of(tensors_)));
    for (std::size_t t = 0; t < tensors_.size(); ++t) {
      if (is_known(t)) {
        add_items(problem, t);
      } else {
        problem.bit_budget -= bits_used(tensors_[t], widths[t]);
      }
    }
    const std::vector<std::uint8_t> bits = solve(problem);
    auto next = bits.begin();
    for (std::size_t t = 0; t < tensors_.size(); ++t) {
      if (!is_known(t)) continue;
      for (std::uint8_t& row : widths[t]) {
        row = *next;
        if (tensors_[t].per == PrecisionPer::row) ++next;
      }
      if (tensors_[t].per == PrecisionPer::tensor) ++next;
    }
    return widths;
  }

  std::vector<std::uint8_t> solve(reference::AllocationInstance& problem) const {
    problem.min_bits.assign(problem.items(), static_cast<std::uint8_t>(options_.min_bits));
    problem.max_bits.assign(problem.items(), static_cast<std::uint8_t>(options_.max_bits));
    if (is_measured_) {
      return actpack::allocate_measured_bits({problem.variance, problem.numel, problem.bit_budget,
                                              problem.min_bits, problem.max_bits})
          .bits;
    }
    for (const Table& variance : problem.variance) problem.sensitivity.push_back(variance[0]);
    return actpack::allocate_bits({problem.sensitivity, problem.numel, problem.bit_budget,
                                   problem.min_bits, problem.max_bits})
        .bits;
  }

 private:
  void update(std::optional<Table>& average, std::vector<Table>& seen) const {
    if (seen.empty()) return;
    Table next{};
    for (std::size_t width = 0; width < 4; ++width) {
      std::optional<double> own;
      if (average) own = (*average)[width];
      std::vector<double> values;
      for (const Table& table : seen) values.push_back(table[width]);
      update(own, values);
      next[width] = *own;
    }
    average = next;
    seen.clear();
  }
  void update(std::optional<double>& average, std::vector<double>& seen) const {
    if (seen.empty()) return;
    double mean = 0;
    for (const double value : seen) mean += value;
    mean /= static_cast<double>(seen.size());
    average = average ? options_.decay * *average + (1 - options_.decay) * mean : mean;
    seen.clear();
  }

  void add_items(reference::AllocationInstance& problem, std::size_t tensor) const {
    Table mean_noise{};
    double mean_gain = 0;
    double noises = 0;
    double gains = 0;
    for (const Item& item : items_[tensor]) {
      for (std::size_t width = 0; width < 4; ++width) {
        mean_noise[width] += item.noise ? (*item.noise)[width] : 0;
      }
      mean_gain += item.gain.value_or(0);
      noises += item.noise ? 1 : 0;
      gains += item.gain ? 1 : 0;
    }
    for (double& noise : mean_noise) noise /= noises;
    mean_gain /= gains;
    const TensorSpec& t = tensors_[tensor];
    for (std::size_t i = 0; i < items_[tensor].size(); ++i) {
      const Item& item = items_[tensor][i];
      Table variance = item.noise.value_or(mean_noise);
      for (double& v : variance) v *= item.gain.value_or(mean_gain);
      problem.variance.push_back(variance);
      problem.numel.push_back(t.per == PrecisionPer::row ? t.size_of_row(i) : t.layout.numel());
    }
  }

  AutoPrecisionOptions options_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::vector<Item>> items_;
  std::int64_t steps_ = 0;
  bool is_measured_ = false;
};

}  // namespace support::auto_precision
