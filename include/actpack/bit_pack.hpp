// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Codes of 1, 2, 4 or 8 bits in 32-bit words: element e occupies bits [e·b, (e+1)·b), least
// significant first, so no code straddles a word; unused high bits are 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/parallel.hpp"

namespace actpack {

ACTPACK_HD constexpr bool is_width(int bits) {
  return bits == 1 || bits == 2 || bits == 4 || bits == 8;
}

/// Returns the largest code of a width, 2^bits − 1.
ACTPACK_HD constexpr std::uint32_t max_code(int bits) { return (1u << bits) - 1; }

/// Returns the number of words that hold `numel` codes.
ACTPACK_HD constexpr std::int64_t words_for(std::int64_t numel, int bits) {
  return (numel * bits + 31) / 32;
}

/// Returns code number `element` of the codes that start at `words`.
ACTPACK_HD constexpr std::uint32_t extract(const std::uint32_t* words, std::int64_t element,
                                           int bits) {
  const int per_word = 32 / bits;
  return words[element / per_word] >> (element % per_word * bits) & max_code(bits);
}

namespace detail {

/// Codes are moved this many at a time, pairwise merged or split, in loops that vectorise
/// everywhere.
inline constexpr int block_codes = 128;

/// Merges `Count` codes of `Bits` bits into bytes, element 0 lowest.
template <int Bits, int Count>
void merge_codes(const std::uint8_t* codes, std::uint8_t* bytes) {
  if constexpr (Bits == 8) {
    std::copy_n(codes, Count, bytes);
  } else {
    std::uint8_t pairs[Count / 2];
    for (int i = 0; i < Count / 2; ++i) {
      pairs[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << Bits);
    }
    merge_codes<2 * Bits, Count / 2>(pairs, bytes);
  }
}

/// Splits `Count` · Bits / 8 bytes into codes of `Bits` bits: the inverse.
template <int Bits, int Count>
void split_codes(const std::uint8_t* bytes, std::uint8_t* codes) {
  if constexpr (Bits == 8) {
    std::copy_n(bytes, Count, codes);
  } else {
    std::uint8_t pairs[Count / 2];
    split_codes<2 * Bits, Count / 2>(bytes, pairs);
    for (int i = 0; i < Count / 2; ++i) {
      codes[2 * i] = static_cast<std::uint8_t>(pairs[i] & max_code(Bits));
      codes[2 * i + 1] = static_cast<std::uint8_t>(pairs[i] >> Bits);
    }
  }
}

template <int Bits>
void insert_block(const std::uint8_t* codes, std::uint32_t* words) {
  std::uint8_t bytes[block_codes * Bits / 8];
  merge_codes<Bits, block_codes>(codes, bytes);
  for (int i = 0; i < block_codes * Bits / 32; ++i) {
    words[i] = std::uint32_t{bytes[4 * i]} | std::uint32_t{bytes[4 * i + 1]} << 8 |
               std::uint32_t{bytes[4 * i + 2]} << 16 | std::uint32_t{bytes[4 * i + 3]} << 24;
  }
}

template <int Bits>
void extract_block(const std::uint32_t* words, std::uint8_t* codes) {
  std::uint8_t bytes[block_codes * Bits / 8];
  for (int i = 0; i < block_codes * Bits / 32; ++i) {
    for (int j = 0; j < 4; ++j) {
      bytes[4 * i + j] = static_cast<std::uint8_t>(words[i] >> (8 * j));
    }
  }
  split_codes<Bits, block_codes>(bytes, codes);
}

/// A width as a type.
template <int Bits>
struct Width {
  static constexpr int bits = Bits;
};

/// Calls f(Width<bits>).
ACTPACK_AS_CALLABLE
template <class F>
ACTPACK_HD void dispatch_width(int bits, F f) {
  switch (bits) {
    case 1: return f(Width<1>{});
    case 2: return f(Width<2>{});
    case 4: return f(Width<4>{});
    default: return f(Width<8>{});
  }
}

/// Writes `count` codes as elements `first`, first + 1, … of `words`, whose codes from there on are
/// 0.
inline void insert_codes(const std::uint8_t* codes, std::int64_t count, int bits,
                         std::uint32_t* words, std::int64_t first) {
  const int per_word = 32 / bits;
  words += first / per_word;
  int lane = static_cast<int>(first % per_word);
  if (lane == 0) {
    dispatch_width(bits, [&](auto width) {
      for (; count >= block_codes; count -= block_codes, codes += block_codes) {
        insert_block<decltype(width)::bits>(codes, words);
        words += block_codes * decltype(width)::bits / 32;
      }
    });
  }
  while (count > 0) {
    const int lanes = static_cast<int>(std::min<std::int64_t>(per_word - lane, count));
    for (int i = 0; i < lanes; ++i) {
      *words |= std::uint32_t{codes[i]} << ((lane + i) * bits);
    }
    ++words;
    codes += lanes;
    count -= lanes;
    lane = 0;
  }
}

/// Copies codes `first`, first + 1, … of `words` to the `count` bytes at `codes`.
inline void extract_codes(const std::uint32_t* words, std::int64_t first, std::int64_t count,
                          int bits, std::uint8_t* codes) {
  const int per_word = 32 / bits;
  words += first / per_word;
  int lane = static_cast<int>(first % per_word);
  if (lane == 0) {
    dispatch_width(bits, [&](auto width) {
      for (; count >= block_codes; count -= block_codes, codes += block_codes) {
        extract_block<decltype(width)::bits>(words, codes);
        words += block_codes * decltype(width)::bits / 32;
      }
    });
  }
  while (count > 0) {
    const int lanes = static_cast<int>(std::min<std::int64_t>(per_word - lane, count));
    for (int i = 0; i < lanes; ++i) {
      codes[i] = static_cast<std::uint8_t>(*words >> ((lane + i) * bits) & max_code(bits));
    }
    ++words;
    codes += lanes;
    count -= lanes;
    lane = 0;
  }
}

inline void require_words(std::span<const std::uint32_t> words, std::int64_t numel, int bits) {
  require(is_width(bits), "bits = ", bits, " is not 1, 2, 4 or 8");
  require(static_cast<std::int64_t>(words.size()) == words_for(numel, bits),
          "words.size() = ", words.size(), " but ", numel, " codes of ", bits, " bits take ",
          words_for(numel, bits));
  require_memory(words, "words");
}

}  // namespace detail

/// Packs small integers losslessly (max-pool indices, any code): `codes` [host] into `words`
/// [host], of words_for(codes.size(), bits) words, all of which are written. Throws
/// std::invalid_argument, before anything is written, if the width or a size is wrong or a code
/// needs more than `bits` bits. Allocates nothing.
template <ParallelFor Loop = Serial>
void pack(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words,
          Loop&& parallel = {}) {
  const std::int64_t numel = static_cast<std::int64_t>(codes.size());
  detail::require_words(words, numel, bits);
  detail::require_memory(codes, "codes");
  const auto too_large =
      std::ranges::find_if(codes, [&](std::uint8_t c) { return c > max_code(bits); });
  detail::require(too_large == codes.end(), "codes[", too_large - codes.begin(),
                  "] = ", too_large == codes.end() ? 0 : int{*too_large}, " does not fit in ", bits,
                  " bits");
  const std::int64_t per_word = 32 / bits;
  const auto pack_words = [&](std::int64_t first, std::int64_t last) {
    std::fill(words.data() + first, words.data() + last, 0u);
    const std::int64_t count = std::min(last * per_word, numel) - first * per_word;
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
  detail::require(is_width(bits), "bits = ", bits, " is not 1, 2, 4 or 8");
  const std::int64_t numel = static_cast<std::int64_t>(words.size()) * (32 / bits);
  const std::int64_t count = static_cast<std::int64_t>(codes.size());
  detail::require(first >= 0 && first <= numel && count <= numel - first, "first = ", first,
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
