// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A small network whose gradient's variance is known, and the noise of its saved tensors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/variance.hpp>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"

namespace support::auto_precision {

using actpack::PackedBuffer;
using actpack::Rounding;

// y = W2 relu(W1 x) with the loss ||y - target||^2 / 2. Its saved tensors are x, by sample, and
// h = relu(W1 x); the ReLU's mask is exact.
class Network {
 public:
  static constexpr std::size_t samples = 12, inputs = 48, hidden = 70, outputs = 5;

  Network()
      : x_(support::gaussian(samples * inputs, 11, 0.2)),
        w1_(support::gaussian(hidden * inputs, 12, 0, 0.15)),
        w2_(support::gaussian(outputs * hidden, 13, 0, 0.2)),
        target_(support::gaussian(samples * outputs, 14)) {
    // Samples of different size, so that rows get different widths.
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] *= 1 + static_cast<float>(i / inputs % 4);
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t k = 0; k < hidden; ++k) {
        float sum = 0;
        for (std::size_t i = 0; i < inputs; ++i) sum += w1_[k * inputs + i] * x_[n * inputs + i];
        h_.push_back(std::max(sum, 0.0F));
      }
    }
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t o = 0; o < outputs; ++o) {
        double sum = -static_cast<double>(target_[n * outputs + o]);
        for (std::size_t k = 0; k < hidden; ++k) {
          sum += static_cast<double>(w2_[o * hidden + k]) * static_cast<double>(h_[n * hidden + k]);
        }
        dy_.push_back(sum);
      }
    }
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t k = 0; k < hidden; ++k) {
        double sum = 0;
        for (std::size_t o = 0; o < outputs; ++o) {
          sum += static_cast<double>(w2_[o * hidden + k]) * dy_[n * outputs + o];
        }
        dh_.push_back(h_[n * hidden + k] > 0 ? sum : 0);
      }
    }
  }

  static TensorSpec x_spec() { return spec(samples, inputs, PrecisionPer::row); }
  static TensorSpec h_spec() { return spec(samples, hidden, PrecisionPer::tensor); }
  const std::vector<float>& x() const { return x_; }
  const std::vector<float>& h() const { return h_; }

  // The squared norm of each sample's output gradient: its row's gain.
  std::vector<double> x_gains() const { return squared_norms(dh_); }
  std::vector<double> h_gains() const { return squared_norms(dy_); }

  // Adds sign times the gradient of the loss, W1's and then W2's.
  void add_gradient(std::vector<double>& gradient, double sign, const std::vector<float>& x,
                    const std::vector<float>& h) const {
    gradient.resize(hidden * inputs + outputs * hidden);
    add_product({gradient.data(), hidden * inputs}, sign, dh_, x);
    add_product({gradient.data() + hidden * inputs, outputs * hidden}, sign, dy_, h);
  }

 private:
  static void add_product(std::span<double> sum, double sign, const std::vector<double>& dy,
                          const std::vector<float>& x) {
    const std::size_t columns = x.size() / samples;
    const std::size_t rows = dy.size() / samples;
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t o = 0; o < rows; ++o) {
        const double slope = sign * dy[n * rows + o];
        if (slope == 0) continue;
        for (std::size_t i = 0; i < columns; ++i) {
          sum[o * columns + i] += slope * static_cast<double>(x[n * columns + i]);
        }
      }
    }
  }
  static std::vector<double> squared_norms(const std::vector<double>& dy) {
    std::vector<double> norms(samples);
    for (std::size_t i = 0; i < dy.size(); ++i) norms[i / (dy.size() / samples)] += dy[i] * dy[i];
    return norms;
  }

  std::vector<float> x_, w1_, w2_, target_, h_;
  std::vector<double> dy_, dh_;  // by loss; of relu's input
};

inline std::vector<float> rounded(const std::vector<float>& x, const TensorSpec& tensor,
                                  const std::vector<std::uint8_t>& widths, std::uint64_t seed) {
  PackedBuffer packed(tensor.layout.with_bits(8), widths);
  actpack::quantize(x, packed.view(), Rounding::stochastic(seed));
  std::vector<float> decoded(x.size());
  actpack::dequantize(std::as_const(packed).view(), decoded);
  return decoded;
}

inline std::vector<Table> measured_noise(const std::vector<float>& x, const TensorSpec& tensor) {
  std::vector<Table> noise;
  const auto size = static_cast<std::size_t>(tensor.layout.row_size);
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    noise.push_back(actpack::measure_rounding_noise(std::span(x).subspan(row * size, size),
                                                    tensor.layout.group_size)
                        .plain);
  }
  return noise;
}

inline double squared_norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return sum;
}

}  // namespace support::auto_precision
