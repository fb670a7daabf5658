// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The launches of verbs that walk groups: each picks its kernel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "actpack/detail/codes.hpp"
#include "actpack/detail/require_view.hpp"
#include "group_kernels.hpp"
#include "launch.cuh"

namespace actpack::detail {

/// Whether rows may have widths of their own.
inline bool is_mixed(const ConstPackedView& view) { return view.row_bits != nullptr; }
inline bool is_mixed(const ConstSignMagnitudeView&) { return false; }

/// The number of groups, from the first, that the flat kernels can take. The others take the rest:
/// all of a tensor with gaps, at most a block's work of one without.
template <class View>
std::int64_t flat_groups(const View& view, const void* values) {
  const Layout& layout = view.layout;
  const bool has_gaps = layout.rows > 1 && layout.row_size % flat_group_size != 0;
  if (is_mixed(view) || has_gaps || layout.group_size != flat_group_size ||
      !is_vector_aligned(values)) {
    return 0;
  }
  return layout.numel() / flat_group_size / flat_multiple * flat_multiple;
}

inline std::int64_t groups_before(const Layout& layout, std::int64_t row) {
  return row == layout.rows ? layout.num_groups() : row * layout.groups_per_row();
}

template <class T, class View>
void encode_rows(const T* values, const char* name, const View& out, const Rounding& rounding,
                 std::int64_t first_row, std::int64_t num_rows, const char* verb,
                 cudaStream_t stream) {
  require_arrays(out);
  const Layout& layout = out.layout;
  refuse_unless(first_row >= 0 && num_rows >= 0 && first_row <= layout.rows &&
                    num_rows <= layout.rows - first_row,
                "first_row = ", first_row, " and num_rows = ", num_rows,
                " exceed layout.rows = ", layout.rows);
  if (num_rows == 0 || layout.numel() == 0) {
    return;
  }
  require_memory(values, num_rows * layout.row_size, name);
  const Storage<T>* x = as_storage(values);
  const std::int64_t flat = num_rows == layout.rows ? flat_groups(out, x) : 0;
  if (flat > 0) {
    with_fast_noise(rounding, [&](const auto& noise) {
      dispatch_width(layout.bits, [&](auto width) {
        enqueue(
            EncodeFlat<Storage<T>, View, std::decay_t<decltype(noise)>, decltype(width)::bits>{
                x, out, noise},
            flat, verb, stream);
      });
    });
  }
  const std::int64_t first_group = (std::max)(groups_before(layout, first_row), flat);
  const std::int64_t end_group = groups_before(layout, first_row + num_rows);
  with_noise(rounding, [&](const auto& noise) {
    enqueue(
        EncodeRows<Storage<T>, View, std::decay_t<decltype(noise)>>{
            x - first_row * layout.row_size,
            out,
            noise,
            {layout.groups_per_row(), first_group, end_group}},
        end_group - first_group, verb, stream);
  });
}

/// The groups that hold elements [first, first + count), count > 0, of a valid layout.
inline RowWalk walk_over(const Layout& layout, std::int64_t first, std::int64_t count) {
  return {layout.groups_per_row(), group_of(layout, first),
          group_of(layout, first + count - 1) + 1};
}

inline void require_elements(const Layout& layout, std::int64_t first, std::int64_t count) {
  refuse_unless(
      first >= 0 && count >= 0 && first <= layout.numel() && count <= layout.numel() - first,
      "first = ", first, " and count = ", count, " exceed the layout's ", layout.numel(),
      " elements");
}

template <class T, class View, class Epilogue>
void decode_elements(const View& in, std::int64_t first, std::int64_t count, T* values,
                     const char* name, const Decoding& decoding, NegativeSide negative_side,
                     const Epilogue& epilogue, const char* verb, cudaStream_t stream) {
  require_arrays(in);
  const Layout& layout = in.layout;
  require_elements(layout, first, count);
  require_memory(values, count, name);
  if (count == 0) {
    return;
  }
  Storage<T>* x = as_storage(values);
  const DecodeOptions options = {decoding.alpha, negative_side};
  const Rounding rounding = decoding.is_subtractive() ? decoding.rounding : Rounding::nearest();
  RowWalk walk = walk_over(layout, first, count);
  if constexpr (std::is_same_v<Epilogue, NoEpilogue>) {
    const std::int64_t flat = count == layout.numel() ? flat_groups(in, x) : 0;
    if (flat > 0) {
      with_fast_noise(rounding, [&](const auto& noise) {
        dispatch_width(layout.bits, [&](auto width) {
          enqueue(
              DecodeFlat<Storage<T>, View, std::decay_t<decltype(noise)>, decltype(width)::bits>{
                  in, x, noise, options},
              flat, verb, stream);
        });
      });
      walk.first_group = flat;
    }
  }
  with_noise(rounding, [&](const auto& noise) {
    enqueue(
        DecodeRows<Storage<T>, View, std::decay_t<decltype(noise)>, Epilogue>{
            in, x - first, first, first + count, noise, options, epilogue, walk},
        walk.end_group - walk.first_group, verb, stream);
  });
}

}  // namespace actpack::detail
