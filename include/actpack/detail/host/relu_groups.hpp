// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A ReLU's backward pass by the sign plane of a sign-magnitude context, on the host.
#pragma once

#include "actpack/config.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements `elements` of the tensor; `dy`, `dx` are at the first of them.
template <class T>
void relu_backward_groups(const T* dy, const ConstSignMagnitudeView& in, T* dx,
                          ElementInterval elements);

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS

#include <algorithm>
#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/host/mask_elements.hpp"
#include "actpack/detail/sides.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

template <class T>
void relu_backward_groups(const T* dy, const ConstSignMagnitudeView& in, T* dx,
                          ElementInterval elements) {
  for (GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.skip(1)) {
    const Group group = cursor.group();
    const std::uint32_t* signs = in.sign_words + locate(in.layout, group, 1).word;
    const std::int64_t offset = group.first - elements.first;
    auto [e, end] = interval_in(group, elements);
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
