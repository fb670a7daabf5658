// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the views (plain data for kernels) and the buffer that owns what they point to.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <actpack/packed.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/reference.hpp"

namespace {

using actpack::ConstPackedView;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::PackedView;

}  // namespace

TEST_CASE("views: trivially copyable, the const one made from the other and not back") {
  static_assert(std::is_trivially_copyable_v<PackedView>);
  static_assert(std::is_trivially_copyable_v<ConstPackedView>);
  static_assert(std::is_convertible_v<PackedView, ConstPackedView>);
  static_assert(!std::is_convertible_v<ConstPackedView, PackedView>);
  static_assert(std::is_move_constructible_v<PackedBuffer> &&
                std::is_move_assignable_v<PackedBuffer>);
  std::uint32_t word = 0;
  actpack::GroupParams params{};
  const std::uint8_t row_bits = 2;
  const std::int64_t offsets[2] = {0, 1};
  const PackedView view{Layout{1, 5, 32, 2}, &word, &params, &row_bits, offsets};
  const ConstPackedView copy = view;
  CHECK(copy.layout.row_size == 5);
  CHECK(copy.words == &word);
  CHECK(copy.params == &params);
  CHECK(copy.row_bits == &row_bits);
  CHECK(copy.row_offsets == offsets);
  const PackedView uniform{Layout{}, &word, &params};
  CHECK(uniform.row_bits == nullptr);
  CHECK(uniform.row_offsets == nullptr);
}

TEST_CASE("PackedBuffer: its bytes are words and params") {
  support::for_each_config([](const support::Config& config) {
    const Layout layout{2, config.size, config.group_size, config.bits};
    PackedBuffer buffer(layout);
    const reference::Shape shape = support::shape_of(layout);
    const std::size_t groups = reference::groups_of(shape).size();
    CHECK(buffer.size_bytes() ==
          4 * static_cast<std::size_t>(reference::count_words(shape)) + 4 * groups);
    CHECK(buffer.layout().row_size == config.size);
    CHECK(buffer.view().row_bits == nullptr);
    CHECK(buffer.view().row_offsets == nullptr);
    CHECK(buffer.view().layout.bits == config.bits);
    CHECK(std::as_const(buffer).view().words == buffer.view().words);
    CHECK(std::as_const(buffer).view().params == buffer.view().params);
  });
}

TEST_CASE("PackedBuffer: with row widths the words they need, the widths, and offsets") {
  const std::vector<std::uint8_t> row_bits{1, 8, 2, 4, 2};
  const Layout layout{5, 100, 64, 8, 37};
  PackedBuffer buffer(layout, row_bits);
  const reference::Shape shape = support::shape_of(layout, row_bits);
  const auto words = static_cast<std::size_t>(reference::count_words(shape));
  CHECK(buffer.size_bytes() == 4 * words + 4 * reference::groups_of(shape).size() + 5 + 8 * 6);
  const PackedView view = buffer.view();
  REQUIRE(view.row_bits != nullptr);
  REQUIRE(view.row_offsets != nullptr);
  const std::vector<std::int64_t> expected{0, 4, 29, 36, 49, 52};
  for (std::size_t row = 0; row <= 5; ++row) CHECK(view.row_offsets[row] == expected[row]);
  for (std::size_t row = 0; row < 5; ++row) CHECK(view.row_bits[row] == row_bits[row]);
  CHECK(words == 52);
}

TEST_CASE("PackedBuffer: the widest row decides on the layout's bits, whatever they were") {
  for (const int bits : {1, 2, 8}) {
    CAPTURE(bits);
    const Layout layout{.rows = 3, .row_size = 100, .bits = bits};
    CHECK(PackedBuffer(layout, std::vector<std::uint8_t>{1, 4, 2}).layout().bits == 4);
    CHECK(PackedBuffer(layout, std::vector<std::uint8_t>{1, 1, 1}).layout().bits == 1);
  }
}

TEST_CASE("PackedBuffer: every word and parameter of its view can be written") {
  const Layout layout{3, 77, 32, 4};
  PackedBuffer buffer(layout);
  const PackedView view = buffer.view();
  for (std::int64_t word = 0; word < layout.num_words(); ++word) view.words[word] = 0xFFFFFFFF;
  for (std::int64_t group = 0; group < layout.num_groups(); ++group) view.params[group] = {};
  CHECK(buffer.view().words[layout.num_words() - 1] == 0xFFFFFFFF);
}

TEST_CASE("PackedBuffer: moving keeps the memory and its contents") {
  PackedBuffer buffer(Layout{2, 50, 32, 2}, std::vector<std::uint8_t>{1, 2});
  buffer.view().words[0] = 0x12345678;
  const std::size_t bytes = buffer.size_bytes();
  PackedBuffer moved(std::move(buffer));
  CHECK(moved.view().words[0] == 0x12345678);
  CHECK(moved.view().row_offsets[1] == 2);
  CHECK(moved.view().row_bits[1] == 2);
  CHECK(moved.size_bytes() == bytes);
  PackedBuffer assigned(Layout{1, 1, 32, 8});
  assigned = std::move(moved);
  CHECK(assigned.view().words[0] == 0x12345678);
  CHECK(assigned.view().row_offsets[2] == 2 + 4);
  CHECK(assigned.layout().row_size == 50);
}

TEST_CASE("PackedBuffer: a wrong layout is an invalid_argument, never bad_alloc") {
  const std::int64_t large = std::int64_t{1} << 40;
  support::check_refused([] { PackedBuffer buffer(Layout{1, 10, 100, 2}); }, {"group_size", "100"});
  support::check_refused([] { PackedBuffer buffer(Layout{1, 10, 0, 2}); }, {"group_size", "0"});
  support::check_refused([] { PackedBuffer buffer(Layout{1, 10, 256, 3}); }, {"bits", "3"});
  support::check_refused([] { PackedBuffer buffer(Layout{-1, 10, 256, 2}); }, {"rows", "-1"});
  support::check_refused([] { PackedBuffer buffer(Layout{1, -10, 256, 2}); }, {"row_size", "-10"});
  support::check_refused(
      [] {
        PackedBuffer buffer(Layout{2, 10, 256, 2, 11});
      },
      {"last_row_size", "11"});
  support::check_refused(
      [&] {
        PackedBuffer buffer(Layout{large, large, 256, 2});
      },
      {"rows", "row_size"});
  const std::vector<std::uint8_t> widths{1, 2, 8};
  support::check_refused(
      [&] {
        PackedBuffer buffer(Layout{2, 10, 32, 8}, widths);
      },
      {"row_bits", "3", "2"});
  const std::vector<std::uint8_t> odd_width{1, 3, 8};
  support::check_refused(
      [&] {
        PackedBuffer buffer(Layout{3, 10, 32, 8}, odd_width);
      },
      {"row_bits", "3"});
}

TEST_CASE("PackedBuffer: empty tensors are tensors") {
  PackedBuffer none(Layout{0, 100, 256, 2});
  CHECK(none.size_bytes() == 0);
  PackedBuffer empty_rows(Layout{4, 0, 256, 2});
  CHECK(empty_rows.size_bytes() == 0);
  PackedBuffer no_widths(Layout{0, 100, 256, 2}, std::vector<std::uint8_t>{});
  CHECK(no_widths.size_bytes() == 8);  // an offset
}
