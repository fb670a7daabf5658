// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks data-parallel training with AutoPrecision in two processes.
#include <doctest/doctest.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <vector>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"
#include "support/two_processes.hpp"

namespace {

using namespace support::auto_precision;
using support::all_reduce_over;
using support::Generator;
using support::RankReport;
using support::run_two_ranks;

enum class Share { samples, tensors };  // what a rank observes

constexpr std::uint64_t ranked_steps = 30;

// One rank's observations in one step. Measured noise and gains are whole numbers, so that their
// sums do not depend on the order.
void observe_share(AutoPrecision& precision, Share share, bool is_measured, std::uint64_t step,
                   std::size_t rank) {
  const std::vector<TensorSpec>& tensors = mixed_tensors();
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (share == Share::tensors && t % 2 != rank) continue;
    Generator generator(10'000 * step + 100 * t + rank);
    Observation seen = random_observation(tensors[t], is_measured, generator);
    for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
      const double size = 1 + generator.below(1000);
      seen.noise[row] = {size * 100, size * (20 + generator.below(60)),
                         size * (2 + generator.below(18)), size};
      seen.gains[row] = 1 + generator.below(1'000'000);
    }
    // Rank 0's gains come from fewer samples than rank 1's: sums, not means of means.
    observe_noise(precision, t, seen);
    precision.observe_gains(t, seen.gains);
    if (rank == 1) precision.observe_gains(t, seen.gains);
  }
}

const AutoPrecisionOptions ranked_options{.average_bits = 2.5, .decay = 0.5, .solve_interval = 3};

void append_widths(std::vector<std::uint8_t>& bytes, const AutoPrecision& precision) {
  for (const std::vector<std::uint8_t>& rows : widths_of(precision)) {
    bytes.insert(bytes.end(), rows.begin(), rows.end());
  }
}

// All widths of all steps of one controller that observes the shares of these ranks.
std::vector<std::uint8_t> widths_over_training(const AutoPrecisionOptions& options, Share share,
                                               bool is_measured,
                                               std::initializer_list<std::size_t> ranks) {
  AutoPrecision precision = make(options, mixed_tensors());
  std::vector<std::uint8_t> widths;
  for (std::uint64_t step = 1; step <= ranked_steps; ++step) {
    for (const std::size_t rank : ranks) observe_share(precision, share, is_measured, step, rank);
    precision.step();
    append_widths(widths, precision);
  }
  return widths;
}

}  // namespace

TEST_CASE("AutoPrecision: two processes find the widths of one that observes all") {
  for (const Share share : {Share::samples, Share::tensors}) {
    for (const bool is_measured : {false, true}) {
      CAPTURE(static_cast<int>(share));
      CAPTURE(is_measured);
      const std::array<RankReport, 2> ranks = run_two_ranks([&](int rank, int socket) {
        AutoPrecisionOptions options = ranked_options;
        options.all_reduce = all_reduce_over(socket, rank);
        return widths_over_training(options, share, is_measured, {static_cast<std::size_t>(rank)});
      });
      CHECK(ranks[0].exit_code == 0);
      CHECK(ranks[1].exit_code == 0);
      const std::vector<std::uint8_t> together =
          widths_over_training(ranked_options, share, is_measured, {0, 1});
      CHECK(ranks[0].bytes == together);
      CHECK(ranks[1].bytes == together);
      // Which is the hook's doing.
      const std::vector<std::uint8_t> first =
          widths_over_training(ranked_options, share, is_measured, {0});
      const std::vector<std::uint8_t> second =
          widths_over_training(ranked_options, share, is_measured, {1});
      CHECK(first != second);
      CHECK(first != together);
      CHECK(second != together);
    }
  }
}

TEST_CASE("AutoPrecision: a process that fails does not leave the other waiting") {
  const std::array<RankReport, 2> ranks = run_two_ranks([&](int rank, int socket) {
    AutoPrecisionOptions options = ranked_options;
    options.all_reduce = all_reduce_over(socket, rank);
    AutoPrecision precision = make(options, mixed_tensors());
    for (std::uint64_t step = 1; step <= ranked_steps; ++step) {
      if (rank == 1 && step == 6) ::_exit(7);
      try {
        precision.step();
      } catch (const std::runtime_error&) {
        ::_exit(3);
      }
    }
    return std::vector<std::uint8_t>{};
  });
  CHECK(ranks[0].exit_code == 3);
  CHECK(ranks[1].exit_code == 7);
}

