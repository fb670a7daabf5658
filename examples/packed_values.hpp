// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Values that were saved for a use that nobody knows, decoded so that it does not matter: the
// magnitudes are right in the mean, and the signs exactly.
//
// The use may be a ReLU's backward pass, which asks `result > 0`: read from rounded values, that
// would lose the gradient of every small positive one, for good. So what is positive stays
// positive. The examples for libtorch and PyTorch share this.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/float16.hpp"
#include "actpack/sign_magnitude.hpp"

namespace packed_values {

// The smallest positive number that everybody takes for one: of float and bfloat16 a normal one,
// because processors may flush others to zero; of float16, which is computed with as float, any.
template <class T>
ACTPACK_HD constexpr T smallest_positive() {
  if constexpr (std::is_same_v<T, float>) {
    return 0x1p-126f;
  } else {
    return T::from_bits(std::is_same_v<T, actpack::bfloat16> ? 0x0080 : 0x0001);
  }
}

// `value`, or `instead` if that is 0; no branch, and vector instructions for many.
template <class T>
ACTPACK_HD constexpr T nonzero(T value, T instead) {
  if constexpr (std::is_same_v<T, float>) {
    return value == 0 ? instead : value;
  } else {
    return T::from_bits((value.bits & 0x7FFF) == 0 ? instead.bits : value.bits);
  }
}

// Decodes all of `in` plainly, but for positive values that were rounded to 0: these become the
// smallest positive number. `parallel` as in the library's verbs.
template <class T, class Loop = actpack::Serial>
void decode_keeping_signs(const actpack::ConstSignMagnitudeView& in, std::span<T> out,
                          const Loop& parallel = {}) {
  constexpr std::size_t tile_numel = 1 << 11;  // two arrays of them stay in a core's cache
  const std::size_t tiles = (out.size() + tile_numel - 1) / tile_numel;
  parallel(static_cast<std::int64_t>(tiles), [&](std::int64_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * tile_numel;
    const std::span<T> tile = out.subspan(first, std::min(tile_numel, out.size() - first));
    actpack::decode(in, static_cast<std::int64_t>(first), tile);
    std::array<T, tile_numel> smallest;
    smallest.fill(smallest_positive<T>());
    const std::span<T> least = std::span(smallest).first(tile.size());
    actpack::relu_backward(std::span<const T>(least), in, static_cast<std::int64_t>(first), least);
    for (std::size_t e = 0; e < tile.size(); ++e) {
      tile.data()[e] = nonzero(tile.data()[e], least.data()[e]);
    }
  });
}

}  // namespace packed_values
