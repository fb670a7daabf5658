// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Random tensors for the targets that pack some: shapes, widths, values, rounding.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <actpack/codes.hpp>
#include <actpack/float16.hpp>
#include <actpack/layout.hpp>
#include <actpack/rounding.hpp>

#include "fuzz.hpp"
#include "support/data.hpp"

namespace fuzz {

using actpack::bfloat16;
using actpack::Decoding;
using actpack::float16;
using actpack::Layout;
using actpack::Rounding;

// A valid layout, mostly of some hundred elements: a verb is cut into pieces from 8192 on.
inline Layout random_layout(Input& input) {
  constexpr std::int32_t group_sizes[] = {256, 32,  64,   96,   128,  160,       224,
                                          288, 512, 1024, 4096, 8192, 2147483616};
  Layout layout;
  layout.group_size = input.pick(group_sizes);
  layout.bits = input.pick(actpack::widths);
  layout.rows = input.between(0, 6);
  layout.row_size = input.between(0, input.one_in(3) ? 600 : 130);
  if (input.one_in(64)) layout = {1, input.between(8000, 18'000), layout.group_size, layout.bits};
  if (layout.rows > 0 && input.flag())
    layout.last_row_size = input.between<std::int64_t>(0, layout.row_size);
  return layout;
}

// A width for each row, none above layout.bits; or none at all.
inline std::vector<std::uint8_t> random_row_bits(Input& input, const Layout& layout) {
  std::vector<std::uint8_t> bits;
  if (input.flag()) return bits;
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    bits.push_back(static_cast<std::uint8_t>(std::min(input.pick(actpack::widths), layout.bits)));
  }
  return bits;
}

inline Rounding random_rounding(Input& input) {
  if (input.one_in(4)) return Rounding::nearest();
  const auto number = [&] { return static_cast<std::uint64_t>(hostile_integer(input)); };
  const std::uint64_t seed = number();
  return Rounding::stochastic(seed, number());
}

inline Decoding random_decoding(Input& input, const Rounding& rounding) {
  constexpr float alphas[] = {1.0F, 0.5F, 0.3F, 0x1p-30F, 0.0F};
  return input.one_in(3) ? Decoding::plain() : Decoding::subtractive(rounding, input.pick(alphas));
}

template <class T>
T from_bits(std::uint32_t bits) {
  if constexpr (std::is_same_v<T, float>) {
    return std::bit_cast<float>(bits);
  } else {
    return T::from_bits(static_cast<std::uint16_t>(bits >> 16));
  }
}

// Activations, every awkward case of the tests, any bits at all, and values a few bits apart.
template <class T>
std::vector<T> random_values(Input& input, std::size_t size) {
  std::vector<T> values(size);
  const auto kind = input.between<std::size_t>(0, support::all_data.size() + 3);
  support::Generator generator = input.generator();
  if (kind < support::all_data.size()) {
    const bool is_half = std::is_same_v<T, float16>;
    const std::vector<float> made =
        support::make(support::all_data[kind], size, generator.bits(),
                      is_half                       ? 65504.0F
                      : std::is_same_v<T, bfloat16> ? 0x1.FEp127F
                                                    : std::numeric_limits<float>::max(),
                      is_half                       ? 0x1p-24F
                      : std::is_same_v<T, bfloat16> ? 0x1p-133F
                                                    : 0x1p-149F);
    std::ranges::transform(made, values.begin(), [](float value) { return T(value); });
    return values;
  }
  const std::uint32_t base = static_cast<std::uint32_t>(generator.bits());
  const int shift = static_cast<int>(generator.below(28));
  for (T& value : values) {
    const auto random = static_cast<std::uint32_t>(generator.bits());
    switch (kind - support::all_data.size()) {
      case 0: value = from_bits<T>(random); break;
      case 1: value = from_bits<T>(base + (random >> shift)); break;
      case 2:
        value = from_bits<T>(random & 0x80FFFFFF);
        break;  // zeros and subnormals of each type
      default: value = from_bits<T>(input.number<std::uint32_t>());
    }
  }
  return values;
}

}  // namespace fuzz
