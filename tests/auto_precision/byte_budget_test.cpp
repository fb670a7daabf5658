// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks AutoPrecision's byte budgets against the bytes of real buffers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <actpack/packed.hpp>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"

namespace {

using namespace support::auto_precision;
using actpack::PackedBuffer;
using support::Generator;

// The bytes of real buffers but for row offsets, with a width per row, or one width and a byte for
// it.
std::int64_t stored_bytes(const std::vector<TensorSpec>& tensors, const Widths& widths) {
  std::size_t sum = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    sum += tensors[t].per == PrecisionPer::row
               ? PackedBuffer(tensors[t].layout, widths[t]).size_bytes() - 8 * widths[t].size() - 8
               : PackedBuffer(tensors[t].layout.with_bits(widths[t][0])).size_bytes() + 1;
  }
  return static_cast<std::int64_t>(sum);
}

Widths same_widths(const std::vector<TensorSpec>& tensors, int bits) {
  Widths widths;
  for (const TensorSpec& tensor : tensors) {
    widths.emplace_back(tensor.rows(), static_cast<std::uint8_t>(bits));
  }
  return widths;
}

// The last number of the message, 0 if nothing was refused.
std::int64_t bytes_demanded(const AutoPrecisionOptions& options,
                            const std::vector<TensorSpec>& tensors) {
  try {
    make(options, tensors);
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    CHECK(support::holds_word(message, "byte_budget"));
    CHECK(support::holds_word(message, std::to_string(options.byte_budget)));
    return std::stoll(message.substr(message.find_last_of(' ') + 1));
  }
  return 0;
}

std::int64_t least_byte_budget(const std::vector<TensorSpec>& tensors, int min_bits) {
  AutoPrecisionOptions options{.average_bits = 8, .byte_budget = 1, .min_bits = min_bits};
  while (const std::int64_t bytes = bytes_demanded(options, tensors)) {
    REQUIRE(bytes > options.byte_budget);
    options.byte_budget = bytes;
  }
  return options.byte_budget;
}

}  // namespace

TEST_CASE("AutoPrecision: real buffers keep to the byte budget") {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    Generator generator(seed);
    const std::vector<TensorSpec> tensors = random_tensors(generator);
    const std::int64_t most = stored_bytes(tensors, same_widths(tensors, 8));
    std::int64_t rows = 0;
    std::int64_t longest = 0;  // item
    for (const TensorSpec& t : tensors) {
      rows += t.layout.rows;
      longest =
          std::max(longest, t.per == PrecisionPer::row ? t.layout.row_size : t.layout.numel());
    }
    const std::int64_t least = least_byte_budget(tensors, 1);
    std::int64_t budget = least;
    if (generator.below(8) != 0) {
      const double share = 1.1 * generator.uniform();
      budget += std::max<std::int64_t>(0, std::llround(share * static_cast<double>(most - least)));
    }
    AutoPrecision precision = make({.byte_budget = budget, .solve_interval = 1}, tensors);
    CHECK(stored_bytes(tensors, widths_of(precision)) <= budget);
    for (int step = 1; step <= 2; ++step) {
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        // In the first step, some tensors stay unknown.
        if (step == 1 && generator.below(3) == 0) continue;
        observe(precision, t, random_observation(tensors[t], seed % 2 == 0, generator));
      }
      precision.step();
      CHECK(stored_bytes(tensors, widths_of(precision)) <= budget);
    }
    // The budget is also used up: unless all have 8 bits, less is left than the padding of every
    // row to words and the longest item's step from 4 bits to 8.
    const std::int64_t used = stored_bytes(tensors, widths_of(precision));
    CHECK((widths_of(precision) == same_widths(tensors, 8) ||
           used > budget - 4 * rows - (longest + 1) / 2 - 1));
  }
}

TEST_CASE("AutoPrecision: padding of short rows to words comes off the byte budget") {
  // Rows of one value take a word at any width: 4 bytes, as much for the group, and a width's.
  const std::vector<TensorSpec> tensors{spec(1000, 1)};
  AutoPrecision precision = make({.byte_budget = 9 * 1000}, tensors);
  observe_all(precision, 0, 1, 1);
  precision.step();
  CHECK(stored_bytes(tensors, widths_of(precision)) <= 9 * 1000);
  // A tensor of whole words and groups wastes nothing: 2 bits, parameters, a byte for widths.
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8 + 1)}, {spec(64, 64)})) ==
        same_widths({spec(64, 64)}, 2));
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8) + 1}, {spec(64, 64, PrecisionPer::tensor)})) ==
        same_widths({spec(64, 64)}, 2));
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8)}, {spec(64, 64, PrecisionPer::tensor)})) ==
        same_widths({spec(64, 64)}, 1));
}

TEST_CASE("AutoPrecision: too small byte budgets are refused with what is needed") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    for (const int min_bits : {1, 2, 8}) {
      CAPTURE(seed);
      CAPTURE(min_bits);
      Generator generator(seed);
      const std::vector<TensorSpec> tensors = random_tensors(generator);
      const std::int64_t least = least_byte_budget(tensors, min_bits);
      const Widths narrowest = same_widths(tensors, min_bits);
      CHECK(stored_bytes(
                tensors,
                widths_of(make({.average_bits = 8, .byte_budget = least, .min_bits = min_bits},
                               tensors))) <= least);
      CHECK(bytes_demanded({.average_bits = 8, .byte_budget = least - 1, .min_bits = min_bits},
                           tensors) == least);
      CHECK(stored_bytes(tensors, narrowest) <= least);
    }
  }
  AutoPrecision precision({.byte_budget = 1});
  support::check_refused([&] { precision.add_tensor({.rows = 64, .row_size = 32}); },
                         {"byte_budget", "1", "576"});  // 64 · (4 + 4 + 1)
}

TEST_CASE("AutoPrecision: a byte budget beyond all use gives every row the widest width") {
  for (const std::int64_t budget :
       {std::int64_t{1} << 20, std::numeric_limits<std::int64_t>::max()}) {
    AutoPrecision precision = make({.byte_budget = budget}, mixed_tensors());
    CHECK(are_widths(widths_of(precision), 8, 8));
    for (std::size_t t = 0; t < mixed_tensors().size(); ++t) observe_all(precision, t, 1, 1);
    precision.step();
    CHECK(are_widths(widths_of(precision), 8, 8));
  }
}
