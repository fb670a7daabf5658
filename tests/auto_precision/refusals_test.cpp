// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// AutoPrecision refuses wrong arguments: options, tensors, numbers and sizes; and that it changes
// nothing then.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/compare.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace support::auto_precision;
using support::GuardedBuffer;

}  // namespace

TEST_CASE("AutoPrecision: options that make no sense are refused") {
  struct Refusal {
    AutoPrecisionOptions options;
    std::vector<std::string> words;
  };
  const std::vector<Refusal> refusals{
      {{.min_bits = 0}, {"min_bits", "0"}},
      {{.min_bits = -1}, {"min_bits", "-1"}},
      {{.min_bits = 3}, {"min_bits", "3"}},
      {{.min_bits = 16}, {"min_bits", "16"}},
      {{.max_bits = 0}, {"max_bits", "0"}},
      {{.max_bits = 7}, {"max_bits", "7"}},
      {{.max_bits = 16}, {"max_bits", "16"}},
      {{.average_bits = 4, .min_bits = 4, .max_bits = 2}, {"min_bits", "4", "max_bits", "2"}},
      {{.byte_budget = -1}, {"byte_budget", "-1"}},
      {{.average_bits = 0.5}, {"average_bits", "0.5"}},
      {{.average_bits = 0.9999999999}, {"average_bits", "0.9999999999"}},
      {{.average_bits = -2}, {"average_bits", "-2"}},
      {{.average_bits = 8.5}, {"average_bits", "8.5"}},
      {{.average_bits = infinity}, {"average_bits", "inf"}},
      {{.average_bits = not_a_number}, {"average_bits", "nan"}},
      {{.average_bits = 3, .min_bits = 4}, {"average_bits", "3", "min_bits", "4"}},
      {{.decay = -0.5}, {"decay", "-0.5"}},
      {{.decay = 1}, {"decay", "1"}},
      {{.decay = infinity}, {"decay", "inf"}},
      {{.decay = not_a_number}, {"decay", "nan"}},
      {{.solve_interval = 0}, {"solve_interval", "0"}},
      {{.solve_interval = -3}, {"solve_interval", "-3"}},
  };
  for (const Refusal& refusal : refusals) {
    support::check_refused([&] { AutoPrecision precision(refusal.options); }, refusal.words);
  }
}

TEST_CASE("AutoPrecision: the ends of what options may be are accepted") {
  for (const int bits : {1, 2, 4, 8}) {
    const AutoPrecision precision({.average_bits = static_cast<double>(bits),
                                   .min_bits = bits,
                                   .max_bits = bits,
                                   .decay = 0,
                                   .solve_interval = 1});
    CHECK(precision.num_tensors() == 0);
  }
  AutoPrecision precision;
  CHECK(precision.step());  // a model without tensors has nothing to decide
  CHECK_FALSE(precision.step());
}

TEST_CASE("AutoPrecision: average_bits plays no part beside a byte budget") {
  CHECK_NOTHROW(AutoPrecision({.byte_budget = 1000, .min_bits = 4}));
}

TEST_CASE("AutoPrecision: tensors that are empty, wrong or late are refused") {
  AutoPrecision precision = make({}, {spec(3, 40)});
  observe_all(precision, 0, 2, 3);
  const std::vector<std::byte> before = precision.save();
  const auto check = [&](const Layout& layout, const std::vector<std::string>& words) {
    support::check_refused([&] { precision.add_tensor(layout); }, words);
    CHECK(precision.num_tensors() == 1);
    CHECK(precision.save() == before);
  };
  check({.rows = 0, .row_size = 3}, {"layout"});
  check({.rows = 3, .row_size = 0}, {"layout"});
  check({}, {"layout"});
  check({.rows = 2, .row_size = 3, .group_size = 33}, {"layout.group_size", "33"});
  check({.rows = 2, .row_size = 3, .bits = 3}, {"layout.bits", "3"});
  check({.rows = -2, .row_size = 3}, {"layout.rows", "-2"});
  check({.rows = 2, .row_size = 3, .last_row_size = 4}, {"layout.last_row_size", "4"});
  precision.step();
  support::check_refused([&] { precision.add_tensor({.rows = 2, .row_size = 3}); }, {"1"});
  precision.step();
  support::check_refused([&] { precision.add_tensor({.rows = 2, .row_size = 3}); }, {"2"});
  CHECK(precision.num_tensors() == 1);
}

TEST_CASE("AutoPrecision: tensors are numbered from 0 and their layout's bits play no part") {
  for (const int bits : {1, 2, 4, 8}) {
    AutoPrecision precision;
    CHECK(precision.add_tensor({.rows = 3, .row_size = 5, .bits = bits}) == 0);
    CHECK(precision.add_tensor({.rows = 2, .row_size = 5, .bits = bits}, PrecisionPer::tensor) ==
          1);
    CHECK(precision.num_tensors() == 2);
    CHECK(widths_of(precision) == Widths{{2, 2, 2}, {2, 2}});
  }
}

