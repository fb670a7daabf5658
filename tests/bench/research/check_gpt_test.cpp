// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the memory budget of check_gpt, and its command line.
#include <doctest/doctest.h>
#include <omp.h>

#include <cstdint>
#include <string>
#include <vector>

#include "examples/train_gpt/support.hpp"
#include "research/gpt_budget.hpp"
#include "research/gpt_options.hpp"
#include "research/largest_that_fits.hpp"

namespace {

using namespace research;
using support::exact, support::packing_shape;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

std::string error_of(const std::vector<const char*>& arguments) {
  try {
    parse_gpt_check_options(arguments);
  } catch (const trainer::OptionError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("check_gpt: a wrong option is named, with its value and what was expected") {
  CHECK(error_of({"--check-gradient", "3"}) ==
        "--check-gradient 3: expected an even number from 2 to 10000000");
  CHECK(error_of({"--memory-budget", "0"}) ==
        "--memory-budget 0: expected a number from 0.001 to 1073741824");
  CHECK(error_of({"--check-gradient", "2", "--rounding", "nearest"}) ==
        "--check-gradient: wants stochastic rounding, or all gradients are the same");
  CHECK(error_of({"--layers", "0", "--check-gradient", "2"}) ==
        "--layers 0: expected a whole number from 1 to 1000");
  CHECK(error_of({}).starts_with("wants either"));
}

TEST_CASE("budget: bisection finds the largest number that fits") {
  for (const std::int64_t largest : {0, 1, 2, 3, 7, 8, 9, 99, 100}) {
    CAPTURE(largest);
    int tries = 0;
    const std::int64_t found = largest_that_fits(100, [&](std::int64_t tried) {
      REQUIRE(tried >= 1);
      REQUIRE(tried <= 100);
      ++tries;
      return tried <= largest;
    });
    CHECK(found == largest);
    CHECK(tries <= 15);  // twice log2(100), and one
  }
}

TEST_CASE("budget: one sequence or layer more does not fit, and packed far more fits") {
  const ModelShape shape = packing_shape();
  const std::int64_t budget = 600'000;
  const auto filled = [&](const SavePolicy& policy) {
    const BudgetReport report = fill_budget(shape, 4, policy, budget);
    CHECK(measured_peak(shape, report.sequences, policy) <= budget);
    CHECK(measured_peak(shape, report.sequences + 1, policy) > budget);
    ModelShape deeper = shape;
    deeper.layers = report.layers;
    CHECK(measured_peak(deeper, 4, policy) <= budget);
    ++deeper.layers;
    CHECK(measured_peak(deeper, 4, policy) > budget);
    return report;
  };
  const BudgetReport full = filled(exact);
  const BudgetReport packed = filled(SavePolicy::shipped(2));
  CHECK(packed.sequences > 6 * full.sequences);
  CHECK(packed.layers > 6 * full.layers);
}

}  // namespace
