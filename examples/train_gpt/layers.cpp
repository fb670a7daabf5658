// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Products of matrices, and loops over rows.

#include "train_gpt/layers.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "common/eigen.hpp"

namespace gpt {

using trainer::ConstMatrix;
using trainer::Matrix;
using trainer::rows_of;

namespace linear {

void forward(const LinearParameters<const float>& p, std::span<const float> x, std::span<float> y) {
  Matrix out = rows_of(y, p.outputs());
  out.noalias() = rows_of(x, p.inputs()) * rows_of(p.weight, p.outputs());
  out.rowwise() += rows_of(p.bias, p.outputs()).row(0);
}

void add_parameter_gradient(std::span<const float> x, std::span<const float> dy,
                            const LinearParameters<float>& gradient) {
  const std::int64_t outputs = gradient.outputs();
  const ConstMatrix dy_rows = rows_of(dy, outputs);
  rows_of(gradient.weight, outputs).noalias() +=
      rows_of(x, gradient.inputs()).transpose() * dy_rows;
  Matrix bias = rows_of(gradient.bias, outputs);
  for (std::int64_t row = 0; row < dy_rows.rows(); ++row) {
    bias += dy_rows.row(row);
  }
}

void input_gradient(const LinearParameters<const float>& p, std::span<const float> dy,
                    std::span<float> dx) {
  rows_of(dx, p.inputs()).noalias() =
      rows_of(dy, p.outputs()) * rows_of(p.weight, p.outputs()).transpose();
}
void add_input_gradient(const LinearParameters<const float>& p, std::span<const float> dy,
                        std::span<float> dx) {
  rows_of(dx, p.inputs()).noalias() +=
      rows_of(dy, p.outputs()) * rows_of(p.weight, p.outputs()).transpose();
}

}  // namespace linear

namespace layer_norm {

void normalize(std::span<const float> x, std::int64_t channels, std::span<float> normalized,
               std::span<float> inverse_deviation) {
  constexpr float epsilon = 1e-5f;
  const ConstMatrix in = rows_of(x, channels);
  Matrix out = rows_of(normalized, channels);
  for (std::int64_t row = 0; row < in.rows(); ++row) {
    out.row(row).array() = in.row(row).array() - in.row(row).mean();
    const float inverse =
        1 / std::sqrt(out.row(row).squaredNorm() / static_cast<float>(channels) + epsilon);
    out.row(row) *= inverse;
    inverse_deviation[static_cast<std::size_t>(row)] = inverse;
  }
}

void scale_and_shift(const NormParameters<const float>& p, std::span<const float> normalized,
                     std::span<float> y) {
  const std::int64_t channels = p.channels();
  rows_of(y, channels).array() =
      rows_of(normalized, channels).array().rowwise() * rows_of(p.gamma, channels).row(0).array();
  rows_of(y, channels).rowwise() += rows_of(p.beta, channels).row(0);
}

void backward(const NormParameters<const float>& p, std::span<const float> normalized,
              std::span<const float> inverse_deviation, std::span<float> dy,
              const NormParameters<float>& gradient, std::span<float> dx) {
  const std::int64_t channels = p.channels();
  const ConstMatrix x_hat = rows_of(normalized, channels);
  const auto gamma = rows_of(p.gamma, channels).row(0).array();
  auto gamma_gradient = rows_of(gradient.gamma, channels).row(0).array();
  auto beta_gradient = rows_of(gradient.beta, channels).row(0).array();
  Matrix dy_rows = rows_of(dy, channels);
  Matrix dx_rows = rows_of(dx, channels);
  for (std::int64_t row = 0; row < dy_rows.rows(); ++row) {
    auto d = dy_rows.row(row).array();
    const auto x = x_hat.row(row).array();
    gamma_gradient += d * x;
    beta_gradient += d;
    d *= gamma;
    const float mean = d.mean();
    const float slope = (d * x).mean();
    dx_rows.row(row).array() +=
        inverse_deviation[static_cast<std::size_t>(row)] * (d - mean - x * slope);
  }
}

}  // namespace layer_norm

namespace gelu {

void evaluate(std::span<const float> x, std::span<float> value, std::span<float> derivative) {
  constexpr float slope = std::numbers::sqrt2_v<float> * std::numbers::inv_sqrtpi_v<float>;
  constexpr float cubic = 0.044715f;
  constexpr std::size_t piece = 64;  // stays in registers and the nearest cache
  for (std::size_t first = 0; first < x.size(); first += piece) {
    const std::size_t size = std::min(piece, x.size() - first);
    Eigen::Array<float, piece, 1> u;
    for (std::size_t i = 0; i < size; ++i) {
      const float v = x[first + i];
      u[static_cast<Eigen::Index>(i)] = slope * (v + cubic * v * v * v);
    }
    u.head(static_cast<Eigen::Index>(size)) = u.head(static_cast<Eigen::Index>(size)).tanh();
    for (std::size_t i = 0; i < size; ++i) {
      const float v = x[first + i];
      const float t = u[static_cast<Eigen::Index>(i)];
      value[first + i] = 0.5f * v * (1 + t);
      derivative[first + i] =
          0.5f * (1 + t) + 0.5f * v * (1 - t * t) * slope * (1 + 3 * cubic * v * v);
    }
  }
}

}  // namespace gelu

}  // namespace gpt
