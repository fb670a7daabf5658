// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The host's loop over groups: the one place that walks a tensor, draws its noise and chooses how
// many elements are worked on at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/parallel.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail {

/// Elements [first, end) of a tensor.
struct ElementInterval {
  std::int64_t first, end;
};

/// Which of a group's elements are in an interval of its tensor, counted within the group.
inline ElementInterval part_of(const Group& group, ElementInterval elements) {
  return {std::max<std::int64_t>(elements.first - group.first, 0),
          std::min(elements.end - group.first, group.size)};
}

/// Where the values of a call come from or go to, which may be far more than one of its pieces: a
/// cache that a core has to itself, one that it shares, or memory.
enum class Footprint { near, shared, memory };

template <class T>
Footprint footprint_of(std::span<T> values) {
  constexpr std::size_t largest_near = std::size_t{1} << 20;
  constexpr std::size_t largest_shared = std::size_t{1} << 25;
  return values.size_bytes() <= largest_near     ? Footprint::near
         : values.size_bytes() <= largest_shared ? Footprint::shared
                                                 : Footprint::memory;
}

/// The size of a range of values, and what the caller knows it as.
struct NamedSize {
  const char* name;
  std::int64_t size;

  template <class Values>
  NamedSize(const char* argument, const Values& values)
      : name(argument), size(static_cast<std::int64_t>(values.size())) {}
};

/// The elements of a chunk of values that starts with row `first_row`: whole rows, all in the
/// tensor.
inline ElementInterval require_rows(const Layout& layout, NamedSize x, std::int64_t first_row) {
  require(first_row >= 0 && first_row <= layout.rows, "first_row = ", first_row,
          " but layout.rows = ", layout.rows);
  const std::int64_t first =
      first_row == layout.rows ? layout.numel() : first_row * layout.row_size;
  require(x.size <= layout.numel() - first, x.name, ".size() = ", x.size, " from row ", first_row,
          " exceeds the layout's ", layout.numel(), " elements");
  require(
      first + x.size == layout.numel() || x.size % std::max<std::int64_t>(layout.row_size, 1) == 0,
      x.name, ".size() = ", x.size, " is not a whole number of rows of ", layout.row_size);
  return {first, first + x.size};
}

inline ElementInterval require_range(const Layout& layout, std::int64_t first, NamedSize x) {
  require(first >= 0 && first <= layout.numel() && x.size <= layout.numel() - first,
          "first = ", first, " and ", x.name, ".size() = ", x.size, " exceed the layout's ",
          layout.numel(), " elements");
  return {first, first + x.size};
}

inline void require_all(const Layout& layout, NamedSize x) {
  require(x.size == layout.numel(), x.name, ".size() = ", x.size, " but the layout has ",
          layout.numel(), " elements");
}

/// The groups that hold elements of an interval of a valid layout, one after the other.
class GroupCursor {
 public:
  GroupCursor(const Layout& layout, ElementInterval elements)
      : layout_(layout), elements_(elements) {
    if (elements.first == elements.end) {
      elements_ = {0, 0};
    } else {
      row_ = elements.first / layout.row_size;
      column_ = elements.first % layout.row_size / layout.group_size * layout.group_size;
      index_ = row_ * layout.groups_per_row() + column_ / layout.group_size;
    }
  }

  bool has_group() const { return first() < elements_.end; }
  /// Precondition: has_group().
  Group group() const { return group_at(layout_, index_, row_, column_); }
  void advance() { skip(1); }

  /// The number of groups from here on that are full, lie in the interval with all their elements,
  /// and follow each other without a gap in elements, parameters and words. `crosses_rows`: all
  /// rows have one width.
  std::int64_t full_groups(bool crosses_rows) const {
    if (first() < elements_.first) {
      return 0;
    }
    const std::int64_t in_row = layout_.size_of_row(row_) - column_;
    const std::int64_t to_end = elements_.end - first();
    const bool without_gap = crosses_rows && layout_.row_size % layout_.group_size == 0;
    return (without_gap ? to_end : std::min(in_row, to_end)) / layout_.group_size;
  }
  /// Goes past `count` of them, or past one group of any kind.
  void skip(std::int64_t count) {
    index_ += count;
    column_ += count * layout_.group_size;
    if (column_ >= layout_.row_size) {
      const bool is_divided = layout_.row_size % layout_.group_size == 0;
      row_ += is_divided ? column_ / layout_.row_size : 1;
      column_ = is_divided ? column_ % layout_.row_size : 0;
    }
  }

 private:
  std::int64_t first() const { return row_ * layout_.row_size + column_; }

  const Layout& layout_;
  ElementInterval elements_;
  std::int64_t index_ = 0, row_ = 0, column_ = 0;
};

/// The first element of group number `group` of a valid layout that has groups; its size for the
/// group after the last.
inline std::int64_t first_element(const Layout& layout, std::int64_t group) {
  const std::int64_t row = group / layout.groups_per_row();
  const std::int64_t column = group % layout.groups_per_row() * layout.group_size;
  return std::min(row * layout.row_size + column, layout.numel());
}

/// Calls work(piece) for intervals that together are `elements` and meet where groups do, through
/// `parallel` if there are several.
template <class Work>
void for_each_piece(const Layout& layout, ElementInterval elements, ParallelFor auto& parallel,
                    Work work) {
  if (elements.first == elements.end) {
    return;
  }
  const auto group_of = [&](std::int64_t element) {
    const std::int64_t row = element / layout.row_size;
    return row * layout.groups_per_row() + element % layout.row_size / layout.group_size;
  };
  const std::int64_t unit = std::min<std::int64_t>(layout.group_size, layout.row_size);
  for_each_piece(group_of(elements.first), group_of(elements.end - 1) + 1, unit, parallel,
                 [&](std::int64_t begin, std::int64_t end) {
                   work(ElementInterval{std::max(first_element(layout, begin), elements.first),
                                        std::min(first_element(layout, end), elements.end)});
                 });
}

