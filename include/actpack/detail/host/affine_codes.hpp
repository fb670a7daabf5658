// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The affine codes of one group, by portable loops.
#pragma once

#include <algorithm>
#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/affine.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/strips.hpp"
#include "actpack/float16.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Where the parameters and codes of a group are; Word is const if they are only read.
template <class Params, class Word>
struct AffineCodes {
  static constexpr NoiseDomain domain = NoiseDomain::values;
  Params* params;
  Word* words;
  int bits;

  GroupParams fit(ValueRange range) const { return fit_params(range.min, range.max, bits); }

  /// Goes on to the next of full groups that follow each other without a gap.
  template <int Bits>
  void skip_group(std::int64_t group_size) {
    ++params;
    words += group_size / 32 * Bits;
  }
};

inline AffineCodes<GroupParams, std::uint32_t> codes_of(const PackedView& out, const Group& group) {
  const CodeLocation location = locate(out, group);
  return {out.params + group.index, out.words + location.word, location.bits};
}
inline AffineCodes<const GroupParams, const std::uint32_t> codes_of(const ConstPackedView& in,
                                                                    const Group& group) {
  const CodeLocation location = locate(in, group);
  return {in.params + group.index, in.words + location.word, location.bits};
}

/// Whether full groups of different rows may follow each other without a gap.
inline bool has_one_width(const ConstPackedView& view) { return view.row_bits == nullptr; }

/// Writes the codes of one group whose parameters are written; `x` is its first value.
template <class T>
void encode_group(DitherTile& tile, const T* x, const Group& group, std::int64_t group_size,
                  const AffineCodes<GroupParams, std::uint32_t>& codes) {
  const GroupParams params = *codes.params;
  std::fill_n(codes.words, words_for(group.size, codes.bits), 0u);
  if (is_poisoned(params) || params.scale == 0) {
    return;
  }
  for_each_strip(tile, group.index, group_size, 0, group.size,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   const Encoder encoder(params);
                   const T* values = x + first;
                   StripCodes strip;
                   for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                     strip[i] = code_of(values[i], encoder, dithers[i]);
                   });
                   insert_strip(strip, count, codes.bits, codes.words, first);
                 });
}

/// Writes the elements of one group that are in `interval`; `x` is where its element 0 is or would
/// be.
template <class T>
void decode_group(DitherTile& tile,
                  const AffineCodes<const GroupParams, const std::uint32_t>& codes,
                  const Group& group, std::int64_t group_size, const Decoding& decoding,
                  ElementInterval interval, T* x) {
  for_each_strip(tile, group.index, group_size, interval.first, interval.end,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   const Decoder decoder(*codes.params, decoding.alpha);
                   StripCodes strip;
                   extract_strip(codes.words, first, count, codes.bits, strip);
                   T* values = x + first;
                   if (decoding.is_subtractive()) {
                     for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                       values[i] = saturate_cast<T>(decoder(strip[i], dithers[i]));
                     });
                   } else if (decoder.is_near_overflow()) {
                     for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                       values[i] = saturate_cast<T>(decoder(strip[i]));
                     });
                   } else {
                     for_each_in_strip(count, [&](int i) ACTPACK_INLINE {
                       values[i] = saturate_cast<T>(decoder.far_from_overflow(strip[i]));
                     });
                   }
                 });
}

}  // namespace actpack::detail
