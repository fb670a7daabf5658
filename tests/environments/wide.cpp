// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A file that is compiled for the widest vectors, and called only where the processor has them.
#include <actpack/mask.hpp>
#include <actpack/quantize.hpp>

#include <cstdint>
#include <span>
#include <vector>

void pack_with_wide_vectors(const std::vector<float>& x, actpack::PackedView packed,
                            std::vector<float>& y, std::span<std::uint32_t> mask) {
  actpack::quantize(x, packed, actpack::Rounding::stochastic(1));
  actpack::dequantize(packed, y);
  actpack::relu(x, y, mask);
}