/// A float's bits, so that the order of integers is that of floats, −0 is below +0 and NaN is
/// beyond ±∞. Its own inverse on bits.
inline std::int32_t order_key(std::int32_t bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); }

/// Precondition: size > 0.
template <class T>
ValueRange range_of(const T* x, std::int64_t size) {
  // Loops of constant length vectorise everywhere: extremes of every 16th element, then of all.
  constexpr int lanes = 16;
  std::int32_t min[lanes];
  std::int32_t max[lanes];
  std::ranges::fill(min, std::numeric_limits<std::int32_t>::max());
  std::ranges::fill(max, std::numeric_limits<std::int32_t>::min());
  const auto add = [&](int lane, T value) ACTPACK_INLINE {
    const std::int32_t key = order_key(static_cast<std::int32_t>(bits_of(value)));
    min[lane] = std::min(min[lane], key);
    max[lane] = std::max(max[lane], key);
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

/// A run is what inner loops work on at a time: elements in sequence whose dithers come from one
/// half of at most `calls_per_tile` generator calls.
inline constexpr int calls_per_tile = 16;
inline constexpr int elements_per_half_call = elements_per_call / 2;
inline constexpr int run_capacity = calls_per_tile * elements_per_half_call;

/// Calls f(0), …, f(count − 1); for a full run by a loop of constant length, which vectorises
/// everywhere if f's operands are local: bytes and pointers might be anything's.
template <class F>
ACTPACK_INLINE inline void for_each_in_run(int count, F f) {
  if (count == run_capacity) {
    for (int i = 0; i < run_capacity; ++i) {
      f(i);
    }
  } else {
    for (int i = 0; i < count; ++i) {
      f(i);
    }
  }
}

/// The codes of a run, a word each.
using RunCodes = std::uint32_t[run_capacity];

inline void insert_run(const RunCodes& codes, int count, int bits, std::uint32_t* words,
                       std::int64_t first) {
  std::uint8_t bytes[run_capacity];
  for_each_in_run(count,
                  [&](int i) ACTPACK_INLINE { bytes[i] = static_cast<std::uint8_t>(codes[i]); });
  insert_codes(bytes, count, bits, words, first);
}

inline void extract_run(const std::uint32_t* words, std::int64_t first, int count, int bits,
                        RunCodes& codes) {
  std::uint8_t bytes[run_capacity];
  extract_codes(words, first, count, bits, bytes);
  for_each_in_run(count, [&](int i) ACTPACK_INLINE { codes[i] = bytes[i]; });
}

/// The dithers of two runs, one in each half of a group, that the same generator calls serve.
class DitherTile {
 public:
  explicit DitherTile(const Rounding& rounding) : rounding_(rounding) {
    if (!rounding_.is_stochastic) {
      std::ranges::fill(lower_, static_cast<std::uint16_t>(half_step));
      std::ranges::fill(upper_, static_cast<std::uint16_t>(half_step));
    }
  }

  void draw(std::int64_t first_call) {
    if (!rounding_.is_stochastic) {
      return;
    }
    // Every loop runs a constant number of times, over all calls that fit, so that it vectorises.
    std::uint32_t lower_words[2 * calls_per_tile];
    std::uint32_t upper_words[2 * calls_per_tile];
    for (int i = 0; i < calls_per_tile; ++i) {
      const RandomWords random =
          philox4x32(static_cast<std::uint64_t>(first_call + i), rounding_.offset, rounding_.seed);
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
    std::uint16_t half_words[run_capacity / 2];
    for (int i = 0; i < run_capacity / 4; ++i) {
      half_words[2 * i] = static_cast<std::uint16_t>(words[i]);
      half_words[2 * i + 1] = static_cast<std::uint16_t>(words[i] >> 16);
    }
    for (int i = 0; i < run_capacity / 2; ++i) {
      dithers[2 * i] = static_cast<std::uint16_t>(even_dither(half_words[i]));
      dithers[2 * i + 1] = static_cast<std::uint16_t>(odd_dither(half_words[i]));
    }
  }

  Rounding rounding_;
  std::uint16_t lower_[run_capacity];
  std::uint16_t upper_[run_capacity];
};

/// Calls visit(first, count, dithers) for runs that together are elements [begin, end) of group
/// number `group`; dithers[i] belongs to element first + i of the group.
template <class Visit>
void for_each_run(DitherTile& tile, std::int64_t group, std::int64_t group_size, std::int64_t begin,
                  std::int64_t end, Visit visit) {
  const std::int64_t half = group_size / 2;
  const bool only_lower = end <= half;
  const bool only_upper = begin >= half;
  // Where runs start and end, in either half: at the elements asked for, or all if both halves are.
  const std::int64_t from = only_lower ? begin : only_upper ? begin - half : 0;
  const std::int64_t to = only_lower ? end : only_upper ? end - half : half;
  for (std::int64_t offset = from / run_capacity * run_capacity; offset < to;
       offset += run_capacity) {
    tile.draw(group * (group_size / elements_per_call) + offset / elements_per_half_call);
    for (int upper = 0; upper < 2; ++upper) {
      const std::int64_t run = upper * half + offset;
      const std::int64_t first = std::max(run, begin);
      const std::int64_t last = std::min({run + run_capacity, (upper + 1) * half, end});
      if (first < last) {
        visit(first, static_cast<int>(last - first), tile.half(upper) + (first - run));
      }
    }
  }
}

}  // namespace actpack::detail
