// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trained arrays with their gradients, and SGD with Nesterov momentum on a one-cycle learning rate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/parallel.hpp"
#include "common/tensor.hpp"

namespace trainer {

// One trained array and the gradient of the loss with respect to it.
struct Parameter {
  explicit Parameter(std::int64_t numel, float fill = 0) : value(numel), gradient(numel) {
    std::ranges::fill(value.span(), fill);
    std::ranges::fill(gradient.span(), 0.0f);
  }

  Array<float> value;
  Array<float> gradient;
};

// A parameter's gradient while the images of a batch add to it, chunk by chunk.
class GradientSum {
 public:
  GradientSum(std::int64_t images, const Parameter& parameter)
      : partial_(chunks_for(images), parameter.value.numel()) {
    std::ranges::fill(partial_.span(), 0.0f);
  }

  std::span<float> of(const Chunk& chunk) { return partial_.image(chunk.index); }
  void store(Parameter& parameter) const {
    std::ranges::copy(sum_chunks(partial_), parameter.gradient.span().begin());
  }

 private:
  Tensor<float> partial_;
};

inline void fill_normal(std::span<float> values, double deviation, std::mt19937_64& random) {
  std::normal_distribution<double> normal(0, deviation);
  for (float& value : values) {
    value = static_cast<float>(normal(random));
  }
}

// The learning rate at `progress` in [0, 1]: up in a straight line, down in half a cosine.
inline double one_cycle(double progress, double peak = 0.1, double warm_up = 0.2) {
  if (progress < warm_up) {
    return peak * (0.04 + 0.96 * progress / warm_up);
  }
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * (progress - warm_up) / (1 - warm_up)));
}

class Sgd {
 public:
  explicit Sgd(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
    for (const Parameter* parameter : parameters_) {
      velocities_.emplace_back(static_cast<std::size_t>(parameter->value.numel()), 0.0f);
    }
  }

  void visit(Checkpoint& checkpoint) {
    for (std::vector<float>& velocity : velocities_) {
      checkpoint.visit("velocity", std::span(velocity));
    }
  }

  void step(double learning_rate) {
    const float rate = static_cast<float>(learning_rate);
    for (std::size_t index = 0; index < parameters_.size(); ++index) {
      const std::span<float> value = parameters_[index]->value.span();
      const std::span<const float> gradient = parameters_[index]->gradient.span();
      const std::span<float> velocity = velocities_[index];
      for (std::size_t i = 0; i < value.size(); ++i) {
        const float slope = gradient[i] + weight_decay * value[i];
        velocity[i] = momentum * velocity[i] + slope;
        value[i] -= rate * (slope + momentum * velocity[i]);
      }
    }
  }

 private:
  static constexpr float momentum = 0.9f;
  static constexpr float weight_decay = 5e-4f;

  std::vector<Parameter*> parameters_;
  std::vector<std::vector<float>> velocities_;
};

}  // namespace trainer
