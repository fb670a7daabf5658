// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks AutoPrecision's widths: before anything is known, and against a model of its averages that
// solves by itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "support/allocation_reference.hpp"
#include "support/auto_precision/model.hpp"
#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"

namespace {

using namespace support::auto_precision;
using support::Generator;

}  // namespace

// ---- Before anything is known -----------------------------------------------------------------

TEST_CASE("AutoPrecision: cold start gives rows the average, any prefix within its share") {
  const std::vector<TensorSpec> shapes{spec(1, 7),
                                       spec(100, 64),
                                       spec(13, 33),
                                       spec(40, 100, PrecisionPer::row, 1),
                                       spec(9, 100, PrecisionPer::row, 99),
                                       spec(1000, 1)};
  for (const double average : {1.0, 1.25, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5, 8.0}) {
    for (const TensorSpec& tensor : shapes) {
      CAPTURE(average);
      CAPTURE(tensor.layout.rows);
      CAPTURE(tensor.layout.row_size);
      // Beside another, which has a share of its own.
      const AutoPrecision precision = make({.average_bits = average}, {spec(5, 77), tensor});
      const std::vector<std::uint8_t> widths = widths_of(precision, 1);
      const int narrow = 1 << static_cast<int>(std::log2(average));
      const int wide = std::min(2 * narrow, 8);
      bool widths_are_next = true;
      bool is_within_share = true;
      bool uses_share = true;
      std::int64_t used = 0;
      std::int64_t numel = 0;
      for (std::size_t row = 0; row < widths.size(); ++row) {
        const std::int64_t size = tensor.size_of_row(row);
        used += size * widths[row];
        numel += size;
        const double left = average * static_cast<double>(numel) - static_cast<double>(used);
        widths_are_next = widths_are_next && (widths[row] == narrow || widths[row] == wide);
        is_within_share = is_within_share && left >= 0;
        // One bit, as the tensors' budget is a whole number.
        uses_share = uses_share && (size != tensor.layout.row_size || average == narrow ||
                                    left < static_cast<double>((wide - narrow) * size) + 1);
      }
      CHECK(widths_are_next);
      CHECK(is_within_share);
      CHECK(uses_share);
      if (average == narrow) {
        CHECK(widths ==
              std::vector<std::uint8_t>(widths.size(), static_cast<std::uint8_t>(narrow)));
      }
    }
  }
}

TEST_CASE("AutoPrecision: cold start spreads wide rows among narrow ones") {
  const auto widths = [](double average) {
    return widths_of(make({.average_bits = average}, {spec(8, 64)}), 0);
  };
  CHECK(widths(1.25) == std::vector<std::uint8_t>{1, 1, 1, 2, 1, 1, 1, 2});
  CHECK(widths(1.5) == std::vector<std::uint8_t>{1, 2, 1, 2, 1, 2, 1, 2});
  CHECK(widths(2.5) == std::vector<std::uint8_t>{2, 2, 2, 4, 2, 2, 2, 4});
  CHECK(widths(3) == std::vector<std::uint8_t>{2, 4, 2, 4, 2, 4, 2, 4});
  CHECK(widths(6) == std::vector<std::uint8_t>{4, 8, 4, 8, 4, 8, 4, 8});
}

TEST_CASE("AutoPrecision: cold start gives a tensor the widest width within the average") {
  for (const double average : {1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 7.9, 8.0}) {
    CAPTURE(average);
    const std::vector<TensorSpec> tensors{spec(6, 40, PrecisionPer::tensor, 9),
                                          spec(1, 1000, PrecisionPer::tensor),
                                          spec(3, 1, PrecisionPer::tensor)};
    const auto width = static_cast<std::uint8_t>(1U << static_cast<int>(std::log2(average)));
    const Widths expected{
        std::vector<std::uint8_t>(6, width), {width}, std::vector<std::uint8_t>(3, width)};
    CHECK(widths_of(make({.average_bits = average}, tensors)) == expected);
  }
}

