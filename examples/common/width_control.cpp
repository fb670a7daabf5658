// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The one place where trainers compile actpack's controller.

#include "common/width_control.hpp"

#include <utility>

#include "actpack/auto_precision.hpp"

namespace trainer {

WidthControl::WidthControl(double average_bits, AllReduce all_reduce)
    : precision_(std::make_unique<actpack::AutoPrecision>(
          actpack::AutoPrecisionOptions{.average_bits = average_bits,
                                        .solve_interval = solve_interval,
                                        .all_reduce = std::move(all_reduce)})) {}
WidthControl::WidthControl(WidthControl&&) noexcept = default;
WidthControl::~WidthControl() = default;

void WidthControl::add_tensor(const actpack::Layout& row) {
  precision_->add_tensor(row, actpack::PrecisionPer::tensor);
}

std::size_t WidthControl::num_tensors() const { return precision_->num_tensors(); }

int WidthControl::bits(std::size_t tensor) const { return precision_->row_bits(tensor)[0]; }

std::vector<int> WidthControl::bits() const {
  std::vector<int> all;
  for (std::size_t tensor = 0; tensor < num_tensors(); ++tensor) {
    all.push_back(bits(tensor));
  }
  return all;
}

void WidthControl::observe_ranges(std::size_t tensor, double squared_range_norm_of_a_row) {
  precision_->observe_ranges(tensor, std::span(&squared_range_norm_of_a_row, 1));
}

void WidthControl::observe_perturbation(std::size_t tensor, double squared_difference) {
  precision_->observe_perturbation(tensor, squared_difference);
}

bool WidthControl::step() {
  ++steps_;
  return precision_->step();
}

std::vector<std::byte> WidthControl::save() const { return precision_->save(); }

void WidthControl::restore(std::span<const std::byte> state, std::int64_t steps) {
  precision_->restore(state);
  steps_ = steps;
}

}  // namespace trainer
