// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The grid of widths, sizes and group sizes that every verb has to get right.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include <doctest/doctest.h>

namespace support {

inline constexpr std::array<int, 4> all_widths{1, 2, 4, 8};

// Around every boundary of a half-word, a word, a group; the last ones need many groups.
inline constexpr std::array<std::int64_t, 17> all_sizes{
    0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 513, 1000, 1023, 65537};

// 96: a multiple of 32 that is no power of two.
inline constexpr std::array<std::int32_t, 6> all_group_sizes{32, 64, 96, 128, 256, 1024};

struct Config {
  int bits;
  std::int64_t size;
  std::int32_t group_size;
};

template <class Test>
void for_each_config(std::span<const std::int64_t> sizes, Test test) {
  for (const int bits : all_widths) {
    for (const std::int64_t size : sizes) {
      for (const std::int32_t group_size : all_group_sizes) {
        CAPTURE(bits);
        CAPTURE(size);
        CAPTURE(group_size);
        test(Config{bits, size, group_size});
      }
    }
  }
}

template <class Test>
void for_each_config(Test test) {
  for_each_config(std::span<const std::int64_t>(all_sizes), test);
}

}  // namespace support
