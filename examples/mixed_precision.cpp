// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Widths by row: rows of larger range get more bits, in the bytes that two bits for all would take.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <span>
#include <vector>

#include "actpack/actpack.hpp"

int main() {
  constexpr std::size_t rows = 128, row_size = 4096, group_size = 256;
  const actpack::Layout layout{
      .rows = rows, .row_size = row_size, .group_size = group_size, .bits = 2};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * row_size);
  for (std::size_t row = 0; row < rows; ++row) {
    const float scale = std::exp(1.5f * normal(random));
    std::generate_n(&x[row * row_size], row_size, [&] { return scale * normal(random); });
  }

  // A row's sensitivity: the squared ranges of its groups, halved for subtractive decoding. All
  // errors count alike here; else each row's would be multiplied by its gain.
  std::vector<double> sensitivity(rows);
  for (std::size_t i = 0; i < x.size(); i += group_size) {
    const auto [min, max] = std::ranges::minmax(std::span(x).subspan(i, group_size));
    const double gain = 1;
    sensitivity[i / row_size] +=
        gain * actpack::rounding_sensitivity(std::pow(max - min, 2), group_size) / 2;
  }

  // Two bits on average, less the nine bytes that each row's width and offset take, and one offset.
  const std::vector<std::int64_t> numel(rows, row_size);
  const std::int64_t bit_budget = 2 * layout.numel() - 72 * layout.rows - 64;
  const actpack::Allocation allocation = actpack::allocate_bits(
      {.sensitivity = sensitivity, .numel = numel, .bit_budget = bit_budget});

  const auto squared_error = [&](actpack::PackedBuffer& packed) {
    const auto rounding = actpack::Rounding::stochastic(/*seed=*/1, /*offset=*/0);
    actpack::quantize(x, packed.view(), rounding);
    std::vector<float> y(x.size());
    actpack::dequantize(packed.view(), y, actpack::Decoding::subtractive(rounding));
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(y[i] - x[i], 2);
    return sum;
  };
  actpack::PackedBuffer uniform(layout);
  actpack::PackedBuffer mixed(layout, allocation.bits);
  const double uniform_error = squared_error(uniform);
  const double mixed_error = squared_error(mixed);

  std::printf("two bits for all: squared error %.0f in %zu bytes\n", uniform_error,
              uniform.size_bytes());
  std::printf("widths by row: squared error %.0f in %zu bytes\n", mixed_error, mixed.size_bytes());
  std::printf("predicted: %.0f; no widths have less than %.0f\n", allocation.variance,
              allocation.lower_bound);
  const bool is_predicted = std::abs(mixed_error / allocation.variance - 1) < 0.05;
  const bool is_smaller = mixed.size_bytes() <= uniform.size_bytes();
  return is_predicted && is_smaller && mixed_error < uniform_error ? 0 : 1;
}
