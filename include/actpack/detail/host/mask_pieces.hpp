// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Masks as verbs see them: what they refuse, and pieces of whole words.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/parallel.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_mask(std::span<const std::uint32_t> mask, std::size_t numel) {
  const std::int64_t words = words_for(static_cast<std::int64_t>(numel), 1);
  refuse_unless(static_cast<std::int64_t>(mask.size()) == words, "mask.size() = ", mask.size(),
                " but ", numel, " elements take ", words, " words");
  require_memory(mask, "mask");
}

template <class T>
void require_pair(std::span<const T> from, const char* from_name, std::span<T> to,
                  const char* to_name) {
  refuse_unless(to.size() == from.size(), to_name, ".size() = ", to.size(), " but ", from_name,
                ".size() = ", from.size());
  require_memory(from, from_name);
  require_memory(to, to_name);
}

/// Whole words of a mask, and the elements they are for: `numel` from `first` on.
struct WordPiece {
  std::int64_t word, first, numel;
};

/// Calls work(piece) for pieces that together are the mask of `numel` elements.
template <class Work>
void for_each_word_piece(std::size_t numel, ParallelFor auto& parallel, Work work) {
  const std::int64_t end = static_cast<std::int64_t>(numel);
  for_each_piece(0, words_for(end, 1), 32, parallel,
                 [&](std::int64_t first_word, std::int64_t last_word) {
                   const std::int64_t first = 32 * first_word;
                   work(WordPiece{first_word, first, (std::min)(32 * last_word, end) - first});
                 });
}

}  // namespace actpack::detail
