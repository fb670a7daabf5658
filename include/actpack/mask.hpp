// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One-bit contexts: everything that the backward pass of a ReLU, a dropout or any predicate needs,
// exactly.
//
// Bit e of a mask belongs to element e of the linear tensor, least significant first; a mask of n
// elements has words_for(n, 1) words, whose unused high bits are 0. Chunks that start at a multiple
// of 32 elements are masks of their own, so callers may split the work as they like. Elements are
// contiguous ranges of float, bfloat16 or float16: spans, vectors, arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/dropout.hpp"
#include "actpack/detail/host/arguments.hpp"
#include "actpack/detail/host/mask_elements.hpp"
#include "actpack/detail/host/mask_pieces.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/parallel.hpp"
#include "actpack/rounding.hpp"

namespace actpack::inline ACTPACK_TARGET {

/// Writes one bit per element of `x` [host]: bit e of `mask` [host, words_for(x.size(), 1)] is
/// keep(x[e]), with x[e] as T. Throws std::invalid_argument, before anything is written, if the
/// mask's size is wrong. Allocates nothing.
template <detail::ElementRange X, class Predicate, ParallelFor Loop = Serial>
void make_mask(const X& x, std::span<std::uint32_t> mask, Predicate keep, Loop&& parallel = {}) {
  const auto from = detail::as_const_span(x);
  detail::require_mask(mask, from.size());
  detail::require_memory(from, "x");
  detail::for_each_word_piece(from.size(), parallel, [&](const detail::WordPiece& piece) {
    detail::fill_mask(mask.data() + piece.word, piece.numel, [&](std::int64_t e) {
      return static_cast<bool>(keep(from[static_cast<std::size_t>(piece.first + e)]));
    });
  });
}

/// Writes y = max(x, 0) and, for the backward pass, the mask x > 0, in one pass. `x`, `y`
/// [host] of one size; y may be x. NaN stays NaN in y, with a mask bit of 0. Throws
/// std::invalid_argument, before anything is written, if sizes differ. Allocates nothing.
template <detail::ElementRange X, detail::ElementRange Y, ParallelFor Loop = Serial>
void relu(const X& x, Y&& y, std::span<std::uint32_t> mask, Loop&& parallel = {}) {
  const auto from = detail::as_const_span(x);
  const auto to = detail::as_span(y);
  detail::require_mask(mask, from.size());
  detail::require_pair(from, "x", to, "y");
  detail::for_each_word_piece(from.size(), parallel, [&](const detail::WordPiece& piece) {
    detail::relu_elements(from.data() + piece.first, piece.numel, to.data() + piece.first,
                          mask.data() + piece.word);
  });
}

/// Writes dx = dy where the mask is set, else 0. `dy`, `dx` [host] of one size; dx may be dy.
/// Throws std::invalid_argument, before anything is written, if sizes differ. Allocates nothing.
template <detail::ElementRange Dy, detail::ElementRange Dx, ParallelFor Loop = Serial>
void relu_backward(const Dy& dy, std::span<const std::uint32_t> mask, Dx&& dx,
                   Loop&& parallel = {}) {
  const auto from = detail::as_const_span(dy);
  const auto to = detail::as_span(dx);
  detail::require_mask(mask, from.size());
  detail::require_pair(from, "dy", to, "dx");
  detail::for_each_word_piece(from.size(), parallel, [&](const detail::WordPiece& piece) {
    detail::keep_elements(from.data() + piece.first, piece.numel, mask.data() + piece.word,
                          to.data() + piece.first);
  });
}

/// Drops each element with probability p = `drop_probability`, rounded to a multiple of 2^−32 below
/// 1, and multiplies the others by 1 / (1 − p), so that the mean stays. Writes `y` and the mask of
/// kept elements. This chunk starts at element `first` of its tensor, a multiple of 32. Element e
/// of the tensor is kept if word e mod 4 of Philox call ⌊e / 4⌋ of NoiseDomain::dropout is below
/// (1 − p) · 2^32; the result depends on nothing else. `x`, `y` [host] of one size; y may be x.
/// Throws std::invalid_argument, before anything is written, if sizes differ, p is not in [0, 1),
/// `first` is not a multiple of 32, the chunk ends beyond Layout::max_numel or `rounding` is not a
/// stochastic one of the host. Allocates nothing.
template <detail::ElementRange X, detail::ElementRange Y, ParallelFor Loop = Serial>
void dropout(const X& x, Y&& y, std::span<std::uint32_t> mask, double drop_probability,
             Rounding rounding, std::int64_t first = 0, Loop&& parallel = {}) {
  const auto from = detail::as_const_span(x);
  const auto to = detail::as_span(y);
  detail::require_mask(mask, from.size());
  detail::require_pair(from, "x", to, "y");
  detail::require_drop_probability(drop_probability);
  detail::require_dropout(rounding, first, static_cast<std::int64_t>(from.size()));
  detail::require_host(rounding);
  const detail::DropoutRule rule = detail::dropout_rule(drop_probability);
  detail::for_each_word_piece(from.size(), parallel, [&](const detail::WordPiece& piece) {
    detail::drop_elements(from.data() + piece.first, first + piece.first, piece.numel,
                          to.data() + piece.first, mask.data() + piece.word, rule, rounding);
  });
}

/// Writes dx = dy / (1 − p) where the mask is set, else 0. `dy`, `dx` [host] of one size; dx may be
/// dy. Throws std::invalid_argument, before anything is written, if sizes differ or p is not in [0,
/// 1). Allocates nothing.
template <detail::ElementRange Dy, detail::ElementRange Dx, ParallelFor Loop = Serial>
void dropout_backward(const Dy& dy, std::span<const std::uint32_t> mask, Dx&& dx,
                      double drop_probability, Loop&& parallel = {}) {
  const auto from = detail::as_const_span(dy);
  const auto to = detail::as_span(dx);
  detail::require_drop_probability(drop_probability);
  detail::require_mask(mask, from.size());
  detail::require_pair(from, "dy", to, "dx");
  const float scale = detail::dropout_scale(drop_probability);
  detail::for_each_word_piece(from.size(), parallel, [&](const detail::WordPiece& piece) {
    detail::scale_elements(from.data() + piece.first, piece.numel, mask.data() + piece.word,
                           to.data() + piece.first, scale);
  });
}

}  // namespace actpack
