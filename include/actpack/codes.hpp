// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Codes of 1, 2, 4 or 8 bits in 32-bit words: element e occupies bits [e·b, (e+1)·b), least
// significant first, so no code straddles a word; unused high bits are 0.
#pragma once

#include <array>
#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::inline ACTPACK_TARGET {

/// The widths of a code in bits, narrowest first: the order of tables by width.
inline constexpr std::array<int, 4> widths = {1, 2, 4, 8};

ACTPACK_HD constexpr bool is_width(int bits) {
  return bits == 1 || bits == 2 || bits == 4 || bits == 8;
}

/// Returns the largest code of a width, 2^bits − 1.
ACTPACK_HD constexpr std::uint32_t max_code(int bits) { return (1u << bits) - 1; }

/// Returns the number of words that hold `numel` codes.
ACTPACK_HD constexpr std::int64_t words_for(std::int64_t numel, int bits) {
  return (numel * bits + 31) / 32;
}

/// Returns code number `element` of the codes that start at `words`.
ACTPACK_HD constexpr std::uint32_t extract(const std::uint32_t* words, std::int64_t element,
                                           int bits) {
  const int per_word = 32 / bits;
  return words[element / per_word] >> (element % per_word * bits) & max_code(bits);
}

}  // namespace actpack
