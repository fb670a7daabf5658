// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the numbers that the programs' command lines take.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "examples/number_flags.hpp"
#include "research/gpt_options.hpp"
#include "research/options.hpp"

namespace {

using namespace research;

template <class Parse>
int check(const Parse& parse) {
  return support::check_number_flags(parse(std::vector<const char*>{"--help"}).help, parse);
}

TEST_CASE("options: every number has two limits") {
  CHECK(check(parse_variance_options) == 6);
  CHECK(check(parse_width_options) == 6);
  CHECK(check(parse_check_options) == 9);
  CHECK(check(parse_gpt_check_options) == 13);
}

TEST_CASE("options: a flag whose value would be ignored is unknown") {
  for (const char* flag : {"--checkpoint", "--resume"}) {
    const std::vector<const char*> arguments{flag, "file"};
    CHECK_THROWS_AS(parse_check_options(arguments), trainer::OptionError);
    CHECK_THROWS_AS(parse_gpt_check_options(arguments), trainer::OptionError);
  }
  CHECK_THROWS_AS(parse_gpt_check_options(std::vector<const char*>{"--json", "file"}),
                  trainer::OptionError);
}

}  // namespace
