// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A layer with a forward and a backward pass, which keeps its input in two bits a value. The
// gradient of its weights takes the input back a few rows at a time, so that not even then the
// whole of it exists in floats.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include "actpack/actpack.hpp"

namespace {

constexpr std::int64_t batch = 512, inputs = 256, outputs = 64;

using Floats = std::vector<float>;

std::size_t at(std::int64_t row, std::int64_t column, std::int64_t columns) {
  return static_cast<std::size_t>(row * columns + column);
}

class Linear {
 public:
  explicit Linear(std::uint64_t seed)
      : weight(inputs * outputs, 0.01f), weight_gradient(inputs * outputs),
        packed_({.rows = batch, .row_size = inputs, .bits = 2}), seed_(seed) {}

  Floats weight;           // [inputs][outputs]
  Floats weight_gradient;  // the same

  // x [batch][inputs] -> y [batch][outputs]. The caller may free x.
  Floats forward(const Floats& x) {
    rounding_ = actpack::Rounding::stochastic(seed_, step_++);  // new noise every step
    actpack::quantize(x, packed_.view(), rounding_);
    Floats y(batch * outputs);
    for (std::int64_t row = 0; row < batch; ++row) {
      for (std::int64_t i = 0; i < inputs; ++i) {
        for (std::int64_t o = 0; o < outputs; ++o) {
          y[at(row, o, outputs)] += x[at(row, i, inputs)] * weight[at(i, o, outputs)];
        }
      }
    }
    return y;
  }

  // dy [batch][outputs]: sets the gradient of the weights. (That of x needs the weights alone.)
  void backward(const Floats& dy) {
    constexpr std::int64_t tile = 8;  // rows
    std::ranges::fill(weight_gradient, 0.0f);
    Floats x(tile * inputs);
    for (std::int64_t first = 0; first < batch; first += tile) {
      actpack::dequantize(packed_.view(), first * inputs, x,
                          actpack::Decoding::subtractive(rounding_));
      for (std::int64_t row = 0; row < tile; ++row) {
        for (std::int64_t i = 0; i < inputs; ++i) {
          for (std::int64_t o = 0; o < outputs; ++o) {
            weight_gradient[at(i, o, outputs)] +=
                x[at(row, i, inputs)] * dy[at(first + row, o, outputs)];
          }
        }
      }
    }
  }

  std::size_t kept_bytes() const { return packed_.size_bytes(); }

 private:
  actpack::PackedBuffer packed_;
  actpack::Rounding rounding_;
  std::uint64_t seed_;
  std::uint64_t step_ = 0;
};

Floats exact_gradient(const Floats& x, const Floats& dy) {
  std::vector<double> sum(inputs * outputs);
  for (std::int64_t row = 0; row < batch; ++row) {
    for (std::int64_t i = 0; i < inputs; ++i) {
      for (std::int64_t o = 0; o < outputs; ++o) {
        sum[at(i, o, outputs)] += double{x[at(row, i, inputs)]} * dy[at(row, o, outputs)];
      }
    }
  }
  return {sum.begin(), sum.end()};
}

double relative_error(std::span<const double> sum, int steps, const Floats& exact) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(sum[i] / steps - exact[i], 2);
    norm += std::pow(exact[i], 2);
  }
  return std::sqrt(difference / norm);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Floats x(batch * inputs), dy(batch * outputs);
  std::ranges::generate(x, [&] { return normal(random); });
  std::ranges::generate(dy, [&] { return normal(random); });
  const Floats exact = exact_gradient(x, dy);

  Linear layer(/*seed=*/1);
  constexpr int steps = 64;
  std::vector<double> sum(exact.size());
  double first_error = 0;
  for (int step = 1; step <= steps; ++step) {
    layer.forward(x);
    layer.backward(dy);
    std::ranges::transform(sum, layer.weight_gradient, sum.begin(), std::plus<double>());
    if (step == 1) first_error = relative_error(sum, step, exact);
  }
  const double mean_error = relative_error(sum, steps, exact);
  std::printf("input kept in %zu bytes instead of %zu\n", layer.kept_bytes(), 4 * x.size());
  std::printf("weight gradient: error %.3f of one step, %.3f of the mean of %d\n", first_error,
              mean_error, steps);
  // Without bias the squares differ by a factor of 64. The errors of the 256 inputs' columns are
  // independent, so either square's deviation is at most √(2 / 256) of it: five of both are 0.63.
  const double ratio = std::pow(first_error / mean_error, 2) / steps;
  return ratio > 1 - 0.63 ? 0 : 1;
}
