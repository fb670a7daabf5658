// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The shortest use: a tensor in two bits per value and back, without bias.
#include <cmath>
#include <cstdio>
#include <vector>

#include "actpack/actpack.hpp"

int main() {
  std::vector<float> x(1 << 20);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(0.001f * static_cast<float>(i));
  }

  actpack::PackedBuffer packed(actpack::Layout{.row_size = 1 << 20, .bits = 2});
  const auto rounding = actpack::Rounding::stochastic(/*seed=*/1, /*offset=*/0);
  actpack::quantize(x, packed.view(), rounding);

  std::vector<float> y(x.size());
  actpack::dequantize(packed.view(), y, actpack::Decoding::subtractive(rounding));

  double mean_error = 0;
  double mean_square = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_error += (y[i] - x[i]) / static_cast<double>(x.size());
    mean_square += std::pow(y[i] - x[i], 2) / static_cast<double>(x.size());
  }
  std::printf("%zu values: %zu bytes instead of %zu, %.3f bits a value\n", x.size(),
              packed.size_bytes(), 4 * x.size(), packed.layout().bits_per_value());
  std::printf("mean error %.6f, root mean square error %.4f\n", mean_error, std::sqrt(mean_square));
  // Independent errors of this size have a mean within five of its standard deviations.
  const double deviation = std::sqrt(mean_square / static_cast<double>(x.size()));
  return std::abs(mean_error) < 5 * deviation ? 0 : 1;
}
