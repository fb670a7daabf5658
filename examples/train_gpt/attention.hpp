// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Causal attention of one sequence, forward and backward. The softmax's probabilities are never
// kept: the backward pass computes them again from queries and keys.
//
// It also sums them up again. The sums of the forward pass, which flash attention keeps, are those
// of the exact scores; against rounded ones they leave rows that add up to anything but 1. With
// queries and keys of 4 bits that makes the gradient's bias 0.45 of its norm instead of 0.013.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "eigen.hpp"
#include "shape.hpp"

namespace gpt {

// The columns of one head in [context][channels].
using HeadMatrix = Eigen::Map<trainer::RowMajor, 0, Eigen::OuterStride<>>;
using ConstHeadMatrix = Eigen::Map<const trainer::RowMajor, 0, Eigen::OuterStride<>>;

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
               std::span<float> scores) const {
    for (std::int64_t head = 0; head < shape_.heads; ++head) {
      const trainer::Matrix p = probabilities(in, head, scores);
      of_head(output, head).noalias() = p * of_head(in.value, head);
    }
  }

  // Writes `gradient`. Linear in value; not in query and key, through the probabilities.
  void backward(const QueryKeyValue<const float>& in, std::span<const float> output_gradient,
                const QueryKeyValue<float>& gradient, std::span<float> scores,
                std::span<float> score_gradients) const {
    for (std::int64_t head = 0; head < shape_.heads; ++head) {
      const trainer::Matrix p = probabilities(in, head, scores);
      trainer::Matrix ds = square(score_gradients);
      const ConstHeadMatrix dout = of_head(output_gradient, head);
      of_head(gradient.value, head).noalias() = p.transpose() * dout;
      ds.noalias() = dout * of_head(in.value, head).transpose();
      for (std::int64_t row = 0; row < shape_.context; ++row) {
        const float mean = p.row(row).head(row + 1).dot(ds.row(row).head(row + 1));
        ds.row(row).array() = scale() * p.row(row).array() * (ds.row(row).array() - mean);
      }
      of_head(gradient.query, head).noalias() = ds * of_head(in.key, head);
      of_head(gradient.key, head).noalias() = ds.transpose() * of_head(in.query, head);
    }
  }

 private:
  float scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_size())); }

  trainer::Matrix square(std::span<float> values) const {
    return {values.data(), shape_.context, shape_.context};
  }
  HeadMatrix of_head(std::span<float> values, std::int64_t head) const {
    return {values.data() + head * shape_.head_size(), shape_.context, shape_.head_size(),
            Eigen::OuterStride<>(shape_.channels)};
  }
  ConstHeadMatrix of_head(std::span<const float> values, std::int64_t head) const {
    return {values.data() + head * shape_.head_size(), shape_.context, shape_.head_size(),
            Eigen::OuterStride<>(shape_.channels)};
  }

  // Row i holds the softmax over tokens 0 to i, and 0 behind them.
  trainer::Matrix probabilities(const QueryKeyValue<const float>& in, std::int64_t head,
                                std::span<float> scores) const {
    trainer::Matrix p = square(scores);
    p.noalias() = of_head(in.query, head) * of_head(in.key, head).transpose();
    for (std::int64_t row = 0; row < shape_.context; ++row) {
      auto seen = p.row(row).head(row + 1).array();
      seen = (scale() * (seen - seen.maxCoeff())).exp();
      seen /= seen.sum();
      p.row(row).tail(shape_.context - row - 1).setZero();
    }
    return p;
  }

  ModelShape shape_;
};

}  // namespace gpt
