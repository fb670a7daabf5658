// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Strips, the portable loops' unit of work: their ranges, codes and dithers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "actpack/codes.hpp"
#include "actpack/detail/codes.hpp"
#include "actpack/detail/dither.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Maps a float's bits so that integers order as floats do, with −0 below +0 and NaN beyond ±∞. Its
/// own inverse.
inline std::int32_t order_key(std::int32_t bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); }

/// Precondition: size > 0.
template <class T>
ValueRange range_of(const T* x, std::int64_t size) {
  // Loops of constant length vectorise everywhere: first the extremes of every 16th element, then
  // those of all.
  constexpr int lanes = 16;
  std::int32_t min[lanes];
  std::int32_t max[lanes];
  std::ranges::fill(min, (std::numeric_limits<std::int32_t>::max)());
  std::ranges::fill(max, (std::numeric_limits<std::int32_t>::min)());
  const auto add = [&](int lane, T value) ACTPACK_INLINE {
    const std::int32_t key = order_key(static_cast<std::int32_t>(bits_of(value)));
    min[lane] = (std::min)(min[lane], key);
    max[lane] = (std::max)(max[lane], key);
  };
  std::int64_t first = 0;
  for (; first + lanes <= size; first += lanes) {
    for (int lane = 0; lane < lanes; ++lane) {
      add(lane, x[first + lane]);
    }
  }
  for (; first < size; ++first) {
    add(0, x[first]);
  }
  return {float_of(static_cast<std::uint32_t>(order_key(*std::ranges::min_element(min)))),
          float_of(static_cast<std::uint32_t>(order_key(*std::ranges::max_element(max))))};
}

/// Inner loops work on a strip at a time: consecutive elements whose dithers come from one half of
/// at most `calls_per_tile` generator calls.
inline constexpr int calls_per_tile = 16;
inline constexpr int strip_capacity = calls_per_tile * elements_per_half_call;

/// Calls draw(offset), then visit(start, first, last, upper) for the strip of `Size` elements at
/// `offset` of each half of a group: the strip starts at `start`, and of its elements [first, last)
/// are among those asked for, [begin, end). Strips of both halves take turns, because they share
/// generator calls; where there are none, `half` is the size of the group.
template <int Size, class Draw, class Visit>
void for_each_strip(std::int64_t half, std::int64_t begin, std::int64_t end, Draw draw,
                    Visit visit) {
  const bool only_lower = end <= half;
  const bool only_upper = begin >= half;
  // Where strips start and end, in either half: at the elements asked for, or all if both halves
  // are.
  const std::int64_t from = only_lower ? begin : only_upper ? begin - half : 0;
  const std::int64_t to = only_lower ? end : only_upper ? end - half : half;
  for (std::int64_t offset = from / Size * Size; offset < to; offset += Size) {
    draw(offset);
    for (int upper = 0; upper < 2; ++upper) {
      const std::int64_t start = upper * half + offset;
      const std::int64_t first = (std::max)(start, begin);
      const std::int64_t last = (std::min)({start + Size, (upper + 1) * half, end});
      if (first < last) {
        visit(start, first, last, upper);
      }
    }
  }
}

/// Calls f(0), …, f(count − 1). For a full strip the loop has a constant length, so it vectorises
/// everywhere if f's operands are local; bytes and pointers could alias anything.
template <class F>
ACTPACK_INLINE inline void for_each_in_strip(int count, F f) {
  if (count == strip_capacity) {
    for (int i = 0; i < strip_capacity; ++i) {
      f(i);
    }
  } else {
    for (int i = 0; i < count; ++i) {
      f(i);
    }
  }
}

/// The codes of a strip, a word each.
using StripCodes = std::uint32_t[strip_capacity];

inline void insert_strip(const StripCodes& codes, int count, int bits, std::uint32_t* words,
                         std::int64_t first) {
  std::uint8_t bytes[strip_capacity];
  for_each_in_strip(count,
                    [&](int i) ACTPACK_INLINE { bytes[i] = static_cast<std::uint8_t>(codes[i]); });
  insert_codes(bytes, count, bits, words, first);
}

inline void extract_strip(const std::uint32_t* words, std::int64_t first, int count, int bits,
                          StripCodes& codes) {
  std::uint8_t bytes[strip_capacity];
  ACTPACK_ASSUME(count <= strip_capacity);
  extract_codes(words, first, count, bits, bytes);
  for_each_in_strip(count, [&](int i) ACTPACK_INLINE { codes[i] = bytes[i]; });
}

/// The dithers of two strips, one in each half of a group, that the same generator calls serve.
class DitherTile {
 public:
  DitherTile(const Rounding& rounding, NoiseDomain domain) : rounding_(rounding), domain_(domain) {
    if (!rounding_.is_stochastic) {
      std::ranges::fill(lower_, static_cast<std::uint16_t>(half_step));
      std::ranges::fill(upper_, static_cast<std::uint16_t>(half_step));
    }
  }

  void draw(std::int64_t first_call) {
    if (!rounding_.is_stochastic) {
      return;
    }
    // Every loop runs a constant number of times, over all calls that fit, so it vectorises.
    std::uint32_t lower_words[2 * calls_per_tile];
    std::uint32_t upper_words[2 * calls_per_tile];
    for (int i = 0; i < calls_per_tile; ++i) {
      const RandomWords random =
          philox4x32(call_index(domain_, first_call + i), rounding_.offset, rounding_.seed);
      lower_words[2 * i] = random.word[0];
      lower_words[2 * i + 1] = random.word[1];
      upper_words[2 * i] = random.word[2];
      upper_words[2 * i + 1] = random.word[3];
    }
    spread(lower_words, lower_);
    spread(upper_words, upper_);
  }

  const std::uint16_t* half(int upper) const { return upper != 0 ? upper_ : lower_; }

 private:
  static void spread(const std::uint32_t* words, std::uint16_t* dithers) {
    std::uint16_t half_words[strip_capacity / 2];
    for (int i = 0; i < strip_capacity / 4; ++i) {
      half_words[2 * i] = static_cast<std::uint16_t>(words[i]);
      half_words[2 * i + 1] = static_cast<std::uint16_t>(words[i] >> 16);
    }
    for (int i = 0; i < strip_capacity / 2; ++i) {
      dithers[2 * i] = static_cast<std::uint16_t>(even_dither(half_words[i]));
      dithers[2 * i + 1] = static_cast<std::uint16_t>(odd_dither(half_words[i]));
    }
  }

  Rounding rounding_;
  NoiseDomain domain_;
  std::uint16_t lower_[strip_capacity];
  std::uint16_t upper_[strip_capacity];
};

/// Calls visit(first, count, dithers) for strips that together are elements [begin, end) of group
/// number `group`; dithers[i] belongs to element first + i of the group.
template <class Visit>
void for_each_strip(DitherTile& tile, std::int64_t group, std::int64_t group_size,
                    std::int64_t begin, std::int64_t end, Visit visit) {
  const auto draw = [&](std::int64_t offset) {
    tile.draw(group * (group_size / elements_per_call) + offset / elements_per_half_call);
  };
  for_each_strip<strip_capacity>(
      group_size / 2, begin, end, draw,
      [&](std::int64_t start, std::int64_t first, std::int64_t last, int upper) {
        visit(first, static_cast<int>(last - first), tile.half(upper) + (first - start));
      });
}

}  // namespace actpack::detail
