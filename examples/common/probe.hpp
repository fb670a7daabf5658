// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Measures how much each tensor's rounding changes a gradient: computes the gradient of one batch
// again and again, each time with the noise of one tensor changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/checkpoint.hpp"

namespace trainer {

// Numbers the steps of a training run, by which noise differs. All steps of a probe are one.
class NoiseSteps {
 public:
  void begin_step() {
    if (!probed_) {
      ++step_;
    }
  }

  // From here until end_probes() the step stays the same and everything is rounded alike, except
  // tensor number `tensor`, if there is one.
  void begin_probe(std::size_t tensor) {
    begin_step();
    probed_ = tensor;
  }
  void end_probes() { probed_.reset(); }

  std::uint64_t step() const { return step_; }

  void visit(Checkpoint& checkpoint) { checkpoint.visit("noise step", step_); }

  // A tensor's number among 2^16, the upper half of which are the probed ones'.
  std::uint64_t stream_of(std::size_t tensor) const {
    return tensor | (probed_ == tensor ? none : 0);
  }

  static constexpr std::size_t none = 1 << 15;  // no tensor's number

 private:
  std::uint64_t step_ = 0;
  std::optional<std::size_t> probed_;
};

// Calls report(tensor, squared norm of the difference) for each tensor. gradient() computes the
// gradient of the same batch, as one vector, in a new step of `steps`; num_tensors() is called
// after it.
template <class Gradient, class NumTensors, class Report>
void perturb_tensors(NoiseSteps& steps, const Gradient& gradient, const NumTensors& num_tensors,
                     const Report& report) {
  const auto perturbed_gradient = [&](std::size_t tensor) {
    steps.begin_probe(tensor);
    return gradient();
  };
  const std::vector<float> unperturbed = perturbed_gradient(NoiseSteps::none);
  const std::size_t tensors = num_tensors();
  for (std::size_t tensor = 0; tensor < tensors; ++tensor) {
    const std::vector<float> other = perturbed_gradient(tensor);
    double squared_difference = 0;
    for (std::size_t i = 0; i < other.size(); ++i) {
      const double difference = double{other[i]} - double{unperturbed[i]};
      squared_difference += difference * difference;
    }
    report(tensor, squared_difference);
  }
  steps.end_probes();
}

}  // namespace trainer
