// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks every count of a layout against loops that count, and every layout that must be refused.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <actpack/layout.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/reference.hpp"

namespace {

using actpack::Layout;

std::int64_t groups_in(std::int64_t elements, int group_size) {
  std::int64_t groups = 0;
  for (std::int64_t element = 0; element < elements; element += group_size) ++groups;
  return groups;
}

}  // namespace

TEST_CASE("Layout: the defaults are one row, two bits and groups of 256") {
  static_assert(std::is_trivially_copyable_v<Layout>);
  const Layout layout;
  CHECK(layout.rows == 1);
  CHECK(layout.row_size == 0);
  CHECK(layout.group_size == 256);
  CHECK(layout.bits == 2);
  CHECK(layout.last_row_size == 0);
  CHECK(layout.numel() == 0);
  CHECK(layout.num_groups() == 0);
  CHECK(layout.num_words() == 0);
  CHECK_NOTHROW(layout.validate());
}

TEST_CASE("Layout: all counts equal those of loops over rows, groups and elements") {
  for (const int bits : support::all_widths) {
    for (const int group_size : {32, 96, 256, 65536}) {
      for (const std::int64_t rows : {0, 1, 2, 3, 7}) {
        for (const std::int64_t row_size : {0, 1, 31, 32, 33, 95, 96, 97, 255, 256, 257, 1000}) {
          CAPTURE(bits);
          CAPTURE(group_size);
          CAPTURE(rows);
          CAPTURE(row_size);
          const Layout layout{rows, row_size, group_size, bits};
          const reference::Shape shape = support::shape_of(layout);
          CHECK_NOTHROW(layout.validate());
          CHECK(layout.numel() == reference::count_elements(shape));
          CHECK(layout.num_words() == reference::count_words(shape));
          CHECK(layout.num_groups() ==
                static_cast<std::int64_t>(reference::groups_of(shape).size()));
          CHECK(layout.groups_per_row() == groups_in(row_size, group_size));
          CHECK(layout.words_per_row() == reference::words_for(row_size, bits));
          for (std::int64_t row = 0; row < rows; ++row) CHECK(layout.size_of_row(row) == row_size);
        }
      }
    }
  }
}

TEST_CASE("Layout: a short last row counts for what it holds") {
  for (const int bits : support::all_widths) {
    for (const std::int64_t rows : {1, 2, 5}) {
      for (const std::int64_t row_size : {1, 64, 256, 300}) {
        for (std::int64_t last = 0; last <= row_size; last += last < 3 ? 1 : 29) {
          CAPTURE(bits);
          CAPTURE(rows);
          CAPTURE(row_size);
          CAPTURE(last);
          const Layout layout{rows, row_size, 64, bits, last};
          const reference::Shape shape = support::shape_of(layout);
          CHECK_NOTHROW(layout.validate());
          CHECK(layout.numel() == reference::count_elements(shape));
          CHECK(layout.num_words() == reference::count_words(shape));
          CHECK(layout.num_groups() ==
                static_cast<std::int64_t>(reference::groups_of(shape).size()));
          CHECK(layout.size_of_row(rows - 1) == (last == 0 ? row_size : last));
          CHECK(layout.size_of_row(0) == (rows == 1 && last != 0 ? last : row_size));
        }
      }
    }
  }
}

TEST_CASE("Layout: bits_per_value is the width and 32 bits a group") {
  CHECK(Layout{1, 1 << 20, 256, 2}.bits_per_value() == 2.125);
  CHECK(Layout{64, 1024, 256, 8}.bits_per_value() == 8.125);
  CHECK(Layout{64, 1024, 32, 1}.bits_per_value() == 2.0);
  CHECK(Layout{64, 1024, 64, 4}.bits_per_value() == 4.5);
}

TEST_CASE("Layout: with_bits changes the width and nothing else") {
  const Layout layout{3, 100, 64, 2, 7};
  const Layout wider = layout.with_bits(8);
  CHECK(wider.bits == 8);
  CHECK(wider.rows == 3);
  CHECK(wider.row_size == 100);
  CHECK(wider.group_size == 64);
  CHECK(wider.last_row_size == 7);
  CHECK(layout.bits == 2);
}

TEST_CASE("Layout: sizes beyond 32 bits are counted") {
  const Layout layout{std::int64_t{1} << 20, (std::int64_t{1} << 20) + 1, 256, 4};
  CHECK_NOTHROW(layout.validate());
  CHECK(layout.numel() == (std::int64_t{1} << 40) + (1 << 20));
  CHECK(layout.words_per_row() == (1 << 17) + 1);
  CHECK(layout.num_words() == (std::int64_t{1} << 20) * ((1 << 17) + 1));
  CHECK(layout.num_groups() == (std::int64_t{1} << 20) * 4097);
}

