// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// AdamW: Adam with weight decay that is apart from the gradient and on matrices only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/checkpoint.hpp"
#include "train_gpt/model.hpp"

namespace gpt {

class AdamW {
 public:
  explicit AdamW(Model& model)
      : value_(model.values()), gradient_(model.gradients()),
        matrices_(model.map().matrices(model.values())), mean_(value_.size()),
        square_(value_.size()) {}

  void visit(trainer::Checkpoint& checkpoint) {
    checkpoint.visit("mean", std::span(mean_));
    checkpoint.visit("square", std::span(square_));
    checkpoint.visit("optimizer steps", steps_);
  }

  void step(double learning_rate) {
    ++steps_;
    const float remainder = static_cast<float>(1 - learning_rate * weight_decay);
    for (const std::span<float> matrix : matrices_) {
      for (float& weight : matrix) {
        weight *= remainder;
      }
    }
    // The averages start at 0; both corrections are for that.
    const double mean_share = 1 - std::pow(double{mean_decay}, steps_);
    const double square_share = 1 - std::pow(double{square_decay}, steps_);
    const float rate = static_cast<float>(learning_rate / mean_share);
    const float square_scale = static_cast<float>(1 / square_share);
    for (std::size_t i = 0; i < value_.size(); ++i) {
      const float g = gradient_[i];
      mean_[i] = mean_decay * mean_[i] + (1 - mean_decay) * g;
      square_[i] = square_decay * square_[i] + (1 - square_decay) * g * g;
      value_[i] -= rate * mean_[i] / (std::sqrt(square_scale * square_[i]) + epsilon);
    }
  }

 private:
  static constexpr float mean_decay = 0.9f;
  static constexpr float square_decay = 0.99f;
  static constexpr float epsilon = 1e-8f;
  static constexpr double weight_decay = 0.1;

  std::span<float> value_;
  std::span<const float> gradient_;
  std::vector<std::span<float>> matrices_;
  std::vector<float> mean_;
  std::vector<float> square_;
  std::int64_t steps_ = 0;
};

}  // namespace gpt
