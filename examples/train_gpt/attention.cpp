// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Products of matrices, head by head.

#include "train_gpt/attention.hpp"

#include <cmath>

#include "common/eigen.hpp"

namespace gpt {
namespace {

// The columns of one head in [context][channels].
using HeadMatrix = Eigen::Map<trainer::RowMajor, 0, Eigen::OuterStride<>>;
using ConstHeadMatrix = Eigen::Map<const trainer::RowMajor, 0, Eigen::OuterStride<>>;

float scale(const ModelShape& shape) {
  return 1 / std::sqrt(static_cast<float>(shape.head_size()));
}

trainer::Matrix square(const ModelShape& shape, std::span<float> values) {
  return {values.data(), shape.context, shape.context};
}

HeadMatrix of_head(const ModelShape& shape, std::span<float> values, std::int64_t head) {
  return {values.data() + head * shape.head_size(), shape.context, shape.head_size(),
          Eigen::OuterStride<>(shape.channels)};
}
ConstHeadMatrix of_head(const ModelShape& shape, std::span<const float> values, std::int64_t head) {
  return {values.data() + head * shape.head_size(), shape.context, shape.head_size(),
          Eigen::OuterStride<>(shape.channels)};
}

// Row i holds the softmax over tokens 0 to i, and 0 after them.
trainer::Matrix probabilities(const ModelShape& shape, const QueryKeyValue<const float>& in,
                              std::int64_t head, std::span<float> scores) {
  trainer::Matrix p = square(shape, scores);
  p.noalias() = of_head(shape, in.query, head) * of_head(shape, in.key, head).transpose();
  for (std::int64_t row = 0; row < shape.context; ++row) {
    auto seen = p.row(row).head(row + 1).array();
    seen = (scale(shape) * (seen - seen.maxCoeff())).exp();
    seen /= seen.sum();
    p.row(row).tail(shape.context - row - 1).setZero();
  }
  return p;
}

}  // namespace

void Attention::forward(const QueryKeyValue<const float>& in, std::span<float> output,
                        std::span<float> scores) const {
  for (std::int64_t head = 0; head < shape_.heads; ++head) {
    const trainer::Matrix p = probabilities(shape_, in, head, scores);
    of_head(shape_, output, head).noalias() = p * of_head(shape_, in.value, head);
  }
}

void Attention::backward(const QueryKeyValue<const float>& in,
                         std::span<const float> output_gradient,
                         const QueryKeyValue<float>& gradient, std::span<float> scores,
                         std::span<float> score_gradients) const {
  for (std::int64_t head = 0; head < shape_.heads; ++head) {
    const trainer::Matrix p = probabilities(shape_, in, head, scores);
    trainer::Matrix ds = square(shape_, score_gradients);
    const ConstHeadMatrix dout = of_head(shape_, output_gradient, head);
    of_head(shape_, gradient.value, head).noalias() = p.transpose() * dout;
    ds.noalias() = dout * of_head(shape_, in.value, head).transpose();
    for (std::int64_t row = 0; row < shape_.context; ++row) {
      const float mean = p.row(row).head(row + 1).dot(ds.row(row).head(row + 1));
      ds.row(row).array() = scale(shape_) * p.row(row).array() * (ds.row(row).array() - mean);
    }
    of_head(shape_, gradient.query, head).noalias() = ds * of_head(shape_, in.key, head);
    of_head(shape_, gradient.key, head).noalias() =
        ds.transpose() * of_head(shape_, in.query, head);
  }
}

}  // namespace gpt