TEST_CASE("Layout: validate names what is wrong and its number") {
  const auto refused = [](const Layout& layout, const std::vector<std::string>& texts) {
    support::check_refused([&] { layout.validate(); }, texts);
  };
  refused({-1, 10, 256, 2}, {"rows", "-1"});
  refused({1, -10, 256, 2}, {"row_size", "-10"});
  for (const int bits : {-8, 0, 3, 5, 6, 7, 16, 32}) {
    CAPTURE(bits);
    refused({1, 10, 256, bits}, {"bits", std::to_string(bits)});
  }
  for (const int group_size : {-256, -32, 0, 1, 16, 31, 33, 100, 255}) {
    CAPTURE(group_size);
    refused({1, 10, group_size, 2}, {"group_size", std::to_string(group_size)});
  }
  refused({3, 10, 256, 2, 11}, {"last_row_size", "11", "10"});
  refused({3, 10, 256, 2, -1}, {"last_row_size", "-1"});
  CHECK_NOTHROW((Layout{3, 10, 256, 2, 10}.validate()));
  CHECK_NOTHROW((Layout{0, 10, 256, 2}.validate()));
  CHECK_NOTHROW((Layout{1, 10, std::numeric_limits<std::int32_t>::max() / 32 * 32, 2}.validate()));
}

TEST_CASE("Layout: sizes that overflow 64 bits are refused, not wrapped") {
  const std::int64_t large = std::int64_t{1} << 40;
  const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    support::check_refused(
        [&] {
          Layout{large, large, 256, bits}.validate();
        },
        {"rows", "row_size", "1099511627776"});
    support::check_refused([&] { Layout{2, largest, 256, bits}.validate(); }, {"rows", "row_size"});
    support::check_refused([&] { Layout{largest, 2, 256, bits}.validate(); }, {"rows", "row_size"});
    // Exactly 2^64 elements: a 64-bit product is 0.
    support::check_refused(
        [&] {
          Layout{std::int64_t{1} << 32, std::int64_t{1} << 32, 256, bits}.validate();
        },
        {"rows", "row_size", "4294967296"});
  }
}

TEST_CASE("Layout: more groups than one seed has random bits for are refused") {
  constexpr std::int32_t huge_group = std::int32_t{1} << 30;  // 2^26 generator calls
  CHECK_NOTHROW((Layout{std::int64_t{1} << 30, 1, huge_group, 2}.validate()));
  support::check_refused(
      [] {
        Layout{(std::int64_t{1} << 30) + 1, 1, huge_group, 2}.validate();
      },
      {"rows", "1073741825", "group_size", "1073741824"});
}

TEST_CASE("row_offsets: where each row's words start, the total last") {
  support::Generator generator(15);
  for (const std::int64_t rows : {0, 1, 2, 9}) {
    for (const std::int64_t row_size : {0, 1, 33, 100, 256}) {
      for (const std::int64_t last : {std::int64_t{0}, row_size / 2}) {
        CAPTURE(rows);
        CAPTURE(row_size);
        CAPTURE(last);
        if (rows == 0 && last != 0) continue;
        const Layout layout{rows, row_size, 32, 8, last};
        std::vector<std::uint8_t> row_bits;
        for (std::int64_t row = 0; row < rows; ++row) {
          row_bits.push_back(static_cast<std::uint8_t>(1 << generator.below(4)));
        }
        support::GuardedBuffer<std::int64_t> offsets(rows + 1);
        actpack::row_offsets(layout, row_bits, offsets.span());
        const reference::Shape shape = support::shape_of(layout, row_bits);
        std::int64_t word = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
          CHECK(offsets.data()[row] == word);
          word += reference::words_for(shape.size_of_row(row), shape.bits_of_row(row));
        }
        CHECK(offsets.data()[rows] == word);
        CHECK(layout.num_words() >= word);
      }
    }
  }
}

TEST_CASE("row_offsets: wrong widths and sizes are refused before anything is written") {
  support::GuardedBuffer<std::int64_t> offsets(std::int64_t{4});
  const Layout layout{3, 40, 32, 4};
  const auto refused = [&](std::vector<std::uint8_t> row_bits, std::size_t size,
                           const std::vector<std::string>& texts) {
    support::check_refused(
        [&] { actpack::row_offsets(layout, row_bits, offsets.span().first(size)); }, texts);
    CHECK(offsets.is_untouched());
  };
  refused({1, 2}, 4, {"row_bits", "2", "3"});
  refused({1, 2, 4, 4}, 4, {"row_bits", "4", "3"});
  refused({1, 2, 4}, 3, {"offsets", "3", "4"});
  refused({1, 2, 3}, 4, {"row_bits", "3"});
  refused({1, 0, 4}, 4, {"row_bits", "0"});
  refused({1, 2, 8}, 4, {"row_bits", "8", "4"});  // wider than the layout's bound
}
