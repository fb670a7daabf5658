// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A matrix product of one row.

#include "layers/classifier.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "common/eigen.hpp"

namespace trainer {

Classifier::Classifier(std::int64_t inputs, std::int64_t classes, std::mt19937_64& random)
    : weight(inputs * classes), bias(classes, 0), inputs_(inputs), classes_(classes) {
  fill_normal(weight.value.span(), std::sqrt(1.0 / static_cast<double>(inputs)), random);
}

void Classifier::forward(std::span<const float> input, std::span<float> probabilities) const {
  Matrix(probabilities.data(), 1, classes_).noalias() =
      ConstMatrix(input.data(), 1, inputs_) *
      ConstMatrix(weight.value.span().data(), inputs_, classes_);
  float largest = -INFINITY;
  for (std::size_t c = 0; c < probabilities.size(); ++c) {
    probabilities[c] += bias.value.span()[c];
    largest = std::max(largest, probabilities[c]);
  }
  float total = 0;
  for (float& probability : probabilities) {
    probability = std::exp(probability - largest);
    total += probability;
  }
  for (float& probability : probabilities) {
    probability /= total;
  }
}

double Classifier::loss(std::span<const float> probabilities, std::uint8_t label) {
  return -std::log(std::max(double{probabilities[label]}, 1e-30));
}

void Classifier::loss_gradient(std::span<const float> probabilities, std::uint8_t label,
                               float share, std::span<float> gradient) {
  std::ranges::transform(probabilities, gradient.begin(), [=](float p) { return share * p; });
  gradient[label] -= share;
}

void Classifier::backward(std::span<const float> input, std::span<const float> output_gradient,
                          std::span<float> weight_gradient, std::span<float> bias_gradient,
                          std::span<float> input_gradient) const {
  const ConstMatrix gradient(output_gradient.data(), 1, classes_);
  Matrix(bias_gradient.data(), 1, classes_) += gradient;
  Matrix(weight_gradient.data(), inputs_, classes_).noalias() +=
      ConstMatrix(input.data(), inputs_, 1) * gradient;
  Matrix(input_gradient.data(), inputs_, 1).noalias() =
      ConstMatrix(weight.value.span().data(), inputs_, classes_) * gradient.transpose();
}

}  // namespace trainer
