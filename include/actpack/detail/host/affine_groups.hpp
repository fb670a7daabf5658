// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Affine codes of the groups of a tensor, on the host: portable loops, those of the processor's
// instruction set, and the choice between them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/host_path.hpp"
#include "actpack/float16.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail {

/// Quantizes whole groups, elements `elements` of the tensor; `x` is the first of them.
template <class T>
void quantize_groups(const T* x, const PackedView& out, const Rounding& rounding,
                     ElementInterval elements, Footprint footprint);

/// Decodes elements `elements` of the tensor; `x` is the first of them.
template <class T>
void dequantize_groups(const ConstPackedView& in, T* x, const Decoding& decoding,
                       ElementInterval elements, Footprint footprint);

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS

#if ACTPACK_X86_KERNELS
#include "actpack/detail/x86/codec.hpp"
#endif

namespace actpack::detail {

/// Writes the codes of one group with parameters `params`; `x` is its first value.
template <class T>
void quantize_group(DitherTile& tile, const T* x, const Group& group, const CodePlace& place,
                    std::int64_t group_size, GroupParams params, std::uint32_t* words) {
  std::fill_n(words, words_for(group.size, place.bits), 0u);
  if (is_poisoned(params) || params.scale == 0) {
    return;
  }
  for_each_run(tile, group.index, group_size, 0, group.size,
               [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                 const Encoder encoder(params);
                 const T* values = x + first;
                 RunCodes codes;
                 for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                   codes[i] = encode(values[i], encoder, dithers[i]);
                 });
                 insert_run(codes, count, place.bits, words, first);
               });
}

/// Writes elements [begin, end) of one group; `x` is where its element 0 is or would be.
template <class T>
void dequantize_group(DitherTile& tile, const ConstPackedView& in, const Group& group,
                      const CodePlace& place, const Decoding& decoding, std::int64_t begin,
                      std::int64_t end, T* x) {
  for_each_run(tile, group.index, in.layout.group_size, begin, end,
               [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                 const Decoder decoder(in.params[group.index], decoding.alpha);
                 RunCodes codes;
                 extract_run(in.words + place.word, first, count, place.bits, codes);
                 T* values = x + first;
                 if (decoding.is_subtractive()) {
                   for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                     values[i] = saturate_cast<T>(decoder(codes[i], dithers[i]));
                   });
                 } else if (decoder.is_near_overflow()) {
                   for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                     values[i] = saturate_cast<T>(decoder(codes[i]));
                   });
                 } else {
                   for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                     values[i] = saturate_cast<T>(decoder.far_from_overflow(codes[i]));
                   });
                 }
               });
}

namespace portable {

template <class T>
void quantize_groups(const T* x, const PackedView& out, const Rounding& rounding,
                     ElementInterval elements, Footprint) {
  DitherTile tile(rounding);
  for (GroupCursor cursor(out.layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const T* values = x + (group.first - elements.first);
    const CodePlace place = place_of(out, group);
    const ValueRange range = range_of(values, group.size);
    const GroupParams params = fit_params(range.min, range.max, place.bits);
    out.params[group.index] = params;
    quantize_group(tile, values, group, place, out.layout.group_size, params,
                   out.words + place.word);
  }
}

template <class T>
void dequantize_groups(const ConstPackedView& in, T* x, const Decoding& decoding,
                       ElementInterval elements, Footprint) {
  DitherTile tile(decoding.rounding);
  for (GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const ElementInterval part = part_of(group, elements);
    dequantize_group(tile, in, group, place_of(in, group), decoding, part.first, part.end,
                     x + (group.first - elements.first));
  }
}

}  // namespace portable

}  // namespace actpack::detail

#if ACTPACK_X86_KERNELS
#define ACTPACK_KERNELS "actpack/detail/x86/affine_groups.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#endif

namespace actpack::detail {

template <class T>
void quantize_groups(const T* x, const PackedView& out, const Rounding& rounding,
                     ElementInterval elements, Footprint footprint) {
  ACTPACK_HOST_PATH(quantize_groups(x, out, rounding, elements, footprint));
}

template <class T>
void dequantize_groups(const ConstPackedView& in, T* x, const Decoding& decoding,
                       ElementInterval elements, Footprint footprint) {
  ACTPACK_HOST_PATH(dequantize_groups(in, x, decoding, elements, footprint));
}

}  // namespace actpack::detail

#endif  // !ACTPACK_EXTERN_KERNELS
