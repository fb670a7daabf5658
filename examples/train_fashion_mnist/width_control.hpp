// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Widths by tensor within a budget: packed tensors report their ranges here, probes of the training
// loop how much each one's noise changes the gradient, and actpack's controller does the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/auto_precision.hpp"

namespace trainer {

class WidthControl {
 public:
  static constexpr std::int64_t probe_interval = 100;  // steps

  explicit WidthControl(double average_bits)
      : precision_({.average_bits = average_bits, .solve_interval = probe_interval}) {}

  // The width of a step's tensor number `tensor`. New ones must come in the order of their numbers;
  // sizes are those of one image, since the last batch of an epoch has fewer.
  int bits(std::size_t tensor, std::int64_t image_numel, std::int32_t group_size) {
    if (tensor == precision_.num_tensors()) {
      precision_.add_tensor({.rows = 1, .row_size = image_numel, .group_size = group_size},
                            actpack::PrecisionPer::tensor);
    }
    return precision_.row_bits(tensor)[0];
  }

  std::size_t num_tensors() const { return precision_.num_tensors(); }

  void observe_ranges(std::size_t tensor, double squared_range_norm_of_an_image) {
    precision_.observe_ranges(tensor, std::span(&squared_range_norm_of_an_image, 1));
  }
  void observe_perturbation(std::size_t tensor, double squared_difference) {
    precision_.observe_perturbation(tensor, squared_difference);
  }

  // Before a step: whether new widths come after it, and hence probes now.
  bool wants_probes() const { return steps_ == 0 || (steps_ + 1) % probe_interval == 0; }
  void step() {
    precision_.step();
    ++steps_;
  }

 private:
  actpack::AutoPrecision precision_;
  std::int64_t steps_ = 0;
};

}  // namespace trainer
