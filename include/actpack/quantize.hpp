// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Whole tensors on the host: float, bfloat16 or float16 to packed codes and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "actpack/detail/host/arguments.hpp"
#include "actpack/detail/host/group_codec.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/require_view.hpp"
#include "actpack/float16.hpp"
#include "actpack/packed.hpp"
#include "actpack/parallel.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Validates what a view says about the rows that [first, end) touches: their words lie in front of
/// the total, and where the rows before them leave room, whatever the widths of these are.
inline void require_view(const ConstPackedView& view, ElementInterval elements) {
  const Layout& layout = view.layout;
  require_arrays(view);
  if (view.row_bits == nullptr || elements.first == elements.end) {
    return;
  }
  const std::int64_t total = view.row_offsets[layout.rows];
  for (std::int64_t row = elements.first / layout.row_size;
       row <= (elements.end - 1) / layout.row_size; ++row) {
    require_row_width(layout, row, view.row_bits[row]);
    const std::int64_t start = view.row_offsets[row];
    const std::int64_t least = row * words_for(layout.row_size, 1);
    const std::int64_t most = row * layout.words_per_row();
    refuse_unless(start >= least && start <= most, "row_offsets[", row, "] = ", start,
                  " is not in [", least, ", ", most, "]");
    const std::int64_t end = start + words_for(layout.size_of_row(row), view.row_bits[row]);
    refuse_unless(view.row_offsets[row + 1] == end && end <= total, "row_offsets[", row + 1,
                  "] = ", view.row_offsets[row + 1], " but row ", row, " ends at word ", end,
                  " of ", total);
  }
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Quantizes `x` [host, layout.numel() values, row-major] into `out` [host memory]: writes every
/// word and the parameters of every group. `x` is a contiguous range of float, bfloat16 or float16:
/// a span, a vector, an array. The bits depend on x, layout, widths, seed and offset alone. A group
/// that holds NaN or ±∞, or whose range has no finite parameters, is poisoned: it decodes to NaN.
/// Throws std::invalid_argument, naming the argument and the numbers, before anything is written.
/// Allocates nothing. `parallel`, here and in every verb: see `ParallelFor`. Source: Chen et al.,
/// "ActNN", ICML 2021, with parameters rounded outward before they are used.
template <detail::ElementRange X, ParallelFor Loop = Serial>
void quantize(const X& x, PackedView out, Rounding rounding, Loop&& parallel = {}) {
  out.layout.validate();
  detail::require_all(out.layout, {"x", std::span(x)});
  quantize(x, out, rounding, 0, parallel);
}

/// Quantizes a chunk: `x` holds whole rows, from row `first_row` of the tensor that `out` views.
/// The chunks of a tensor, in any order and from any threads, give the words of the whole.
template <detail::ElementRange X, ParallelFor Loop = Serial>
void quantize(const X& x, PackedView out, Rounding rounding, std::int64_t first_row,
              Loop&& parallel = {}) {
  const auto values = detail::as_const_span(x);
  out.layout.validate();
  const detail::ElementInterval rows = detail::require_rows(out.layout, {"x", values}, first_row);
  detail::require_memory(values, "x");
  detail::require_view(out, rows);
  detail::require_host(rounding);
  detail::for_each_piece(out.layout, rows, parallel, [&](detail::ElementInterval piece) {
    detail::encode_groups(values.data() + (piece.first - rows.first), out, rounding, piece,
                          detail::footprint_of(values));
  });
}

/// Decodes elements [first, first + x.size()) of `in` [host memory] into `x` [host], a contiguous
/// range of float, bfloat16 or float16. Values are those of the whole tensor's decoding, whatever
/// the range. Finite values beyond x's type become its largest finite value; poisoned groups give
/// NaN. Output of type float is unbiased to 2^−13 of a step; narrower types add their own rounding
/// to nearest. Throws std::invalid_argument before anything is written. Allocates nothing.
template <detail::ElementRange X, ParallelFor Loop = Serial>
void dequantize(ConstPackedView in, std::int64_t first, X&& x,
                Decoding decoding = Decoding::plain(), Loop&& parallel = {}) {
  const auto values = detail::as_span(x);
  in.layout.validate();
  const detail::ElementInterval elements = detail::require_range(in.layout, first, {"x", values});
  detail::require_memory(values, "x");
  detail::require_view(in, elements);
  detail::require_host(decoding.rounding);
  detail::for_each_piece(in.layout, elements, parallel, [&](detail::ElementInterval piece) {
    detail::decode_groups(in, values.data() + (piece.first - elements.first), decoding, piece,
                          detail::footprint_of(values));
  });
}

/// Decodes the whole tensor: x.size() is layout.numel().
template <detail::ElementRange X, ParallelFor Loop = Serial>
void dequantize(ConstPackedView in, X&& x, Decoding decoding = Decoding::plain(),
                Loop&& parallel = {}) {
  in.layout.validate();
  detail::require_all(in.layout, {"x", std::span(x)});
  dequantize(in, 0, x, decoding, parallel);
}

}  // namespace actpack
