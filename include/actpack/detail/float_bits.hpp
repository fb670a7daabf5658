// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The bits of a float, and what they tell.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

// The builtin behind std::bit_cast, because device code may not call the library's function.
ACTPACK_HD constexpr std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
ACTPACK_HD constexpr float float_of(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

inline constexpr std::uint32_t sign_bit = 0x80000000u;
inline constexpr std::uint32_t infinity_bits = 0x7F800000u;
inline constexpr float float_max = 0x1.fffffep127f;

ACTPACK_HD constexpr std::uint32_t magnitude_bits(float x) { return bits_of(x) & ~sign_bit; }
ACTPACK_HD constexpr bool is_nan(float x) { return magnitude_bits(x) > infinity_bits; }
ACTPACK_HD constexpr bool is_finite(float x) { return magnitude_bits(x) < infinity_bits; }

}  // namespace actpack::detail
