// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A width for each saved tensor within a budget: full tensors report their ranges here, probes of
// the training loop how much each one's noise changes the gradient, and actpack's controller does
// the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "actpack/auto_precision.hpp"
#include "keeping.hpp"
#include "shape.hpp"

namespace gpt {

class TensorWidths {
 public:
  using AllReduce = std::function<void(std::span<double>)>;
  static constexpr std::int64_t solve_interval = 100;  // steps

  TensorWidths(const ModelShape& shape, double average_bits, AllReduce all_reduce)
      : precision_({.average_bits = average_bits,
                    .solve_interval = solve_interval,
                    .all_reduce = std::move(all_reduce)}) {
    for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t kind = 0; kind < kinds; ++kind) {
        const std::int64_t channels = channels_of(shape, static_cast<Kind>(kind));
        precision_.add_tensor({.rows = 1, .row_size = shape.tile() * channels},
                              actpack::PrecisionPer::tensor);
      }
    }
  }

  int bits(std::size_t tensor) const { return precision_.row_bits(tensor)[0]; }
  std::vector<int> bits() const {
    std::vector<int> all;
    for (std::size_t tensor = 0; tensor < precision_.num_tensors(); ++tensor) {
      all.push_back(bits(tensor));
    }
    return all;
  }

  void observe_ranges(std::size_t tensor, double squared_range_norm_of_a_tile) {
    precision_.observe_ranges(tensor, std::span(&squared_range_norm_of_a_tile, 1));
  }
  void observe_perturbation(std::size_t tensor, double squared_difference) {
    precision_.observe_perturbation(tensor, squared_difference);
  }

  // Before a step: whether new widths come after it, and hence probes now.
  bool wants_probes() const { return steps_ == 0 || (steps_ + 1) % solve_interval == 0; }

  // Returns whether there are new widths.
  bool step() {
    ++steps_;
    return precision_.step();
  }

 private:
  actpack::AutoPrecision precision_;
  std::int64_t steps_ = 0;
};

}  // namespace gpt
