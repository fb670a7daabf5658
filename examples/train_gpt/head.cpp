// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Logits, softmax and cross entropy, a tile of tokens at a time.

#include "train_gpt/head.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "common/eigen.hpp"
#include "train_gpt/layers.hpp"

namespace gpt {

using trainer::rows_of;

double Head::loss(std::span<const float> x, std::span<const std::uint8_t> targets,
                  Scratch& work) const {
  double total = 0;
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    predict(tile(x, token), work);
    total += cross_entropy(probabilities(work), part(targets, token, shape_.tile()));
  }
  return total;
}

double Head::backward(std::span<float> x, std::span<const std::uint8_t> targets, float share,
                      Scratch& work, std::span<float> gradient) const {
  const HeadParameters<float> dp(gradient, shape_);
  double total = 0;
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::span<float> stream = tile(x, token);
    const std::span<const std::uint8_t> tile_targets = part(targets, token, shape_.tile());
    const std::span<float> inverse_deviation = predict(stream, work);
    const std::span<float> logit_gradient = probabilities(work);
    total += cross_entropy(logit_gradient, tile_targets);
    for (std::size_t row = 0; row < tile_targets.size(); ++row) {
      logit_gradient[row * ModelShape::vocabulary + tile_targets[row]] -= 1;
    }
    rows_of(logit_gradient, ModelShape::vocabulary) *= share;
    linear::add_parameter_gradient(work.scaled.span(), logit_gradient, dp.logits);
    const std::span<float> dy = work.row_gradient.span();
    linear::input_gradient(p_.logits, logit_gradient, dy);
    std::ranges::fill(stream, 0.0f);
    layer_norm::backward(p_.norm, work.normalized.span(), inverse_deviation, dy, dp.norm, stream);
  }
  return total;
}

std::span<float> Head::probabilities(Scratch& work) const {
  return work.wide.first(shape_.tile() * ModelShape::vocabulary);
}

std::span<float> Head::predict(std::span<const float> x, Scratch& work) const {
  const std::span<float> inverse_deviation = work.wide_value.first(shape_.tile());
  layer_norm::normalize(x, shape_.channels, work.normalized.span(), inverse_deviation);
  layer_norm::scale_and_shift(p_.norm, work.normalized.span(), work.scaled.span());
  linear::forward(p_.logits, work.scaled.span(), probabilities(work));
  trainer::Matrix rows = rows_of(probabilities(work), ModelShape::vocabulary);
  for (std::int64_t row = 0; row < rows.rows(); ++row) {
    auto values = rows.row(row).array();
    values = (values - values.maxCoeff()).exp();
    values /= values.sum();
  }
  return inverse_deviation;
}

double Head::cross_entropy(std::span<const float> probabilities,
                           std::span<const std::uint8_t> targets) {
  double total = 0;
  for (std::size_t row = 0; row < targets.size(); ++row) {
    const double probability = probabilities[row * ModelShape::vocabulary + targets[row]];
    total -= std::log(std::max(probability, 1e-30));
  }
  return total;
}

}  // namespace gpt
