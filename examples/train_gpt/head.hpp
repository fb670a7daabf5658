// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The end of the model: layer norm, logits, softmax and cross entropy. Its backward pass follows on
// its forward pass tile by tile, so that neither logits nor anything else waits.
#pragma once

#include <cstdint>
#include <span>

#include "train_gpt/sequences.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

class Head {
 public:
  Head(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape) {}

  // The loss of one sequence's predictions of `targets`, in nats, summed up.
  double loss(std::span<const float> x, std::span<const std::uint8_t> targets, Scratch& work) const;

  // The same; turns the residual stream `x` into the gradient of `share` · loss with respect to it
  // and adds to the gradient with respect to the parameters.
  double backward(std::span<float> x, std::span<const std::uint8_t> targets, float share,
                  Scratch& work, std::span<float> gradient) const;

 private:
  template <class T>
  std::span<T> tile(std::span<T> sequence, std::int64_t token) const {
    return part(sequence, token * shape_.channels, shape_.tile() * shape_.channels);
  }
  std::span<float> probabilities(Scratch& work) const;

  // Leaves x̂, its scaled form and the probabilities in `work`; returns 1 / deviation by row.
  std::span<float> predict(std::span<const float> x, Scratch& work) const;

  static double cross_entropy(std::span<const float> probabilities,
                              std::span<const std::uint8_t> targets);

  ModelShape shape_;
  HeadParameters<const float> p_;
};

}  // namespace gpt