TEST_CASE("AutoPrecision: all_reduce is called once for each solution, with arrays of one size") {
  std::vector<std::size_t> sizes;
  std::int64_t step = 0;
  std::vector<std::int64_t> called;
  AutoPrecisionOptions options{.solve_interval = 4};
  options.all_reduce = [&](std::span<double> values) {
    sizes.push_back(values.size());
    called.push_back(step);
    CHECK(std::ranges::all_of(values, [](double v) { return std::isfinite(v) && v >= 0; }));
  };
  AutoPrecision precision = make(options, mixed_tensors());
  for (step = 1; step <= 12; ++step) {
    if (step % 3 == 0) observe_anything(precision, mixed_tensors(), 1000);
    precision.step();
  }
  CHECK(called == std::vector<std::int64_t>{1, 4, 8, 12});
  CHECK(sizes == std::vector<std::size_t>(4, sizes[0]));
}

TEST_CASE("AutoPrecision: a rank that observed nothing finds the widths of the others") {
  const std::vector<TensorSpec> tensors{spec(2, 64)};
  std::vector<double> sums;
  AutoPrecisionOptions options{.average_bits = 1.5, .max_bits = 2};
  options.all_reduce = [&](std::span<double> values) { sums.assign(values.begin(), values.end()); };
  AutoPrecision first = make(options, tensors);
  first.observe_noise(0, std::vector<Table>{{10, 9, 5, 1}, {9, 1, 0.5, 0.1}});
  first.observe_gains(0, std::vector<double>{1, 1});
  first.step();
  options.all_reduce = [&](std::span<double> values) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += sums[i];
  };
  AutoPrecision second = make(options, tensors);
  second.step();
  CHECK(widths_of(first, 0) == std::vector<std::uint8_t>{1, 2});
  CHECK(widths_of(second) == widths_of(first));
}

TEST_CASE("AutoPrecision: sums that come back unusable count for their item alone") {
  // Sums of each item: noise at four widths, how many, gain, how many; then what was measured.
  const std::vector<TensorSpec> tensors{spec(3, 64), spec(2, 64, PrecisionPer::tensor)};
  const std::vector<double> unusable{not_a_number, infinity, -infinity, 1e200, -1};
  for (const double bad : unusable) {
    for (std::size_t place = 0; place < 4 * 7 + 1; ++place) {
      CAPTURE(bad);
      CAPTURE(place);
      const std::size_t item = place / 7;
      const bool is_noise = place % 7 < 5;
      bool is_damaged = false;
      AutoPrecisionOptions options{.average_bits = 3, .solve_interval = 1};
      options.all_reduce = [&](std::span<double> sums) {
        REQUIRE(sums.size() == 4 * 7 + 1);
        if (is_damaged) sums[place] = bad;
      };
      AutoPrecision damaged = make(options, tensors);
      AutoPrecision expected = make(options, tensors);
      Generator generator(place);
      for (int step = 0; step < 4; ++step) {
        for (std::size_t t = 0; t < tensors.size(); ++t) {
          Observation seen = random_observation(tensors[t], true, generator);
          observe(damaged, t, seen);
          // The other has never observed what the damage takes away.
          if (step == 1 && place < 28 && t == item / 3) {
            const std::size_t row = t == 0 ? item : 0;
            if (is_noise) {
              seen.noise[row][0] = 1e200;
            } else if (t == 0) {
              seen.gains[row] = 1e200;
            } else {
              seen.gains = {1e200, 1e200};
            }
          }
          observe(expected, t, seen);
        }
        is_damaged = step == 1;
        CHECK_NOTHROW(damaged.step());
        is_damaged = false;
        expected.step();
        CHECK(damaged.save() == expected.save());
        CHECK(widths_of(damaged) == widths_of(expected));
      }
    }
  }
}

TEST_CASE("AutoPrecision: a reduction of nonsense throws nothing and is forgotten") {
  bool is_nonsense = true;
  for (const double bad : {not_a_number, infinity, -infinity, 1e308, -5.0, 0.0}) {
    AutoPrecisionOptions options{.solve_interval = 1};
    options.all_reduce = [&](std::span<double> sums) {
      if (is_nonsense) std::ranges::fill(sums, bad);
    };
    AutoPrecision precision = make(options, mixed_tensors());
    AutoPrecision fresh = make(options, mixed_tensors());
    const auto step_both = [&] {
      CHECK(precision.step());
      CHECK(fresh.step());
      CHECK(widths_of(precision) == widths_of(fresh));
    };
    is_nonsense = true;
    observe_anything(precision, mixed_tensors(), 1000);
    step_both();
    is_nonsense = false;
    for (std::uint64_t step = 0; step < 5; ++step) {
      observe_anything(precision, mixed_tensors(), 2000 + step);
      observe_anything(fresh, mixed_tensors(), 2000 + step);
      step_both();
    }
  }
}