TEST_CASE("AutoPrecision: wrong numbers, sizes and signs are refused and change nothing") {
  AutoPrecision precision = make({}, {spec(3, 40), spec(2, 40, PrecisionPer::tensor)});
  // Measured, or a refused table would count as the first.
  precision.observe_noise(0, std::vector<Table>(3, {8, 4, 2, 1}));
  precision.observe_noise(1, std::vector<Table>(2, {8, 4, 2, 1}));
  precision.observe_gains(0, std::vector<double>{1, 2, 3});
  const std::vector<std::byte> before = precision.save();
  const Widths widths = widths_of(precision);
  GuardedBuffer<std::uint8_t> bits(std::size_t{3});
  const auto check = [&](const auto& call, const std::vector<std::string>& words) {
    support::check_refused(call, words);
    CHECK(precision.save() == before);
    CHECK(widths_of(precision) == widths);
    CHECK(bits.is_untouched());
  };

  const std::vector<double> numbers{1, 2, 3};
  const std::vector<Table> tables(3, {4, 3, 2, 1});
  for (const std::size_t tensor : {std::size_t{2}, std::size_t{7}}) {
    const std::vector<std::string> words{"tensor", std::to_string(tensor), "2"};
    check([&] { (void)precision.row_bits(tensor); }, words);
    check([&] { precision.observe_ranges(tensor, numbers); }, words);
    check([&] { precision.observe_noise(tensor, tables); }, words);
    check([&] { precision.observe_gains(tensor, numbers); }, words);
    check([&] { precision.observe_perturbation(tensor, 1); }, words);
    check([&] { precision.allocate_rows(tensor, numbers, bits.span()); }, words);
    check([&] { precision.allocate_rows(tensor, tables, bits.span()); }, words);
  }
  for (const std::size_t size : {0U, 2U, 4U}) {
    const std::vector<double> values(size, 1.0);
    const std::vector<Table> noise(size, Table{4, 3, 2, 1});
    const std::string number = std::to_string(size);
    check([&] { precision.observe_ranges(0, values); },
          {"squared_range_norms.size()", number, "3"});
    check([&] { precision.observe_noise(0, noise); }, {"noise.size()", number, "3"});
    check([&] { precision.observe_gains(0, values); }, {"gains.size()", number, "3"});
    check([&] { precision.allocate_rows(0, values, bits.span()); },
          {"squared_range_norms.size()", number, "3"});
    check([&] { precision.allocate_rows(0, noise, bits.span()); }, {"noise.size()", number, "3"});
    GuardedBuffer<std::uint8_t> other(size);
    check([&] { precision.allocate_rows(0, numbers, other.span()); }, {"bits.size()", number, "3"});
    check([&] { precision.allocate_rows(0, tables, other.span()); }, {"bits.size()", number, "3"});
    CHECK(other.is_untouched());
    // A tensor with one width has rows all the same.
    if (size == 2) continue;
    check([&] { precision.observe_ranges(1, values); },
          {"squared_range_norms.size()", number, "2"});
    check([&] { precision.observe_noise(1, noise); }, {"noise.size()", number, "2"});
    check([&] { precision.observe_gains(1, values); }, {"gains.size()", number, "2"});
  }
  for (const double negative : {-1.0, -infinity}) {
    for (std::size_t row = 0; row < 3; ++row) {
      std::vector<double> values = numbers;
      values[row] = negative;
      const std::string name = std::to_string(row);
      check([&] { precision.observe_ranges(0, values); }, {name});
      check([&] { precision.observe_gains(0, values); }, {"gains[" + name + "]"});
      check([&] { precision.allocate_rows(0, values, bits.span()); }, {name});
      for (std::size_t width = 0; width < 4; ++width) {
        std::vector<Table> noise = tables;
        noise[row][width] = negative;
        check([&] { precision.observe_noise(0, noise); }, {"noise", name});
        check([&] { precision.allocate_rows(0, noise, bits.span()); }, {"noise", name});
      }
    }
    check([&] { precision.observe_ranges(1, std::vector<double>{1, negative}); }, {"1"});
    check([&] { precision.observe_gains(1, std::vector<double>{1, negative}); }, {"gains[1]"});
    check([&] { precision.observe_perturbation(0, negative); }, {"squared_difference"});
  }
  check([&] { precision.observe_gains(0, std::vector<double>{1, 2, -4}); }, {"-4"});
  check([&] { precision.observe_perturbation(0, -4); }, {"-4"});
  // One width for all rows: none to distribute.
  GuardedBuffer<std::uint8_t> pair(std::size_t{2});
  check(
      [&] {
        precision.allocate_rows(1, std::vector<double>{1, 2}, pair.span());
      },
      {"tensor", "1"});
  CHECK(pair.is_untouched());
}

