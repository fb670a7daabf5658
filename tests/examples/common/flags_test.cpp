// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks what flags accept, and that they tell it.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "common/flags.hpp"

namespace {

using namespace trainer;

std::string complaint(const std::vector<Flag>& flags, const std::string& name,
                      const std::string& value) {
  try {
    set_flags(flags, std::vector<const char*>{name.c_str(), value.c_str()});
  } catch (const OptionError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("flags: a number outside its range is refused, and both limits are named") {
  double rate = 1;
  std::int64_t steps = 1;
  std::uint64_t seed = 1;
  const std::vector<Flag> flags{number_flag("--rate", "R", "", rate, 0, 0.5),
                                number_flag("--steps", "N", "", steps, 1, 1'000'000'000),
                                number_flag("--seed", "S", "", seed, 0, most_seeds)};
  for (const char* value :
       {"nan", "-nan", "NAN", "nan(1)", "inf", "-inf", "infinity", "1e999", "-1e999", "0.6",
        "-1e-9", "", " 0", "0 ", "0x1", "+0.1", "0.1,", "1e"}) {
    CHECK(complaint(flags, "--rate", value) ==
          "--rate " + std::string(value) + ": expected a number from 0 to 0.5");
  }
  for (const char* value : {"0", "-1", "1000000001", "9223372036854775807", "9223372036854775808",
                            "-9223372036854775809", "1e3", "1.0", "nan", "inf", "", "ten"}) {
    CHECK(complaint(flags, "--steps", value) ==
          "--steps " + std::string(value) + ": expected a whole number from 1 to 1000000000");
  }
  for (const char* value : {"-1", "18446744073709551616", "1.5", "nan"}) {
    CHECK(complaint(flags, "--seed", value) ==
          "--seed " + std::string(value) + ": expected a whole number from 0 to 2^64 - 1");
  }
  CHECK(rate == 1);
  CHECK(steps == 1);
  CHECK(seed == 1);
  CHECK(complaint(flags, "--rate", "0.5").empty());
  CHECK(complaint(flags, "--steps", "1000000000").empty());
  CHECK(complaint(flags, "--seed", "18446744073709551615").empty());
  CHECK(rate == 0.5);
  CHECK(steps == 1'000'000'000);
  CHECK(seed == std::numeric_limits<std::uint64_t>::max());
}

TEST_CASE("flags: the value that a flag tells sets it to that value") {
  double rate = 0;
  bool is_stochastic = false;
  bool is_subtractive = false;
  const std::vector<Flag> flags{number_flag("--rate", "R", "", rate, 0, 1),
                                rounding_flag(is_stochastic), decode_flag(is_subtractive)};
  const double third = 1.0 / 3;
  rate = third;
  CHECK(flags[0].set(flags[0].value()));
  CHECK(rate == third);
  for (const bool is_set : {true, false}) {
    is_stochastic = is_subtractive = is_set;
    for (const Flag& flag : flags) CHECK(flag.set(flag.value()));
    CHECK(is_stochastic == is_set);
    CHECK(is_subtractive == is_set);
  }
  CHECK(flags[1].value() == "nearest");
  int threads = 1;
  CHECK_FALSE(threads_flag("", threads).value);  // no result depends on it
}

}  // namespace
