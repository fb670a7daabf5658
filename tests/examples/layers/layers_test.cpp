// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks batch norm's word on whether it can be inverted, its running statistics, and pooling's
// places.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "layers/batch_norm.hpp"
#include "layers/pooling.hpp"

namespace {

using namespace trainer;

TEST_CASE("batch norm: x̂ counts as recoverable from y unless a γ is below 2^-6 of the largest") {
  BatchNorm batch_norm(3);
  const auto is_invertible = [&](float a, float b, float c) {
    std::ranges::copy(std::vector{a, b, c}, batch_norm.gamma.value.span().begin());
    return batch_norm.is_invertible();
  };
  CHECK(is_invertible(1, -1, 0.5f));
  CHECK(is_invertible(1, 0x1p-6f, -1));
  CHECK_FALSE(is_invertible(1, 0x0.fffp-6f, 1));
  CHECK_FALSE(is_invertible(-64, 0.5f, 1));
  CHECK_FALSE(is_invertible(0, 1, 1));
  CHECK_FALSE(is_invertible(0, 0, 0));
}

TEST_CASE("batch norm: running statistics go a tenth of the way to the batch's") {
  BatchNorm batch_norm(1);
  batch_norm.use_batch_statistics(std::vector<double>{1 + 5, 1 + 25}, 2);  // of 1 and 5
  batch_norm.use_running_statistics();
  const double mean = 0.1 * 3;
  const double variance = 1 + 0.1 * (8 - 1);
  const double inverse_deviation = 1 / std::sqrt(variance + 1e-5);
  CHECK(batch_norm.normalize().scale[0] == static_cast<float>(inverse_deviation));
  CHECK(batch_norm.normalize().shift[0] == static_cast<float>(-mean * inverse_deviation));
}

TEST_CASE("pooling: argmax is the first largest value, and gather and scatter use its place") {
  const Pooling pooling({3, 4, 1}, true);
  const std::vector<float> input{1, 2, 5, 5,   //
                                 2, 0, 5, 4,   //
                                 9, 9, 9, 9};  // left out
  std::vector<float> output(2);
  std::vector<std::uint8_t> argmax(2);
  pooling.forward(input, output, argmax);
  CHECK(output == std::vector<float>{2, 5});
  CHECK(argmax == std::vector<std::uint8_t>{1, 0});
  std::vector<float> gathered(2);
  pooling.gather(input, argmax, gathered);
  CHECK(gathered == output);
  std::vector<float> gradient(12, 1.0f);
  pooling.scatter_add(std::vector<float>{10, 20}, argmax, std::vector<float>{0.5f}, gradient);
  CHECK(gradient == std::vector<float>{1, 6, 11, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  std::vector<std::int64_t> maxima;
  pooling.for_each_maximum(
      argmax, [&](std::int64_t, std::int64_t, std::int64_t maximum) { maxima.push_back(maximum); });
  CHECK(maxima == std::vector<std::int64_t>{1, 2});
}

}  // namespace
