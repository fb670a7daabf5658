// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Codes as loops move them: between bytes and words, eight or 32 at a time.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Loops move this many codes at a time, each in a byte of one integer, the first lowest.
inline constexpr int block_codes = 8;

/// The lowest `Kept` bits of every `Lane` bits.
template <int Lane, int Kept>
inline constexpr std::uint64_t lane_mask =
    lane_mask<2 * Lane, Kept> | lane_mask<2 * Lane, Kept> << Lane;
template <int Kept>
inline constexpr std::uint64_t lane_mask<64, Kept> = ~std::uint64_t{0} >> (64 - Kept);

/// Moves the codes in `bytes`, of `Bits` bits, next to each other.
template <int Bits>
constexpr std::uint64_t merge_codes(std::uint64_t bytes) {
  if constexpr (Bits < 8) {
    bytes = (bytes | bytes >> (8 - Bits)) & lane_mask<16, 2 * Bits>;
    bytes = (bytes | bytes >> (16 - 2 * Bits)) & lane_mask<32, 4 * Bits>;
    bytes = (bytes | bytes >> (32 - 4 * Bits)) & lane_mask<64, 8 * Bits>;
  }
  return bytes;
}

/// Moves eight codes, which are the lowest bits of `codes`, a byte apart: the inverse.
template <int Bits>
constexpr std::uint64_t split_codes(std::uint64_t codes) {
  if constexpr (Bits < 8) {
    codes = (codes | codes << (32 - 4 * Bits)) & lane_mask<32, 4 * Bits>;
    codes = (codes | codes << (16 - 2 * Bits)) & lane_mask<16, 2 * Bits>;
    codes = (codes | codes << (8 - Bits)) & lane_mask<8, Bits>;
  }
  return codes;
}

/// Eight bytes as one integer, the first lowest; and back.
inline std::uint64_t load_bytes(const std::uint8_t* bytes) {
  std::uint64_t value = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&value, bytes, sizeof value);
  } else {
    for (int i = 0; i < block_codes; ++i) {
      value |= std::uint64_t{bytes[i]} << (8 * i);
    }
  }
  return value;
}
inline void store_bytes(std::uint8_t* bytes, std::uint64_t value) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(bytes, &value, sizeof value);
  } else {
    for (int i = 0; i < block_codes; ++i) {
      bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
  }
}

/// Writes the `Bits` words that hold 32 codes.
template <int Bits>
void insert_words(const std::uint8_t* codes, std::uint32_t* words) {
  const auto merged = [&](int block) {
    return merge_codes<Bits>(load_bytes(codes + block * block_codes));
  };
  const auto write = [&](int word, std::uint64_t bits) {
    words[word] = static_cast<std::uint32_t>(bits);
  };
  if constexpr (Bits == 1) {
    write(0, merged(0) | merged(1) << 8 | merged(2) << 16 | merged(3) << 24);
  } else if constexpr (Bits == 2) {
    write(0, merged(0) | merged(1) << 16);
    write(1, merged(2) | merged(3) << 16);
  } else {
    for (int block = 0; block < 4; ++block) {
      const std::uint64_t bits = merged(block);
      for (int i = 0; i < Bits / 4; ++i) {
        write(block * Bits / 4 + i, bits >> (32 * i));
      }
    }
  }
}

/// Writes the 32 codes that `Bits` words hold.
template <int Bits>
void extract_words(const std::uint32_t* words, std::uint8_t* codes) {
  const auto write = [&](int block, std::uint64_t merged) {
    store_bytes(codes + block * block_codes, split_codes<Bits>(merged));
  };
  if constexpr (Bits == 1) {
    write(0, words[0] & 0xFF);
    write(1, words[0] >> 8 & 0xFF);
    write(2, words[0] >> 16 & 0xFF);
    write(3, words[0] >> 24);
  } else if constexpr (Bits == 2) {
    write(0, words[0] & 0xFFFF);
    write(1, words[0] >> 16);
    write(2, words[1] & 0xFFFF);
    write(3, words[1] >> 16);
  } else {
    for (int block = 0; block < 4; ++block) {
      std::uint64_t merged = 0;
      for (int i = 0; i < Bits / 4; ++i) {
        merged |= std::uint64_t{words[block * Bits / 4 + i]} << (32 * i);
      }
      write(block, merged);
    }
  }
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
      for (; count >= 32; count -= 32, codes += 32) {
        insert_words<decltype(width)::bits>(codes, words);
        words += decltype(width)::bits;
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
      for (; count >= 32; count -= 32, codes += 32) {
        extract_words<decltype(width)::bits>(words, codes);
        words += decltype(width)::bits;
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

}  // namespace actpack::detail
