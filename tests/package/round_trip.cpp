// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The second translation unit of a consumer's program.
#include <actpack/actpack.hpp>

#include <cstdint>
#include <vector>

std::vector<float> round_trip_elsewhere(const std::vector<float>& x, std::uint64_t seed) {
  actpack::PackedBuffer packed({.row_size = static_cast<std::int64_t>(x.size())});
  std::vector<float> y(x.size());
  actpack::quantize(x, packed.view(), actpack::Rounding::stochastic(seed));
  actpack::dequantize(packed.view(), y);
  return y;
}
