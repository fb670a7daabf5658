// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Small integers on the host, packed losslessly into words of codes and unpacked again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/codes.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/parallel.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline bool has_larger_code(std::span<const std::uint8_t> codes, int bits) {
  std::uint64_t any = 0;
  std::size_t i = 0;
  for (; i + block_codes <= codes.size(); i += block_codes) {
    any |= load_bytes(codes.data() + i);
  }
  std::uint32_t all = 0;
  for (; i < codes.size(); ++i) {
    all |= codes[i];
  }
  for (int byte = 0; byte < block_codes; ++byte) {
    all |= static_cast<std::uint32_t>(any >> (8 * byte)) & 0xFF;
  }
  return all > max_code(bits);
}

inline void require_words(std::span<const std::uint32_t> words, std::int64_t numel, int bits) {
  refuse_unless(is_width(bits), "bits = ", bits, " is not 1, 2, 4 or 8");
  refuse_unless(static_cast<std::int64_t>(words.size()) == words_for(numel, bits),
                "words.size() = ", words.size(), " but ", numel, " codes of ", bits, " bits take ",
                words_for(numel, bits));
  require_memory(words, "words");
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Packs small integers, such as max-pool indices, without loss: `codes` [host] into `words` [host,
/// words_for(codes.size(), bits)]. Writes every word. Throws
/// std::invalid_argument, before anything is written, if the width or a size is wrong or a code
/// needs more than `bits` bits. Allocates nothing.
template <ParallelFor Loop = Serial>
void pack(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words,
          Loop&& parallel = {}) {
  const std::int64_t numel = static_cast<std::int64_t>(codes.size());
  detail::require_words(words, numel, bits);
  detail::require_memory(codes, "codes");
  if (detail::has_larger_code(codes, bits)) [[unlikely]] {
    const auto too_large =
        std::ranges::find_if(codes, [&](std::uint8_t c) { return c > max_code(bits); });
    detail::refuse_unless(false, "codes[", too_large - codes.begin(), "] = ", int{*too_large},
                          " does not fit in ", bits, " bits");
  }
  const std::int64_t per_word = 32 / bits;
  const auto pack_words = [&](std::int64_t first, std::int64_t last) {
    std::fill(words.data() + first, words.data() + last, 0u);
    const std::int64_t count = (std::min)(last * per_word, numel) - first * per_word;
    detail::insert_codes(codes.data() + first * per_word, count, bits, words.data() + first, 0);
  };
  detail::for_each_piece(0, words_for(numel, bits), per_word, parallel, pack_words);
}

/// Unpacks codes [first, first + codes.size()) of `words` [host] into `codes` [host]. Throws
/// std::invalid_argument, before anything is written, if the width is wrong or `words` ends before
/// the last of them. Allocates nothing.
template <ParallelFor Loop = Serial>
void unpack(std::span<const std::uint32_t> words, int bits, std::int64_t first,
            std::span<std::uint8_t> codes, Loop&& parallel = {}) {
  detail::refuse_unless(is_width(bits), "bits = ", bits, " is not 1, 2, 4 or 8");
  const std::int64_t numel = static_cast<std::int64_t>(words.size()) * (32 / bits);
  const std::int64_t count = static_cast<std::int64_t>(codes.size());
  detail::refuse_unless(first >= 0 && first <= numel && count <= numel - first, "first = ", first,
                        " and ", count, " codes exceed the ", numel, " that words hold");
  detail::require_memory(words, "words");
  detail::require_memory(codes, "codes");
  detail::for_each_piece(0, count, 1, parallel, [&](std::int64_t begin, std::int64_t end) {
    detail::extract_codes(words.data(), first + begin, end - begin, bits, codes.data() + begin);
  });
}

/// Unpacks all of `codes.size()` codes; `words` has words_for(codes.size(), bits) words.
template <ParallelFor Loop = Serial>
void unpack(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> codes,
            Loop&& parallel = {}) {
  detail::require_words(words, static_cast<std::int64_t>(codes.size()), bits);
  unpack(words, bits, 0, codes, parallel);
}

}  // namespace actpack
