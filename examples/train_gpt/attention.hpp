// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Causal attention of one sequence, forward and backward. The softmax's probabilities are never
// saved: the backward pass computes them again from queries and keys.
//
// It also sums them up again. The sums of the forward pass, which flash attention saves, belong
// to the exact scores; with rounded ones, rows no longer add up to 1. With
// queries and keys of 4 bits that makes the gradient's bias 0.45 of its norm instead of 0.013.
#pragma once

#include <cstdint>
#include <span>

#include "train_gpt/shape.hpp"

namespace gpt {

template <class T>
struct QueryKeyValue {
  std::span<T> query, key, value;  // [context][channels] each
};

class Attention {
 public:
  explicit Attention(const ModelShape& shape) : shape_(shape) {}

  // Room for the probabilities of one head.
  std::int64_t scores_numel() const { return shape_.context * shape_.context; }

  void forward(const QueryKeyValue<const float>& in, std::span<float> output,
               std::span<float> scores) const;

  // Writes `gradient`. Linear in value; not in query and key, through the probabilities.
  void backward(const QueryKeyValue<const float>& in, std::span<const float> output_gradient,
                const QueryKeyValue<float>& gradient, std::span<float> scores,
                std::span<float> score_gradients) const;

 private:
  ModelShape shape_;
};

}  // namespace gpt
