// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What dropout takes from its arguments, on the host and on the device, and what it refuses.
#pragma once

#include <cstdint>

#include "actpack/detail/require.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Refuses probabilities outside [0, 1), NaN among them.
inline void require_drop_probability(double p) {
  require(p >= 0 && p < 1, "drop_probability = ", p, " is not in [0, 1)");
}

/// Returns (1 − p) · 2^32, rounded to nearest. The product is a multiple of 2^−21, so a sum below
/// 2^32 is exact, and one above it never rounds up to the next integer.
inline std::uint64_t keep_threshold(double drop_probability) {
  const double threshold = (1 - drop_probability) * 0x1p32;
  return static_cast<std::uint64_t>(threshold + 0.5);  // NOLINT(bugprone-incorrect-roundings)
}

inline void require_dropout(const Rounding& rounding, std::int64_t first) {
  require(first >= 0 && first % 32 == 0, "first = ", first, " is not a multiple of 32");
  require(rounding.is_stochastic, "rounding is to nearest, but dropout draws at random");
}

inline float dropout_scale(double drop_probability) {
  return static_cast<float>(1 / (1 - drop_probability));
}

}  // namespace actpack::detail::inline ACTPACK_TARGET
