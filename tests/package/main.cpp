// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A consumer's program of two translation units that both use the library: it links, and they
// agree.
#include <actpack/actpack.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

std::vector<float> round_trip_elsewhere(const std::vector<float>& x, std::uint64_t seed);

int main() {
  std::vector<float> x(1000);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 37) - 18;
  }
  actpack::PackedBuffer packed({.row_size = static_cast<std::int64_t>(x.size())});
  std::vector<float> y(x.size());
  actpack::quantize(x, packed.view(), actpack::Rounding::stochastic(7));
  actpack::dequantize(packed.view(), y);

  const bool agree = y == round_trip_elsewhere(x, 7) && y != round_trip_elsewhere(x, 8);
  std::puts(agree ? "both translation units agree" : "the translation units disagree");
  return agree ? 0 : 1;
}
