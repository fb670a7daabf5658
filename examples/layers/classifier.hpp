// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The last layer: fully connected, with softmax and cross entropy.
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "common/parameter.hpp"

namespace trainer {

class Classifier {
 public:
  Classifier(std::int64_t inputs, std::int64_t classes, std::mt19937_64& random);

  Parameter weight;  // [inputs][classes]
  Parameter bias;

  std::int64_t inputs() const { return inputs_; }
  std::int64_t classes() const { return classes_; }

  void forward(std::span<const float> input, std::span<float> probabilities) const;

  static double loss(std::span<const float> probabilities, std::uint8_t label);

  // The gradient of `share` · loss with respect to the input of softmax.
  static void loss_gradient(std::span<const float> probabilities, std::uint8_t label, float share,
                            std::span<float> gradient);

  // Adds one image's share to the parameters' gradients and writes `input_gradient`.
  void backward(std::span<const float> input, std::span<const float> output_gradient,
                std::span<float> weight_gradient, std::span<float> bias_gradient,
                std::span<float> input_gradient) const;

 private:
  std::int64_t inputs_;
  std::int64_t classes_;
};

}  // namespace trainer