TEST_CASE("AutoPrecision: cold start and solutions keep to the narrowest and the widest width") {
  Generator generator(1);
  for (const int min_bits : {1, 2, 4, 8}) {
    for (const int max_bits : {1, 2, 4, 8}) {
      for (const double average : {1.0, 1.5, 2.0, 3.0, 5.0, 8.0}) {
        if (min_bits > max_bits || average < min_bits) continue;
        CAPTURE(min_bits);
        CAPTURE(max_bits);
        CAPTURE(average);
        AutoPrecision precision = make(
            {.average_bits = average, .min_bits = min_bits, .max_bits = max_bits}, mixed_tensors());
        CHECK(are_widths(widths_of(precision), min_bits, max_bits));
        const auto whole =
            static_cast<std::int64_t>(average * static_cast<double>(numel_of(mixed_tensors())));
        CHECK(bits_used(mixed_tensors(), widths_of(precision)) <= whole);
        if (average >= max_bits) {  // nothing else is left
          CHECK(are_widths(widths_of(precision), max_bits, max_bits));
        }
        for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
          observe(precision, t, random_observation(mixed_tensors()[t], false, generator));
        }
        precision.step();
        CHECK(are_widths(widths_of(precision), min_bits, max_bits));
        CHECK(bits_used(mixed_tensors(), widths_of(precision)) <= whole);
        if (average >= max_bits) CHECK(are_widths(widths_of(precision), max_bits, max_bits));
      }
    }
  }
}

// ---- Widths from what was observed ------------------------------------------------------------

TEST_CASE("AutoPrecision: the first step finds the least variance for gain times noise") {
  Generator generator(2);
  for (const bool is_measured : {false, true}) {
    for (const double average : {1.0, 1.5, 2.0, 3.3, 8.0}) {
      CAPTURE(is_measured);
      CAPTURE(average);
      const std::vector<TensorSpec>& tensors = mixed_tensors();
      AutoPrecision precision = make({.average_bits = average}, tensors);
      reference::AllocationInstance problem;
      problem.bit_budget =
          static_cast<std::int64_t>(average * static_cast<double>(numel_of(tensors)));
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Observation seen = random_observation(tensors[t], is_measured, generator);
        observe(precision, t, seen);
        Table noise{};
        double gain = 0;
        for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
          const Table own =
              is_measured ? seen.noise[row] : closed_form(tensors[t], seen.ranges[row]);
          if (tensors[t].per == PrecisionPer::row) {
            noise = {};
            gain = 0;
          }
          for (std::size_t width = 0; width < 4; ++width) noise[width] += own[width];
          gain += seen.gains[row];
          if (tensors[t].per == PrecisionPer::tensor && row + 1 < tensors[t].rows()) continue;
          const bool by_row = tensors[t].per == PrecisionPer::row;
          const double mean_gain = by_row ? gain : gain / static_cast<double>(tensors[t].rows());
          problem.variance.push_back({mean_gain * noise[0], mean_gain * noise[1],
                                      mean_gain * noise[2], mean_gain * noise[3]});
          problem.sensitivity.push_back(problem.variance.back()[0]);
          problem.numel.push_back(by_row ? tensors[t].size_of_row(row) : tensors[t].layout.numel());
        }
      }
      CHECK(precision.step());
      const std::vector<std::uint8_t> solved =
          is_measured ? actpack::allocate_measured_bits(
                            {problem.variance, problem.numel, problem.bit_budget, {}, {}})
                            .bits
                      : actpack::allocate_bits(
                            {problem.sensitivity, problem.numel, problem.bit_budget, {}, {}})
                            .bits;
      std::vector<std::uint8_t> got;
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::vector<std::uint8_t> rows = widths_of(precision, t);
        if (tensors[t].per == PrecisionPer::row) {
          got.insert(got.end(), rows.begin(), rows.end());
        } else {
          got.push_back(rows[0]);
          CHECK(rows == std::vector<std::uint8_t>(rows.size(), rows[0]));
        }
      }
      CHECK(got == solved);
      CHECK(bits_used(tensors, widths_of(precision)) <= problem.bit_budget);
    }
  }
}

