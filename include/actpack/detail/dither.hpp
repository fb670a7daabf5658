// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How one call of the generator becomes the dithers of 16 elements.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Random bits for the elements of a group: one generator call serves 8 elements of its lower half
/// with words 0 and 1, and the 8 elements half a group further with words 2 and 3.
inline constexpr int elements_per_call = 16;
inline constexpr int elements_per_half_call = elements_per_call / 2;

/// The dithers of elements 2j and 2j + 1, which share the 16 random bits `half_word`. Each is
/// uniform. The rotation and the flip leave their round-up events uncorrelated on average, and
/// within 0.001 of that for every pair of thresholds (by enumeration).
ACTPACK_HD constexpr std::uint32_t even_dither(std::uint32_t half_word) { return half_word >> 2; }
ACTPACK_HD constexpr std::uint32_t odd_dither(std::uint32_t half_word) {
  return (((half_word << 8 | half_word >> 8) & 0xFFFF) ^ 0x00FF) >> 2;
}

}  // namespace actpack::detail
