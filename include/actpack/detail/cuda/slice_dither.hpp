// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The dithers of a slice's elements, from one call of the generator.
#pragma once

#include <cstdint>

#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline constexpr int octet_size = elements_per_call / 2;

/// The dithers of a slice's elements, as integers of `Shift` bits: dither · 2^(Shift − 14).
template <int Shift>
class SliceDither {
  static_assert(Shift == 14 || Shift == 16);

 public:
  /// Those that round to nearest.
  ACTPACK_HD SliceDither() {
    for (int i = 0; i < 4; ++i) {
      even_[i] = Shift == 16 ? 0x80008000u : 0x20002000u;
      odd_[i] = Shift == 16 ? 0x00800080u : 0x20002000u;
    }
  }

  /// Both half-words of each word at once, as even_dither and odd_dither (rounding.hpp) do one.
  ACTPACK_HD explicit SliceDither(const RandomWords& random) {
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t word = random.word[i];
      if constexpr (Shift == 16) {
        even_[i] = word & 0xFFFCFFFCu;
        odd_[i] = xor_and(word, 0xFF00FF00u, 0xFCFFFCFFu);  // bytes still to be swapped
      } else {
        even_[i] = word >> 2 & 0x3FFF3FFFu;
        odd_[i] = (permute_bytes(word, 0, 0x2301) ^ 0x00FF00FFu) >> 2 & 0x3FFF3FFFu;
      }
    }
  }

  /// The bits of the float 2^23 + (the dither of element j).
  ACTPACK_HD std::uint32_t operator()(int j) const {
    const bool swap = j % 2 != 0 && Shift == 16;
    const std::uint32_t half_word = j % 4 < 2 ? (swap ? 0x7601 : 0x7610) : swap ? 0x7623 : 0x7632;
    return permute_bytes(j % 2 == 0 ? even_[j / 4] : odd_[j / 4], integer_bits, half_word);
  }

 private:
  std::uint32_t even_[4], odd_[4];
};

}  // namespace actpack::detail
