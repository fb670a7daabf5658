// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The noise of rounding, from the reference's parameters and real positions.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/reference.hpp"

namespace support {

// The variances of rounding one value.
struct ValueNoise {
  double plain;
  double subtractive;
};

inline ValueNoise value_noise(double distance, std::uint16_t step) {
  const double scale = reference::value_of(reference::bfloat16, step);
  const double position = scale == 0 ? 0 : distance / scale;
  const double fraction = position - std::floor(position);
  return {fraction * (1 - fraction) * scale * scale, scale * scale / 12};
}

inline reference::Shape row_shape(const std::vector<float>& x, int group_size, int bits) {
  return {1, static_cast<std::int64_t>(x.size()), group_size, bits, 0, {}};
}

// Of a row cut into groups, from the reference's parameters and real positions.
inline std::vector<ValueNoise> noise_of_values(const std::vector<float>& x, int group_size,
                                               int bits) {
  std::vector<ValueNoise> noise;
  const reference::Shape shape = row_shape(x, group_size, bits);
  const reference::Packed packed = reference::quantize(x, shape, {});
  for (const reference::Group& group : reference::groups_of(shape)) {
    const reference::Params params = packed.params[static_cast<std::size_t>(group.index)];
    const double min = reference::value_of(reference::bfloat16, params.min);
    for (int i = 0; i < group.size; ++i) {
      const double value = static_cast<double>(x[static_cast<std::size_t>(group.first + i)]);
      noise.push_back(value_noise(value - min, params.scale));
    }
  }
  return noise;
}

}  // namespace support
