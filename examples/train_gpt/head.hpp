// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The end of the model: layer norm, logits, softmax and cross entropy. Its backward pass follows on
// its forward pass tile by tile, so that neither logits nor anything else has to be kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "layers.hpp"
#include "sequences.hpp"
#include "shape.hpp"

namespace gpt {

class Head {
 public:
  Head(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape) {}

  // The loss of one sequence's predictions of `targets`, in nats, summed up.
  double loss(std::span<const float> x, std::span<const std::uint8_t> targets,
              Scratch& work) const {
    double total = 0;
    for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
      predict(tile(x, token), work);
      total += cross_entropy(probabilities(work), part(targets, token, shape_.tile()));
    }
    return total;
  }

  // The same; turns the residual stream `x` into the gradient of `share` · loss with respect to it
  // and adds to the gradient with respect to the parameters.
  double backward(std::span<float> x, std::span<const std::uint8_t> targets, float share,
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

 private:
  template <class T>
  std::span<T> tile(std::span<T> sequence, std::int64_t token) const {
    return part(sequence, token * shape_.channels, shape_.tile() * shape_.channels);
  }
  std::span<float> probabilities(Scratch& work) const {
    return work.wide.first(shape_.tile() * ModelShape::vocabulary);
  }

  // Leaves x̂, its scaled form and the probabilities in `work`; returns 1 / deviation by row.
  std::span<float> predict(std::span<const float> x, Scratch& work) const {
    const std::span<float> inverse_deviation = work.wide_value.first(shape_.tile());
    layer_norm::normalize(x, shape_.channels, work.normalized.span(), inverse_deviation);
    layer_norm::scale_and_shift(p_.norm, work.normalized.span(), work.scaled.span());
    linear::forward(p_.logits, work.scaled.span(), probabilities(work));
    Matrix rows = rows_of(probabilities(work), ModelShape::vocabulary);
    for (std::int64_t row = 0; row < rows.rows(); ++row) {
      auto values = rows.row(row).array();
      values = (values - values.maxCoeff()).exp();
      values /= values.sum();
    }
    return inverse_deviation;
  }

  static double cross_entropy(std::span<const float> probabilities,
                              std::span<const std::uint8_t> targets) {
    double total = 0;
    for (std::size_t row = 0; row < targets.size(); ++row) {
      const double probability = probabilities[row * ModelShape::vocabulary + targets[row]];
      total -= std::log(std::max(probability, 1e-30));
    }
    return total;
  }

  ModelShape shape_;
  HeadParameters<const float> p_;
};

}  // namespace gpt
