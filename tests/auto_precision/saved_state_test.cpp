// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Training goes on from AutoPrecision's saved state; damaged states are refused; copies and
// neighbours are independent.
#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/compare.hpp"

namespace {

using namespace support::auto_precision;

std::uint64_t word(const std::vector<std::byte>& bytes, std::size_t index) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[8 * index + i]);
  }
  return value;
}

void set_word(std::vector<std::byte>& bytes, std::size_t index, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) bytes[8 * index + i] = static_cast<std::byte>(value >> 8 * i);
}

// Two rows of 40 after a solution, and observations since.
AutoPrecision small_controller() {
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  precision.observe_noise(0, std::vector<Table>{{8, 4, 2, 1}, {16, 8, 4, 2}});
  precision.observe_gains(0, std::vector<double>{3, not_a_number});
  precision.step();
  precision.observe_noise(0, std::vector<Table>{{1, 0.5, 0.25, 0}, {5, 4, 3, 2}});
  precision.observe_gains(0, std::vector<double>{not_a_number, 7});
  precision.observe_gains(0, std::vector<double>{not_a_number, 9});
  return precision;
}

}  // namespace

TEST_CASE("AutoPrecision: training goes on from a checkpoint as if it had not stopped") {
  for (const std::uint64_t every : {1U, 3U, 7U, 40U}) {
    CAPTURE(every);
    const AutoPrecisionOptions options{.average_bits = 2.25, .decay = 0.75, .solve_interval = 4};
    AutoPrecision whole = make(options, mixed_tensors());
    AutoPrecision resumed = make(options, mixed_tensors());
    for (std::uint64_t step = 0; step < 200; ++step) {
      CAPTURE(step);
      observe_anything(whole, mixed_tensors(), 1000 + step);
      // In the middle of a step, or at its end.
      if (step % every == 0 && step % 2 == 0) {
        AutoPrecision next = make(options, mixed_tensors());
        next.restore(resumed.save());
        // Nothing but the restored state matters.
        CHECK(next.save() == resumed.save());
        CHECK(widths_of(next) == widths_of(resumed));
        resumed = std::move(next);
      }
      observe_anything(resumed, mixed_tensors(), 1000 + step);
      CHECK(whole.step() == resumed.step());
      if (step % every == 0 && step % 2 == 1) {
        const std::vector<std::byte> state = resumed.save();
        // Into one that has a history of its own, which is forgotten.
        AutoPrecision next = make(options, mixed_tensors());
        observe_anything(next, mixed_tensors(), 5000);
        next.step();
        observe_anything(next, mixed_tensors(), 6000);
        next.restore(state);
        resumed = std::move(next);
      }
      REQUIRE(widths_of(whole) == widths_of(resumed));
      REQUIRE(whole.save() == resumed.save());
    }
  }
}

TEST_CASE("AutoPrecision: the bytes of a small state are these") {
  const std::vector<std::byte> state = small_controller().save();
  const auto number = [](double value) { return std::bit_cast<std::uint64_t>(value); };
  const std::vector<std::uint64_t> expected{
      0x636572706b636170, 1, 1, 1, 1,  // magic, version, steps, measured, tensors
      2, 40, 32, 8, 0,                 // rows, row size, group size, last row size, per row
      // Averages: noise by width, gain, which of the two are known.
      number(8), number(4), number(2), number(1), number(3), 3,   //
      number(16), number(8), number(4), number(2), number(0), 1,  //
      // Sums since then: noise by width and how many, gains and how many.
      number(1), number(0.5), number(0.25), number(0), number(1), number(0), number(0),  //
      number(5), number(4), number(3), number(2), number(1), number(16), number(2),      //
      number(2),                          // how many rows were measured
      word(state, 37), word(state, 38)};  // widths
  REQUIRE(state.size() == 8 * expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(word(state, i) == expected[i]);
  }
  const AutoPrecision precision = small_controller();
  CHECK(word(state, 37) == precision.row_bits(0)[0]);
  CHECK(word(state, 38) == precision.row_bits(0)[1]);
  CHECK(precision.save() == state);
}

