// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Codes of a slice: positions become codes, codes become words, and codes become levels again.
//
// A position is kept as a float 2^23 + n, whose mantissa is the integer n: a product is added and
// rounded down in one instruction, dither included, and a code is a byte of the result.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/detail/cuda/slice_dither.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The codes of an octet: `Bits` bytes of its group's words.
template <int Bits>
using OctetCodes = std::conditional_t<
    Bits == 1, std::uint8_t,
    std::conditional_t<Bits == 2, std::uint16_t,
                       std::conditional_t<Bits == 4, std::uint32_t, std::uint64_t>>>;

/// The bit of a position at which its code starts: as high as 23 bits allow, and where a byte
/// begins if they do.
template <int Bits>
inline constexpr int code_shift = Bits == 8 ? 14 : 16;

/// Packs the codes in the positions of an octet.
template <int Bits>
ACTPACK_HD OctetCodes<Bits> merge_octet(const std::uint32_t (&position)[octet_size]) {
  std::uint32_t codes[2];  // one in each byte
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t* p = position + 4 * i;
    constexpr int to_byte = 16 - code_shift<Bits>;
    codes[i] = permute_bytes(permute_bytes(p[0] << to_byte, p[1] << to_byte, 0x0062),
                             permute_bytes(p[2] << to_byte, p[3] << to_byte, 0x0062), 0x5410);
  }
  if constexpr (Bits == 1) {
    return static_cast<OctetCodes<1>>(
        dot_bytes(codes[1], 0x80402010u, dot_bytes(codes[0], 0x08040201u, 0)));
  } else if constexpr (Bits == 2) {
    constexpr std::uint32_t weights = 0x40100401u;
    return static_cast<OctetCodes<2>>(dot_bytes(codes[0], weights, 0) |
                                      dot_bytes(codes[1], weights, 0) << 8);
  } else if constexpr (Bits == 4) {
    return permute_bytes(codes[0] | codes[0] >> 4, codes[1] | codes[1] >> 4, 0x6420);
  } else {
    return codes[0] | std::uint64_t{codes[1]} << 32;
  }
}

/// Returns code number j of an octet times `unit`, exactly.
template <int Bits>
ACTPACK_HD float level(OctetCodes<Bits> codes, int j, float unit) {
  if constexpr (Bits == 8) {
    const std::uint32_t word = static_cast<std::uint32_t>(j < 4 ? codes : codes >> 32);
    const std::uint32_t integer =
        permute_bytes(word, integer_bits, 0x7540u | static_cast<std::uint32_t>(j % 4));
    return (float_of(integer) - integer_base) * unit;
  } else {
    // The code where it is, as an integer that is 2^shift too large.
    constexpr int per_half_word = 16 / Bits;
    const std::uint32_t word = std::uint32_t{codes} >> (j / per_half_word * 16);
    const int shift = j % per_half_word * Bits;
    const std::uint32_t integer = and_or(word, max_code(Bits) << shift, integer_bits);
    return (float_of(integer) - integer_base) * (unit / static_cast<float>(1 << shift));
  }
}

/// Codes of a slice: those of its two octets.
template <int Bits>
struct SliceCodes {
  static constexpr int bits = Bits;
  OctetCodes<Bits> octet[2];
};

/// Encodes a slice; elements that are not `present` get code 0.
template <int Bits, class Elements, class Encoder>
ACTPACK_HD SliceCodes<Bits> encode_slice(const Elements& x, SliceMask present,
                                         const Encoder& encoder,
                                         const SliceDither<code_shift<Bits>>& dither) {
  SliceCodes<Bits> codes{};
  for (int i = 0; i < 2; ++i) {
    std::uint32_t position[octet_size];
    for (int j = 0; j < octet_size; ++j) {
      position[j] = encoder(x[octet_size * i + j], dither(octet_size * i + j));
    }
    if (present != whole_slice) {
      for (int j = 0; j < octet_size; ++j) {
        position[j] = (present >> (octet_size * i + j) & 1) != 0 ? position[j] : 0;
      }
    }
    const std::uint64_t keep = encoder.keep() * 0x100000001u;
    codes.octet[i] = static_cast<OctetCodes<Bits>>(merge_octet<Bits>(position) & keep);
  }
  return codes;
}

/// One bit for each element: whether it is present and positive.
template <class Elements>
ACTPACK_HD SliceCodes<1> signs_of(const Elements& y, SliceMask present) {
  SliceMask signs = 0;
  for (int j = 0; j < elements_per_call; ++j) {
    signs |= y[j] > 0 ? 1u << j : 0u;
  }
  signs &= present;
  return {{static_cast<std::uint8_t>(signs), static_cast<std::uint8_t>(signs >> 8)}};
}

/// The codes of a slice as floats, exactly.
template <int Bits>
ACTPACK_HD Slice levels_of(const SliceCodes<Bits>& codes) {
  Slice levels;
  for (int j = 0; j < elements_per_call; ++j) {
    levels.value[j] = level<Bits>(codes.octet[j / octet_size], j % octet_size, 1);
  }
  return levels;
}

/// The steps of positions_of.
inline constexpr float position_unit = 0x1p-16f;

/// The positions of subtractive decoding: those of position_of (affine.hpp), in steps of 2^−16.
template <int Bits>
ACTPACK_HD Slice positions_of(const SliceCodes<Bits>& codes, const SliceDither<16>& dither,
                              float alpha) {
  Slice positions;
  for (int j = 0; j < elements_per_call; ++j) {
    // With 4R for the dither R: 2 (2R + 1 − 2^14), centred, is 4R − (2^15 − 2).
    const float centred = float_of(dither(j)) - (integer_base + 0x1p15f - 2);
    const float position =
        level<Bits>(codes.octet[j / octet_size], j % octet_size, 1 / position_unit);
    positions.value[j] = fma(-alpha, centred, position);
  }
  return positions;
}

}  // namespace actpack::detail
