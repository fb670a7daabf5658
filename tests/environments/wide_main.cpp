// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A program for every processor, which calls wide.cpp where that can run. It must not execute an
// instruction of that file elsewhere, whichever of both is linked first.
#include <actpack/mask.hpp>
#include <actpack/quantize.hpp>

#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

void pack_with_wide_vectors(const std::vector<float>& x, actpack::PackedView packed,
                            std::vector<float>& y, std::span<std::uint32_t> mask);

int main() {
  std::vector<float> x(1024), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 37) - 18;
  }
  std::vector<std::uint32_t> mask(x.size() / 32);
  actpack::PackedBuffer packed({.row_size = 1024});
  if (__builtin_cpu_supports("avx512vl") != 0) {
    pack_with_wide_vectors(x, packed.view(), y, mask);
  }
  actpack::quantize(x, packed.view(), actpack::Rounding::stochastic(1));
  actpack::dequantize(packed.view(), y);
  actpack::relu(x, y, mask);
  std::puts(y[36] == 18 && mask[1] == 0xFF00001F ? "right" : "WRONG");
  return 0;
}
