// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Hands the work of a verb to an OpenMP loop, and gets the words that one thread makes.
//
//   g++ -std=c++20 -O2 -fopenmp -I include examples/openmp.cpp
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "actpack/actpack.hpp"

int main() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(1 << 20);
  std::ranges::generate(x, [&] { return normal(generator); });

  const actpack::Layout layout{.row_size = 1 << 20, .bits = 2};
  actpack::PackedBuffer alone(layout);
  actpack::PackedBuffer shared(layout);
  const auto rounding = actpack::Rounding::stochastic(/*seed=*/1);

  const auto parallel = [](std::int64_t count, const auto& body) {
#pragma omp parallel for
    for (std::int64_t i = 0; i < count; ++i) {
      body(i);
    }
  };
  actpack::quantize(x, alone.view(), rounding);
  actpack::quantize(x, shared.view(), rounding, parallel);
  std::vector<float> y(x.size());
  actpack::dequantize(shared.view(), y, actpack::Decoding::subtractive(rounding), parallel);

  const bool same =
      std::equal(alone.view().words, alone.view().words + layout.num_words(), shared.view().words);
  std::printf("%s\n", same ? "the words of one thread" : "other words");
  return same ? 0 : 1;
}