TEST_CASE("AutoPrecision: the model finds the same widths over random histories") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Generator generator(seed);
    const std::vector<TensorSpec> tensors = random_tensors(generator);
    AutoPrecisionOptions options{.average_bits = generator.uniform(1, 6),
                                 .decay = generator.below(3) * 0.45,
                                 .solve_interval = 1 + generator.below(5)};
    if (generator.below(3) == 0) options.max_bits = 4;
    AutoPrecision precision = make(options, tensors);
    Model model(options, tensors);
    const auto budget =
        static_cast<std::int64_t>(options.average_bits * static_cast<double>(numel_of(tensors)));
    const bool may_measure = generator.below(2) == 0;
    Widths widths = widths_of(precision);
    for (int step = 1; step <= 16; ++step) {
      CAPTURE(step);
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        // Twice a step at times, as where gradients are accumulated.
        for (std::uint32_t times = generator.below(3); times > 0; --times) {
          Observation seen =
              random_observation(tensors[t], may_measure && generator.below(2) == 0, generator);
          for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
            const double bad = not_usable[generator.below(3)];
            if (generator.below(8) == 0) seen.ranges[row] = bad;
            if (generator.below(8) == 0) seen.noise[row][generator.below(4)] = bad;
            if (generator.below(4) == 0) seen.gains[row] = bad;
          }
          if (generator.below(4) != 0) {
            observe_noise(precision, t, seen);
            model.observe_noise(t, seen);
          }
          if (generator.below(4) != 0) {
            precision.observe_gains(t, seen.gains);
            model.observe_gains(t, seen.gains);
          }
        }
      }
      const bool is_solved = precision.step();
      REQUIRE(is_solved == model.step());
      const Widths next = widths_of(precision);
      REQUIRE(next == (is_solved ? model.expected(next) : widths));
      REQUIRE(bits_used(tensors, next) <= budget);
      REQUIRE(are_widths(next, 1, options.max_bits));
      widths = next;
    }
  }
}

TEST_CASE("AutoPrecision: widths change at the first step and every solve_interval steps") {
  for (const std::int64_t interval : {1, 2, 3, 50}) {
    CAPTURE(interval);
    AutoPrecision precision = make({.solve_interval = interval}, {spec(6, 64)});
    Generator generator(3);
    Widths widths = widths_of(precision);
    int changes = 0;
    for (std::int64_t step = 1; step <= 150; ++step) {
      observe(precision, 0, random_observation(spec(6, 64), false, generator));
      CHECK(widths_of(precision) == widths);  // observing alone decides nothing
      const bool is_solved = precision.step();
      CHECK(is_solved == (step == 1 || step % interval == 0));
      if (!is_solved) CHECK(widths_of(precision) == widths);
      changes += widths_of(precision) != widths ? 1 : 0;
      widths = widths_of(precision);
    }
    CHECK(changes >= 2);
  }
}