TEST_CASE("AutoPrecision: states of another kind, version, size or shape are refused") {
  const std::vector<std::byte> state = small_controller().save();
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  observe_anything(precision, {spec(2, 40, PrecisionPer::row, 8)}, 1000);
  const std::vector<std::byte> before = precision.save();
  const Widths widths = widths_of(precision);
  const auto check = [&](AutoPrecision& target, const std::vector<std::byte>& bytes,
                         const std::vector<std::string>& words) {
    const std::vector<std::byte> own = target.save();
    support::check_refused([&] { target.restore(bytes); }, words);
    CHECK(target.save() == own);
  };

  for (std::size_t size = 0; size < state.size(); ++size) {
    const std::vector<std::byte> cut(state.begin(),
                                     state.begin() + static_cast<std::ptrdiff_t>(size));
    check(precision, cut, {"state", std::to_string(size)});
  }
  for (const std::size_t surplus : {1U, 7U, 8U, 800U}) {
    std::vector<std::byte> longer = state;
    longer.resize(state.size() + surplus);
    check(precision, longer,
          {"state", std::to_string(state.size() + surplus), std::to_string(state.size())});
  }
  std::vector<std::byte> other = state;
  for (std::size_t byte = 0; byte < 8; ++byte) {
    other[byte] ^= std::byte{1};
    check(precision, other, {"state"});
    other = state;
  }
  for (const std::uint64_t version : {0U, 2U, 257U}) {
    set_word(other, 1, version);
    check(precision, other, {"version", std::to_string(version), "1"});
  }
  for (const std::uint64_t width : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{16},
                                    std::uint64_t{257}, (std::uint64_t{1} << 32) + 2}) {
    other = state;
    set_word(other, 37, width);
    check(precision, other, {"state", std::to_string(width)});
  }

  const std::vector<std::vector<TensorSpec>> shapes{
      {},
      {spec(3, 40, PrecisionPer::row, 8)},
      {spec(2, 41, PrecisionPer::row, 8)},
      {spec(2, 40, PrecisionPer::row, 9)},
      {spec(2, 40)},
      {spec(2, 40, PrecisionPer::row, 8, 64)},
      {spec(2, 40, PrecisionPer::tensor, 8)},
      {spec(2, 40, PrecisionPer::row, 8), spec(2, 40, PrecisionPer::row, 8)}};
  for (const std::vector<TensorSpec>& tensors : shapes) {
    AutoPrecision target = make({}, tensors);
    check(target, state, {"state"});
  }
  // Two tensors of the shapes of one are not one of the shapes of both.
  AutoPrecision target = make({}, {spec(1, 40), spec(2, 40)});
  check(target, make({}, {spec(2, 40), spec(1, 40)}).save(), {"state", "0", "2", "1"});

  CHECK(precision.save() == before);
  CHECK(widths_of(precision) == widths);
  precision.restore(state);  // which was good all along
  CHECK(precision.save() == state);
}

TEST_CASE("AutoPrecision: damaged states are refused") {
  const std::vector<std::byte> state = small_controller().save();
  const auto number = [](double value) { return std::bit_cast<std::uint64_t>(value); };
  const std::vector<std::pair<std::size_t, std::uint64_t>> damages{
      {2, ~std::uint64_t{0}},      // -1 steps
      {3, 2},                      // neither measured nor not
      {10, number(not_a_number)},  // noise
      {10, number(-1)},            //
      {10, number(infinity)},      //
      {14, number(not_a_number)},  // gain
      {14, number(-1)},            //
      {15, 4},                     // flags
      {22, number(not_a_number)},  // sums
      {22, number(-1)},            //
      {26, number(not_a_number)},  // how many
      {26, number(-1)},            //
  };
  for (const auto& damage : damages) {
    const std::size_t index = damage.first;
    const std::uint64_t value = damage.second;
    CAPTURE(index);
    CAPTURE(value);
    std::vector<std::byte> damaged = state;
    set_word(damaged, index, value);
    AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
    const std::vector<std::byte> before = precision.save();
    support::check_refused([&] { precision.restore(damaged); }, {"state"});
    CHECK(precision.save() == before);
  }
}

TEST_CASE("AutoPrecision: controllers side by side do not influence each other") {
  const std::vector<AutoPrecisionOptions> options{
      {.average_bits = 2, .solve_interval = 1},
      {.average_bits = 3, .min_bits = 2, .decay = 0.9, .solve_interval = 3},
      {.byte_budget = 2000, .max_bits = 4, .solve_interval = 2},
      {.average_bits = 2, .solve_interval = 1},
  };
  std::vector<std::vector<Widths>> alone(options.size());
  for (std::size_t i = 0; i < options.size(); ++i) {
    AutoPrecision precision = make(options[i], mixed_tensors());
    for (std::uint64_t step = 0; step < 30; ++step) {
      observe_anything(precision, mixed_tensors(), 1000 * (i + 1) + step);
      precision.step();
      alone[i].push_back(widths_of(precision));
    }
  }
  std::vector<AutoPrecision> together;
  for (const AutoPrecisionOptions& o : options) together.push_back(make(o, mixed_tensors()));
  for (std::uint64_t step = 0; step < 30; ++step) {
    for (std::size_t i = 0; i < together.size(); ++i) {
      observe_anything(together[i], mixed_tensors(), 1000 * (i + 1) + step);
    }
    for (std::size_t i = together.size(); i-- > 0;) together[i].step();
    for (std::size_t i = 0; i < together.size(); ++i) {
      CHECK(widths_of(together[i]) == alone[i][step]);
    }
  }
  CHECK(alone[0] != alone[3]);  // options alike, observations not
}

TEST_CASE("AutoPrecision: a copy goes its own way") {
  AutoPrecision original = make({.solve_interval = 1}, mixed_tensors());
  observe_anything(original, mixed_tensors(), 1000);
  original.step();
  AutoPrecision copy = original;
  const std::vector<std::byte> before = original.save();
  observe_anything(copy, mixed_tensors(), 1011);
  copy.step();
  CHECK(original.save() == before);
  observe_anything(original, mixed_tensors(), 1011);
  original.step();
  CHECK(original.save() == copy.save());
}
