// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One context for a chain of normalisation, ReLU and convolution: the exact sign of the ReLU's
// input, and its magnitude in a few bits.
//
// A backward pass needs three things of y, the input of a ReLU: the normalisation before it needs
// y, the ReLU needs the mask y > 0, and the operation after it needs max(y, 0). The sign plane is
// the mask, exactly. The magnitude plane rounds |y| without bias, with one scale for the positive
// and one for the negative values of each group, both starting at 0. So one copy serves all three.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/detail/host/arguments.hpp"
#include "actpack/detail/host/group_codec.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/host/relu_groups.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/require_view.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/parallel.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

template <class T>
void decode_range(const ConstSignMagnitudeView& in, std::int64_t first, std::span<T> y,
                  const Decoding& decoding, NegativeSide negative_side,
                  ParallelFor auto& parallel) {
  in.layout.validate();
  const ElementInterval elements = require_range(in.layout, first, {"y", y});
  require_memory(y, "y");
  require_arrays(in);
  require_host(decoding.rounding);
  for_each_piece(in.layout, elements, parallel, [&](ElementInterval piece) {
    decode_groups(SideSource{in, negative_side}, y.data() + (piece.first - elements.first),
                  decoding, piece, footprint_of(y));
  });
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Encodes `y` [host, layout.numel() values, row-major], a ReLU's input, into `out` [host memory]:
/// writes every word of both planes and the parameters of every group. Elements, here and below,
/// are contiguous ranges of float, bfloat16 or float16: spans, vectors, arrays. The sign bit is y >
/// 0, so ±0 and NaN give 0. Each side's scale is the smallest bfloat16 whose largest code covers
/// that side exactly. A group with NaN, ±∞ or a side beyond bfloat16 parameters is poisoned: both
/// scales NaN, magnitude codes 0. Noise as in `quantize`: a function of seed, offset and element
/// index alone. Throws std::invalid_argument, naming the argument and the numbers, before anything
/// is written. Allocates nothing.
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void encode(const Y& y, SignMagnitudeView out, Rounding rounding, Loop&& parallel = {}) {
  out.layout.validate();
  detail::require_all(out.layout, {"y", std::span(y)});
  encode(y, out, rounding, 0, parallel);
}

/// Encodes a chunk: `y` holds whole rows, from row `first_row` of the tensor that `out` views.
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void encode(const Y& y, SignMagnitudeView out, Rounding rounding, std::int64_t first_row,
            Loop&& parallel = {}) {
  const auto values = detail::as_const_span(y);
  out.layout.validate();
  const detail::ElementInterval rows = detail::require_rows(out.layout, {"y", values}, first_row);
  detail::require_memory(values, "y");
  detail::require_arrays(out);
  detail::require_host(rounding);
  detail::for_each_piece(out.layout, rows, parallel, [&](detail::ElementInterval piece) {
    detail::encode_groups(values.data() + (piece.first - rows.first), out, rounding, piece,
                          detail::footprint_of(values));
  });
}

/// Decodes elements [first, first + y.size()) of y, for the normalisation before the ReLU. Unbiased
/// as `dequantize` is; zeros decode plainly to +0; poisoned groups give NaN. Throws
/// std::invalid_argument before anything is written. Allocates nothing.
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void decode(ConstSignMagnitudeView in, std::int64_t first, Y&& y,
            Decoding decoding = Decoding::plain(), Loop&& parallel = {}) {
  detail::decode_range(in, first, detail::as_span(y), decoding, detail::NegativeSide::kept,
                       parallel);
}

/// Decodes the whole tensor: y.size() is layout.numel().
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void decode(ConstSignMagnitudeView in, Y&& y, Decoding decoding = Decoding::plain(),
            Loop&& parallel = {}) {
  in.layout.validate();
  detail::require_all(in.layout, {"y", std::span(y)});
  decode(in, 0, y, decoding, parallel);
}

/// Decodes elements [first, first + y.size()) of max(y, 0), for the operation after the ReLU:
/// exactly 0 where the sign bit is 0, else unbiased; poisoned groups give NaN everywhere. Throws
/// and allocates as `decode`.
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, Y&& y,
                 Decoding decoding = Decoding::plain(), Loop&& parallel = {}) {
  detail::decode_range(in, first, detail::as_span(y), decoding, detail::NegativeSide::zero,
                       parallel);
}

/// Decodes the whole tensor: y.size() is layout.numel().
template <detail::ElementRange Y, ParallelFor Loop = Serial>
void decode_relu(ConstSignMagnitudeView in, Y&& y, Decoding decoding = Decoding::plain(),
                 Loop&& parallel = {}) {
  in.layout.validate();
  detail::require_all(in.layout, {"y", std::span(y)});
  decode_relu(in, 0, y, decoding, parallel);
}

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements [first, first + dy.size()): the ReLU's backward pass, exactly. `dy`, `dx` [host] of one
/// size; dx may be dy. Throws std::invalid_argument before anything is written. Allocates nothing.
template <detail::ElementRange Dy, detail::ElementRange Dx, ParallelFor Loop = Serial>
void relu_backward(const Dy& dy, ConstSignMagnitudeView in, std::int64_t first, Dx&& dx,
                   Loop&& parallel = {}) {
  const auto from = detail::as_const_span(dy);
  const auto to = detail::as_span(dx);
  in.layout.validate();
  detail::refuse_unless(to.size() == from.size(), "dx.size() = ", to.size(),
                        " but dy.size() = ", from.size());
  const detail::ElementInterval elements = detail::require_range(in.layout, first, {"dy", from});
  detail::require_memory(from, "dy");
  detail::require_memory(to, "dx");
  detail::require_arrays(in);
  detail::for_each_piece(in.layout, elements, parallel, [&](detail::ElementInterval piece) {
    const std::int64_t offset = piece.first - elements.first;
    detail::relu_backward_groups(from.data() + offset, in, to.data() + offset, piece);
  });
}

/// The same for the whole tensor: dy.size() is layout.numel().
template <detail::ElementRange Dy, detail::ElementRange Dx, ParallelFor Loop = Serial>
void relu_backward(const Dy& dy, ConstSignMagnitudeView in, Dx&& dx, Loop&& parallel = {}) {
  in.layout.validate();
  detail::require_all(in.layout, {"dy", std::span(dy)});
  relu_backward(dy, in, 0, dx, parallel);
}

}  // namespace actpack