TEST_CASE("AutoPrecision: the first observation counts whole, the mean of later ones by decay") {
  // What tensor 0 shows in each step, none where negative. An interval has 3 steps.
  const std::vector<double> seen{5, 40, 8, -1, 100, -1, -1, -1, -1, 3, 1, 2};
  for (const double decay : {0.0, 0.5, 0.9}) {
    const double third = decay * 5 + (1 - decay) * (40 + 8) / 2;
    const double sixth = decay * third + (1 - decay) * 100;
    const double twelfth = decay * sixth + (1 - decay) * (3 + 1 + 2) / 3;
    const std::vector<std::pair<std::size_t, double>> averages{
        {1, 5}, {3, third}, {6, sixth}, {9, sixth}, {12, twelfth}};
    for (const auto& solution : averages) {
      const std::size_t last_step = solution.first;
      const double average = solution.second;
      for (const bool of_gains : {true, false}) {
        for (const double side : {1 - 1e-9, 1 + 1e-9}) {
          CAPTURE(decay);
          CAPTURE(last_step);
          CAPTURE(of_gains);
          CAPTURE(side);
          AutoPrecisionOptions options = for_one_of_two;
          options.decay = decay;
          options.solve_interval = 3;
          AutoPrecision precision = make(options, two_tensors);
          for (std::size_t step = 1; step <= last_step; ++step) {
            const double own = seen[step - 1];
            const double other = side * average;
            if (of_gains) {
              observe_all(precision, 1, 7, other);
              precision.observe_ranges(0, std::vector<double>{7});
              if (own >= 0) precision.observe_gains(0, std::vector<double>{own});
            } else {
              observe_all(precision, 1, other, 7);
              precision.observe_gains(0, std::vector<double>{7});
              if (own >= 0) precision.observe_ranges(0, std::vector<double>{own});
            }
            precision.step();
          }
          CHECK(is_first_wider(precision) == (side < 1));
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: rows never observed count as the mean of those observed") {
  const TensorSpec tensor = spec(6, 64, PrecisionPer::row, 20);
  // Were the mean over all rows, those without would have half the variance.
  const std::vector<double> ranges{9, not_a_number, 100, 2, infinity, 1e200};
  const std::vector<double> gains{3, 11, not_a_number, 5, infinity, not_a_number};
  const double range = (9 + 100 + 2) / 3.0;
  const double gain = (3 + 11 + 5) / 3.0;
  const std::vector<double> sensitivity{9 * 3, range * 11,   100 * gain,
                                        2 * 5, range * gain, range * gain};
  const std::vector<std::int64_t> numel{64, 64, 64, 64, 64, 20};
  for (const double average : {1.1, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0}) {
    CAPTURE(average);
    AutoPrecision precision = make({.average_bits = average}, {tensor});
    precision.observe_ranges(0, ranges);
    precision.observe_gains(0, gains);
    precision.step();
    const auto budget = static_cast<std::int64_t>(average * 340);
    CHECK(widths_of(precision, 0) ==
          actpack::allocate_bits({sensitivity, numel, budget, {}, {}}).bits);
  }
  // And exactly: two rows weigh 300 · 4 and 500 · 4, the third (300 + 500) / 2 · 4. It or the other
  // tensor's gets the second of two bits to spare.
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecision precision =
        make({.average_bits = 1.5, .max_bits = 2}, {spec(3, 64), spec(1, 64)});
    precision.observe_ranges(0, std::vector<double>{300, 500, not_a_number});
    precision.observe_gains(0, std::vector<double>{4, not_a_number, 4});
    observe_all(precision, 1, 100, 16 * side);
    precision.step();
    CHECK(widths_of(precision) == (side < 1 ? Widths{{1, 2, 2}, {1}} : Widths{{1, 2, 1}, {2}}));
  }
}

TEST_CASE("AutoPrecision: a tensor that is not known stays even and blocks no other") {
  for (const double average : {1.5, 2.0, 3.0}) {
    // Nothing seen; noise alone; gains alone; observations without a finite number.
    for (const int seen : {0, 1, 2, 3}) {
      CAPTURE(average);
      CAPTURE(seen);
      const std::vector<TensorSpec> tensors{spec(7, 64), spec(8, 96),
                                            spec(3, 50, PrecisionPer::tensor)};
      AutoPrecision precision = make({.average_bits = average, .solve_interval = 1}, tensors);
      const std::vector<std::uint8_t> even = widths_of(precision, 1);
      Generator generator(4);
      for (int step = 0; step < 5; ++step) {
        const std::vector<double> bad(8, not_usable[static_cast<std::size_t>(step % 3)]);
        if (seen == 1) precision.observe_ranges(1, std::vector<double>(8, 1e9));
        if (seen == 2) precision.observe_gains(1, std::vector<double>(8, 1e9));
        if (seen == 3) precision.observe_ranges(1, bad);
        if (seen == 3) precision.observe_gains(1, bad);
        for (const std::size_t t : {std::size_t{0}, std::size_t{2}}) {
          observe(precision, t, random_observation(tensors[t], false, generator));
        }
        precision.step();
        CHECK(widths_of(precision, 1) == even);
        const auto whole =
            static_cast<std::int64_t>(average * static_cast<double>(numel_of(tensors)));
        CHECK(bits_used(tensors, widths_of(precision)) <= whole);
      }
      const std::vector<std::uint8_t> rows = widths_of(precision, 0);
      CHECK(rows != std::vector<std::uint8_t>(7, rows[0]));  // which did not wait
      observe_all(precision, 1, 1e9, 1e9);
      precision.step();
      CHECK(widths_of(precision, 1) != even);
    }
  }
}

TEST_CASE("AutoPrecision: observations that are not finite leave no trace") {
  const std::vector<TensorSpec> tensors{spec(3, 64), spec(3, 64, PrecisionPer::tensor)};
  for (const double bad : not_usable) {
    CAPTURE(bad);
    AutoPrecision clean = make({}, tensors);
    AutoPrecision soiled = make({}, tensors);
    const auto both = [&](const auto& call) {
      call(clean);
      call(soiled);
    };
    both([](AutoPrecision& p) { p.observe_noise(0, std::vector<Table>(3, {8, 4, 2, 1})); });
    for (const std::size_t tensor : {std::size_t{0}, std::size_t{1}}) {
      both([&](AutoPrecision& p) { p.observe_ranges(tensor, std::vector<double>{1, 2, 3}); });
      both([&](AutoPrecision& p) { p.observe_gains(tensor, std::vector<double>{4, 5, 6}); });
      soiled.observe_ranges(tensor, std::vector<double>(3, bad));
      soiled.observe_gains(tensor, std::vector<double>(3, bad));
      soiled.observe_noise(tensor, std::vector<Table>(3, {bad, bad, bad, bad}));
      soiled.observe_noise(tensor, std::vector<Table>(3, {1, 1, bad, 1}));
      if (bad != 1e200) soiled.observe_perturbation(tensor, bad);
      CHECK(soiled.save() == clean.save());
    }
    // One bad row spoils a tensor's sum, but no other row's noise.
    soiled.observe_ranges(1, std::vector<double>{7, bad, 9});
    CHECK(soiled.save() == clean.save());
    soiled.observe_ranges(0, std::vector<double>{7, bad, 9});
    CHECK(soiled.save() != clean.save());
    both([](AutoPrecision& p) { CHECK(p.step()); });
    CHECK(are_widths(widths_of(soiled), 1, 8));
  }
}

TEST_CASE("AutoPrecision: the largest numbers that count do not overflow") {
  for (const bool is_measured : {false, true}) {
    AutoPrecision precision = make({.solve_interval = 1}, mixed_tensors());
    for (int step = 0; step < 3; ++step) {
      for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
        const std::size_t rows = mixed_tensors()[t].rows();
        observe(
            precision, t,
            {is_measured, std::vector<double>(rows, 9e138),
             std::vector<Table>(rows, {9e139, 8e139, 7e139, 0}), std::vector<double>(rows, 9e139)});
      }
      CHECK_NOTHROW(precision.step());
    }
    // Nor do zeros divide by zero.
    for (int step = 0; step < 3; ++step) {
      for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
        const std::size_t rows = mixed_tensors()[t].rows();
        observe(precision, t,
                {is_measured, std::vector<double>(rows), std::vector<Table>(rows, Table{}),
                 std::vector<double>(rows)});
      }
      CHECK_NOTHROW(precision.step());
      CHECK(are_widths(widths_of(precision), 1, 8));
    }
  }
}

TEST_CASE("AutoPrecision: ranges and measured noise of one value weigh the same") {
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecision precision = make(
        for_one_of_two, {spec(2, 32, PrecisionPer::tensor), spec(1, 64, PrecisionPer::tensor)});
    precision.observe_ranges(0, std::vector<double>{3, 4});
    precision.observe_noise(1,
                            std::vector<Table>{reference::variance_by_width(32 / 6.0 * 7 * side)});
    precision.observe_gains(0, std::vector<double>{1, 3});
    precision.observe_gains(1, std::vector<double>{2});
    precision.step();
    CHECK(is_first_wider(precision) == (side < 1));
  }
}
