// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks how AutoPrecision::allocate_rows spends a tensor's bits on the rows of one step.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "support/allocation_reference.hpp"
#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace support::auto_precision;
using support::Generator;
using support::GuardedBuffer;

}  // namespace

TEST_CASE("AutoPrecision: allocate_rows distributes the tensor's bits by what rows are now") {
  Generator generator(6);
  for (const bool is_measured : {false, true}) {
    for (const double average : {1.0, 1.5, 2.0, 3.0}) {
      for (const bool has_limits : {false, true}) {
        CAPTURE(is_measured);
        CAPTURE(average);
        CAPTURE(has_limits);
        const std::vector<TensorSpec> tensors{spec(20, 64, PrecisionPer::row, 31),
                                              spec(20, 64, PrecisionPer::tensor)};
        AutoPrecisionOptions options{.average_bits = average, .solve_interval = 1};
        if (has_limits) options.max_bits = 4;
        AutoPrecision precision = make(options, tensors);
        std::vector<double> gains(20, 1.0);  // until they are known, all alike
        for (int step = 0; step < 4; ++step) {
          const Observation now = random_observation(tensors[0], is_measured, generator);
          // What decides how tables are taken; see below.
          if (is_measured) precision.observe_noise(0, now.noise);
          const std::vector<std::byte> before = precision.save();
          GuardedBuffer<std::uint8_t> bits(std::size_t{20});
          reference::AllocationInstance problem;
          for (std::size_t row = 0; row < 20; ++row) {
            const Table noise =
                is_measured ? now.noise[row] : closed_form(tensors[0], now.ranges[row]);
            problem.variance.push_back({gains[row] * noise[0], gains[row] * noise[1],
                                        gains[row] * noise[2], gains[row] * noise[3]});
            problem.sensitivity.push_back(problem.variance.back()[0]);
            problem.numel.push_back(tensors[0].size_of_row(row));
          }
          problem.max_bits.assign(20, static_cast<std::uint8_t>(options.max_bits));
          problem.bit_budget = bits_used(tensors[0], widths_of(precision, 0));
          std::vector<std::uint8_t> expected;
          if (is_measured) {
            precision.allocate_rows(0, now.noise, bits.span());
            expected =
                actpack::allocate_measured_bits(
                    {problem.variance, problem.numel, problem.bit_budget, {}, problem.max_bits})
                    .bits;
          } else {
            precision.allocate_rows(0, now.ranges, bits.span());
            expected =
                actpack::allocate_bits(
                    {problem.sensitivity, problem.numel, problem.bit_budget, {}, problem.max_bits})
                    .bits;
          }
          CHECK(bits.values() == expected);
          CHECK(bits_used(tensors[0], bits.values()) <= problem.bit_budget);
          CHECK(precision.save() == before);  // it observes nothing

          const Observation seen = random_observation(tensors[0], is_measured, generator);
          observe(precision, 0, seen);
          observe(precision, 1, random_observation(tensors[1], is_measured, generator));
          precision.step();
          for (std::size_t row = 0; row < 20; ++row) {
            gains[row] = step == 0 ? seen.gains[row] : 0.5 * gains[row] + 0.5 * seen.gains[row];
          }
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: allocate_rows takes the mean gain for rows that have none") {
  AutoPrecision precision = make({.average_bits = 1.75, .max_bits = 2}, {spec(4, 64)});
  precision.observe_ranges(0, std::vector<double>(4, 1.0));
  precision.observe_gains(0, std::vector<double>{2, not_a_number, 6, 10});  // a mean of 6
  precision.step();
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    std::vector<std::uint8_t> bits(4);
    // 3 of 4 rows can have two bits: row 0 or row 1 goes without.
    precision.allocate_rows(0, std::vector<double>{30, 10 * side, 100, 100}, bits);
    CHECK(bits == (side < 1 ? std::vector<std::uint8_t>{2, 1, 2, 2}
                            : std::vector<std::uint8_t>{1, 2, 2, 2}));
  }
}

TEST_CASE("AutoPrecision: allocate_rows gives rows that are not finite the narrowest width") {
  for (const int min_bits : {1, 2}) {
    for (const double bad : not_usable) {
      CAPTURE(min_bits);
      CAPTURE(bad);
      AutoPrecision precision = make({.average_bits = 3, .min_bits = min_bits}, {spec(5, 64)});
      observe_all(precision, 0, 1, 1);
      precision.step();
      const std::int64_t whole = bits_used(spec(5, 64), widths_of(precision, 0));
      std::vector<std::uint8_t> bits(5);
      precision.allocate_rows(0, std::vector<double>{bad, 2, bad, 4, 5}, bits);
      CHECK(bits[0] == min_bits);
      CHECK(bits[2] == min_bits);
      CHECK(bits[4] > min_bits);
      CHECK(bits_used(spec(5, 64), bits) <= whole);
      const Table table{4, 3, 2, 1};
      precision.allocate_rows(0, std::vector<Table>{table, {4, 3, bad, 1}, table, table, table},
                              bits);
      CHECK(bits[1] == min_bits);
      CHECK(bits_used(spec(5, 64), bits) <= whole);
    }
  }
}

TEST_CASE("AutoPrecision: allocate_rows gives the narrowest width where no row is finite") {
  const AutoPrecision precision = make({}, {spec(5, 64)});
  std::vector<std::uint8_t> bits(5);
  precision.allocate_rows(0, std::vector<double>(5, not_a_number), bits);
  CHECK(bits == std::vector<std::uint8_t>(5, 1));
  precision.allocate_rows(0, std::vector<double>{0, not_a_number, 0, 0, infinity}, bits);
  CHECK(bits[1] == 1);
  CHECK(bits[4] == 1);
}

TEST_CASE("AutoPrecision: allocate_rows goes by measured tables whatever was observed") {
  AutoPrecision precision = make({.average_bits = 1.5, .max_bits = 2}, {spec(2, 64)});
  std::vector<std::uint8_t> bits(2);
  // A second bit takes 1 of the first row and 8 of the other.
  const std::vector<Table> tables{{10, 9, 5, 1}, {9, 1, 0.5, 0.1}};
  precision.allocate_rows(0, tables, bits);
  CHECK(bits == std::vector<std::uint8_t>{1, 2});
  observe_all(precision, 0, 1, 1);
  precision.step();
  precision.allocate_rows(0, tables, bits);
  CHECK(bits == std::vector<std::uint8_t>{1, 2});
}
