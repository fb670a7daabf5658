// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The groups of a tensor, affine or sign-magnitude, to codes and back on the host: portable loops,
// those of the processor's instruction set, and the choice between them.
#pragma once

#include "actpack/config.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

/// Writes the parameters and codes of whole groups, elements `elements` of the tensor; `x` is the
/// first of them. A View is a PackedView or a SignMagnitudeView.
template <class View, class T>
void encode_groups(const T* x, const View& out, const Rounding& rounding, ElementInterval elements,
                   Footprint footprint);

/// Decodes elements `elements` of the tensor; `x` is the first of them. A View is a ConstPackedView
/// or a SideSource.
template <class View, class T>
void decode_groups(const View& in, T* x, const Decoding& decoding, ElementInterval elements,
                   Footprint footprint);

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS

#include "actpack/detail/host/affine_codes.hpp"
#include "actpack/detail/host/host_path.hpp"
#include "actpack/detail/host/side_codes.hpp"
#include "actpack/detail/host/strips.hpp"

namespace actpack::detail::inline ACTPACK_TARGET::portable {

template <class View, class T>
void encode_groups(const T* x, const View& out, const Rounding& rounding, ElementInterval elements,
                   Footprint) {
  DitherTile tile(rounding, CodesOf<View>::domain);
  for (GroupCursor cursor(out.layout, elements); cursor.has_group(); cursor.skip(1)) {
    const Group group = cursor.group();
    const T* values = x + (group.first - elements.first);
    const auto codes = codes_of(out, group);
    *codes.params = codes.fit(range_of(values, group.size));
    encode_group(tile, values, group, out.layout.group_size, codes);
  }
}

template <class View, class T>
void decode_groups(const View& in, T* x, const Decoding& decoding, ElementInterval elements,
                   Footprint) {
  DitherTile tile(decoding.rounding, CodesOf<View>::domain);
  for (GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.skip(1)) {
    const Group group = cursor.group();
    const ElementInterval interval = interval_in(group, elements);
    decode_group(tile, codes_of(in, group), group, in.layout.group_size, decoding, interval,
                 x + (group.first - elements.first));
  }
}

}  // namespace actpack::detail::portable

#if ACTPACK_X86_KERNELS
#include "actpack/detail/x86/groups.hpp"
#endif

namespace actpack::detail::inline ACTPACK_ONCE {

template <class View, class T>
void encode_groups(const T* x, const View& out, const Rounding& rounding, ElementInterval elements,
                   Footprint footprint) {
  ACTPACK_HOST_PATH(encode_groups(x, out, rounding, elements, footprint));
}

template <class View, class T>
void decode_groups(const View& in, T* x, const Decoding& decoding, ElementInterval elements,
                   Footprint footprint) {
  ACTPACK_HOST_PATH(decode_groups(in, x, decoding, elements, footprint));
}

}  // namespace actpack::detail

#endif  // !ACTPACK_EXTERN_KERNELS
