// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What dropout takes from its arguments, on the host and on the device, and what it refuses.
#pragma once

#include <cstdint>

#include "actpack/detail/float_environment.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

/// What a probability p of dropping becomes.
struct DropoutRule {
  std::uint64_t threshold;  // a random word below this keeps an element
  float scale;              // of kept elements, so that the mean stays
};

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_TARGET {

/// Refuses probabilities outside [0, 1), NaN among them.
inline void require_drop_probability(double p) {
  refuse_unless(p >= 0 && p < 1, "drop_probability = ", p, " is not in [0, 1)");
}

/// Refuses a chunk of `numel` elements that starts at element `first`.
inline void require_dropout(const Rounding& rounding, std::int64_t first, std::int64_t numel) {
  refuse_unless(first >= 0 && first % 32 == 0, "first = ", first, " is not a multiple of 32");
  refuse_unless(first <= Layout::max_numel - numel, "first = ", first, " and ", numel,
                " elements exceed the ", Layout::max_numel, " that a tensor may have");
  refuse_unless(rounding.is_stochastic, "rounding is to nearest, but dropout draws at random");
}

/// Returns ⌊(1 − p) · 2^32 + ½⌋, or 1 if that is 0. The product is a multiple of 2^−21, so a sum
/// below 2^32 is exact, and one above it never rounds up to the next integer.
inline std::uint64_t keep_threshold(double drop_probability) {
  return in_default_float_environment([=] {
    const double nearest = (1 - drop_probability) * 0x1p32 + 0.5;
    return nearest < 1 ? std::uint64_t{1} : static_cast<std::uint64_t>(nearest);
  });
}

/// Returns the reciprocal of the share that is kept.
inline float dropout_scale(double drop_probability) {
  return in_default_float_environment([threshold = keep_threshold(drop_probability)] {
    return static_cast<float>(0x1p32 / static_cast<double>(threshold));
  });
}

inline DropoutRule dropout_rule(double drop_probability) {
  return {keep_threshold(drop_probability), dropout_scale(drop_probability)};
}

}  // namespace actpack::detail