TEST_CASE("AutoPrecision: a refused table of noise does not count as measured") {
  AutoPrecision precision = make({}, {spec(1, 40)});
  const std::vector<std::byte> before = precision.save();
  support::check_refused(
      [&] {
        precision.observe_noise(0, std::vector<Table>{{1, 1, -1, 1}});
      },
      {"noise"});
  CHECK(precision.save() == before);
}

TEST_CASE("AutoPrecision: a tensor that the byte budget has no room for is not added") {
  AutoPrecision precision = make({.byte_budget = 100}, {spec(3, 40)});
  const std::vector<std::byte> before = precision.save();
  support::check_refused([&] { precision.add_tensor({.rows = 3, .row_size = 1000}); },
                         {"byte_budget", "100"});
  CHECK(precision.num_tensors() == 1);
  CHECK(precision.save() == before);
}

TEST_CASE("AutoPrecision: tensors whose elements together overflow a count are refused") {
  const Layout largest{.rows = 1, .row_size = Layout::max_numel};
  for (const AutoPrecisionOptions& options :
       {AutoPrecisionOptions{.average_bits = 8},
        AutoPrecisionOptions{.average_bits = 1, .solve_interval = 1},
        AutoPrecisionOptions{.byte_budget = std::numeric_limits<std::int64_t>::max()}}) {
    AutoPrecision precision(options);
    for (std::size_t tensor = 0; tensor < 4; ++tensor) {
      CHECK(precision.add_tensor(largest, PrecisionPer::tensor) == tensor);
    }
    const std::vector<std::byte> before = precision.save();
    for (const Layout& more : {largest, Layout{.row_size = 1}}) {
      support::check_refused([&] { precision.add_tensor(more); },
                             {"layout.numel()", std::to_string(more.numel()), "1125899906842624"});
      CHECK(precision.num_tensors() == 4);
      CHECK(precision.save() == before);
    }
    for (std::size_t tensor = 0; tensor < 4; ++tensor) observe_all(precision, tensor, 1, 1);
    CHECK(precision.step());
    CHECK(are_widths(widths_of(precision), 1, 8));
  }
}

TEST_CASE("AutoPrecision: even widths keep to the budget up to the largest sums of elements") {
  // Averages next to a width, where a quotient of two doubles is as good as rounds to it.
  const std::int64_t total = std::int64_t{1} << 50;
  for (const int bits : {1, 2, 4, 8}) {
    for (const std::int64_t small : {std::int64_t{1}, std::int64_t{3}, std::int64_t{1} << 20}) {
      CAPTURE(bits);
      CAPTURE(small);
      AutoPrecision precision({.average_bits = bits == 1 ? 1 : std::nextafter(bits, 0)});
      std::int64_t left = total;
      std::vector<std::int64_t> sizes;
      for (const std::int64_t size : {small, Layout::max_numel - 5, Layout::max_numel,
                                      Layout::max_numel, Layout::max_numel - small}) {
        precision.add_tensor({.rows = 1, .row_size = size}, PrecisionPer::tensor);
        sizes.push_back(size);
        left -= size;
      }
      REQUIRE(left == 5);
      observe_all(precision, 0, 1, 1);
      CHECK_NOTHROW(precision.step());
      std::int64_t used = 0;
      for (std::size_t t = 0; t < sizes.size(); ++t) used += sizes[t] * precision.row_bits(t)[0];
      CHECK(used <= bits * (total - 5) - (bits > 1 ? 1 : 0));
    }
  }
}

TEST_CASE("AutoPrecision: more widths than bit allocation takes are refused") {
  AutoPrecision precision = make({}, {spec(3, 40)});
  const std::vector<std::byte> before = precision.save();
  support::check_refused(
      [&] { precision.add_tensor({.rows = (std::int64_t{1} << 32) - 3, .row_size = 1}); },
      {"4294967293", "3"});
  CHECK(precision.save() == before);
}

TEST_CASE("AutoPrecision: a step whose all_reduce throws can be made again") {
  bool is_down = true;
  AutoPrecisionOptions options;
  options.all_reduce = [&](std::span<double>) {
    if (is_down) throw std::runtime_error("connection lost");
  };
  AutoPrecision precision = make(options, {spec(3, 40)});
  observe_all(precision, 0, 1, 1);
  CHECK_THROWS_AS(precision.step(), std::runtime_error);
  is_down = false;
  CHECK(precision.step());
}
