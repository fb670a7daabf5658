// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A width for each saved tensor within a budget: full tensors report their ranges here, probes of
// the training loop report how much each one's noise changes the gradient, and actpack's controller
// does the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "actpack/auto_precision.hpp"
#include "actpack/layout.hpp"

namespace trainer {

class WidthControl {
 public:
  using AllReduce = std::function<void(std::span<double>)>;

  // `all_reduce` sums over the processes of a data-parallel training run; none: there is one.
  explicit WidthControl(double average_bits, AllReduce all_reduce = {});
  WidthControl(WidthControl&&) noexcept;
  ~WidthControl();

  // The next tensor, by the layout of one of its rows. All are of this one size: batches differ in
  // their number of rows.
  void add_tensor(const actpack::Layout& row);
  std::size_t num_tensors() const;

  int bits(std::size_t tensor) const;
  std::vector<int> bits() const;

  void observe_ranges(std::size_t tensor, double squared_range_norm_of_a_row);
  void observe_perturbation(std::size_t tensor, double squared_difference);

  // Before a step: whether new widths come after it, and hence probes now.
  bool wants_probes() const { return steps_ == 0 || (steps_ + 1) % solve_interval == 0; }

  // After a step. Returns whether there are new widths.
  bool step();

  // All that later widths depend on, and its return, given the same tensors.
  std::vector<std::byte> save() const;
  void restore(std::span<const std::byte> state, std::int64_t steps);

 private:
  static constexpr std::int64_t solve_interval = 100;  // steps

  std::unique_ptr<actpack::AutoPrecision> precision_;
  std::int64_t steps_ = 0;
};

}  // namespace trainer
