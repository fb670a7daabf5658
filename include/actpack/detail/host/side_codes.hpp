// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The sign-magnitude codes of one group, by portable loops.
#pragma once

#include <algorithm>
#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/strips.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Where the parameters and both planes of a group are; Word is const if they are only read.
template <class Params, class Word>
struct SideCodes {
  static constexpr NoiseDomain domain = NoiseDomain::magnitudes;
  Params* params;
  Word* signs;
  Word* words;  // of magnitudes
  int bits;
  NegativeSide negative_side;  // how to decode

  SignMagnitudeParams fit(ValueRange range) const { return fit_sides(range, bits); }

  /// Goes on to the next of full groups that follow each other without a gap.
  template <int Bits>
  void skip_group(std::int64_t group_size) {
    ++params;
    signs += group_size / 32;
    words += group_size / 32 * Bits;
  }
};

inline SideCodes<SignMagnitudeParams, std::uint32_t> codes_of(const SignMagnitudeView& out,
                                                              const Group& group) {
  return {out.params + group.index, out.sign_words + locate(out.layout, group, 1).word,
          out.magnitude_words + locate(out.layout, group, out.layout.bits).word, out.layout.bits,
          NegativeSide::kept};
}
inline SideCodes<const SignMagnitudeParams, const std::uint32_t> codes_of(const SideSource& in,
                                                                          const Group& group) {
  return {in.params + group.index, in.sign_words + locate(in.layout, group, 1).word,
          in.magnitude_words + locate(in.layout, group, in.layout.bits).word, in.layout.bits,
          in.negative_side};
}

inline bool has_one_width(const ConstSignMagnitudeView&) { return true; }

/// Writes the codes of one group whose parameters are written; `y` is its first value.
template <class T>
void encode_group(DitherTile& tile, const T* y, const Group& group, std::int64_t group_size,
                  const SideCodes<SignMagnitudeParams, std::uint32_t>& codes) {
  const SignMagnitudeParams params = *codes.params;
  std::fill_n(codes.signs, words_for(group.size, 1), 0u);
  std::fill_n(codes.words, words_for(group.size, codes.bits), 0u);
  for_each_strip(tile, group.index, group_size, 0, group.size,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   const SideEncoder encoder(params);
                   const T* values = y + first;
                   StripCodes strip;
                   for_each_in_strip(
                       count, [&](int i) ACTPACK_INLINE { strip[i] = values[i] > 0 ? 1 : 0; });
                   insert_strip(strip, count, 1, codes.signs, first);
                   if (is_poisoned(params)) {
                     return;
                   }
                   for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                     strip[i] = round_code(encoder(values[i]), dithers[i]);
                   });
                   insert_strip(strip, count, codes.bits, codes.words, first);
                 });
}

/// Writes the elements of one group that are in `interval`; `y` is where its element 0 is or would
/// be.
template <class T>
void decode_group(DitherTile& tile,
                  const SideCodes<const SignMagnitudeParams, const std::uint32_t>& codes,
                  const Group& group, std::int64_t group_size, const Decoding& decoding,
                  ElementInterval interval, T* y) {
  for_each_strip(tile, group.index, group_size, interval.first, interval.end,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   const SideDecoder decoder(*codes.params, codes.negative_side, decoding.alpha);
                   StripCodes signs;
                   StripCodes strip;
                   extract_strip(codes.signs, first, count, 1, signs);
                   extract_strip(codes.words, first, count, codes.bits, strip);
                   T* values = y + first;
                   if (decoding.is_subtractive()) {
                     for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                       values[i] = saturate_cast<T>(decoder(signs[i], strip[i], dithers[i]));
                     });
                   } else {
                     for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                       values[i] = saturate_cast<T>(decoder(signs[i], strip[i]));
                     });
                   }
                 });
}

}  // namespace actpack::detail
