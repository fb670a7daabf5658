// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Sign-magnitude codes of the groups of a tensor, on the host: portable loops, those of the
// processor's instruction set, and the choice between them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/host_path.hpp"
#include "actpack/detail/host/mask_elements.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail {

/// Encodes whole groups, elements `elements` of the tensor; `y` is the first of them.
template <class T>
void encode_groups(const T* y, const SignMagnitudeView& out, const Rounding& rounding,
                   ElementInterval elements, Footprint footprint);

/// Decodes elements `elements` of the tensor; `y` is the first of them.
template <class T>
void decode_groups(const ConstSignMagnitudeView& in, T* y, const Decoding& decoding,
                   NegativeSide negative_side, ElementInterval elements, Footprint footprint);

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements `elements` of the tensor; `dy`, `dx` are at the first of them.
template <class T>
void relu_backward_groups(const T* dy, const ConstSignMagnitudeView& in, T* dx,
                          ElementInterval elements);

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS

#if ACTPACK_X86_KERNELS
#include "actpack/detail/x86/codec.hpp"
#endif

namespace actpack::detail {

/// Where the codes of a group are.
struct SignMagnitudePlace {
  std::int64_t sign_word, magnitude_word;

  SignMagnitudePlace(const Layout& layout, const Group& group)
      : sign_word(uniform_place(layout, group, 1).word),
        magnitude_word(uniform_place(layout, group, layout.bits).word) {}
};

/// Writes the codes of one group with parameters `params`; `y` is its first value.
template <class T>
void encode_group(DitherTile& tile, const T* y, const Group& group, const Layout& layout,
                  SignMagnitudeParams params, std::uint32_t* signs, std::uint32_t* magnitudes) {
  std::fill_n(signs, words_for(group.size, 1), 0u);
  std::fill_n(magnitudes, words_for(group.size, layout.bits), 0u);
  for_each_run(tile, group.index, layout.group_size, 0, group.size,
               [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                 const SideEncoder encoder(params);
                 const T* values = y + first;
                 RunCodes codes;
                 for_each_in_run(count,
                                 [&](int i) ACTPACK_INLINE { codes[i] = values[i] > 0 ? 1 : 0; });
                 insert_run(codes, count, 1, signs, first);
                 if (is_poisoned(params)) {
                   return;
                 }
                 for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                   codes[i] = round_code(encoder(values[i]), dithers[i]);
                 });
                 insert_run(codes, count, layout.bits, magnitudes, first);
               });
}

/// Writes elements [begin, end) of one group; `y` is where its element 0 is or would be.
template <class T>
void decode_group(DitherTile& tile, const ConstSignMagnitudeView& in, const Group& group,
                  const Decoding& decoding, NegativeSide negative_side, std::int64_t begin,
                  std::int64_t end, T* y) {
  const SignMagnitudePlace place(in.layout, group);
  for_each_run(tile, group.index, in.layout.group_size, begin, end,
               [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                 const SideDecoder decoder(in.params[group.index], negative_side, decoding.alpha);
                 RunCodes signs;
                 RunCodes codes;
                 extract_run(in.sign_words + place.sign_word, first, count, 1, signs);
                 extract_run(in.magnitude_words + place.magnitude_word, first, count,
                             in.layout.bits, codes);
                 T* values = y + first;
                 if (decoding.is_subtractive()) {
                   for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                     values[i] = saturate_cast<T>(decoder(signs[i], codes[i], dithers[i]));
                   });
                 } else {
                   for_each_in_run(count, [&](int i) ACTPACK_INLINE {
                     values[i] = saturate_cast<T>(decoder(signs[i], codes[i]));
                   });
                 }
               });
}

namespace portable {

template <class T>
void encode_groups(const T* y, const SignMagnitudeView& out, const Rounding& rounding,
                   ElementInterval elements, Footprint) {
  DitherTile tile(rounding);
  for (GroupCursor cursor(out.layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const T* values = y + (group.first - elements.first);
    const SignMagnitudeParams params = fit_sides(range_of(values, group.size), out.layout.bits);
    out.params[group.index] = params;
    const SignMagnitudePlace place(out.layout, group);
    encode_group(tile, values, group, out.layout, params, out.sign_words + place.sign_word,
                 out.magnitude_words + place.magnitude_word);
  }
}

template <class T>
void decode_groups(const ConstSignMagnitudeView& in, T* y, const Decoding& decoding,
                   NegativeSide negative_side, ElementInterval elements, Footprint) {
  DitherTile tile(decoding.rounding);
  for (GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const ElementInterval part = part_of(group, elements);
    decode_group(tile, in, group, decoding, negative_side, part.first, part.end,
                 y + (group.first - elements.first));
  }
}

}  // namespace portable

}  // namespace actpack::detail

#if ACTPACK_X86_KERNELS
#define ACTPACK_KERNELS "actpack/detail/x86/sign_magnitude_groups.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#endif

namespace actpack::detail {

template <class T>
void encode_groups(const T* y, const SignMagnitudeView& out, const Rounding& rounding,
                   ElementInterval elements, Footprint footprint) {
  ACTPACK_HOST_PATH(encode_groups(y, out, rounding, elements, footprint));
}

template <class T>
void decode_groups(const ConstSignMagnitudeView& in, T* y, const Decoding& decoding,
                   NegativeSide negative_side, ElementInterval elements, Footprint footprint) {
  ACTPACK_HOST_PATH(decode_groups(in, y, decoding, negative_side, elements, footprint));
}

template <class T>
void relu_backward_groups(const T* dy, const ConstSignMagnitudeView& in, T* dx,
                          ElementInterval elements) {
  for (GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const std::uint32_t* signs = in.sign_words + uniform_place(in.layout, group, 1).word;
    const std::int64_t offset = group.first - elements.first;
    auto [e, end] = part_of(group, elements);
    if (is_poisoned(in.params[group.index])) {
      std::fill(dx + offset + e, dx + offset + end, T(float{poisoned_params.scale}));
      continue;
    }
    for (; e < end && e % 32 != 0; ++e) {
      dx[offset + e] = extract(signs, e, 1) != 0 ? dy[offset + e] : T(0.0f);
    }
    keep_elements(dy + offset + e, end - e, signs + e / 32, dx + offset + e);
  }
}

}  // namespace actpack::detail

#endif  // !ACTPACK_EXTERN_KERNELS
