// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The numbers that a command line takes: each has two limits, and no other value is taken.
#pragma once

#include <doctest/doctest.h>

#include <regex>
#include <string>
#include <vector>

#include "common/flags.hpp"

namespace support {

// `parse` reads arguments and throws OptionError; `help` has a line for each flag. Returns the
// number of flags that take a number.
template <class Parse>
int check_number_flags(const std::string& help, const Parse& parse) {
  const auto complaint = [&](const std::vector<const char*>& arguments) -> std::string {
    try {
      parse(arguments);
    } catch (const trainer::OptionError& error) {
      return error.what();
    }
    return "";
  };
  int numbers = 0;
  const std::regex line("\n  (--[a-z-]+) ");
  for (std::sregex_iterator at(help.begin(), help.end(), line), end; at != end; ++at) {
    const std::string flag = (*at)[1];
    CAPTURE(flag);
    const std::string asked = complaint({flag.c_str()});
    CHECK(asked.starts_with(flag + ": needs a value: "));
    if (!std::regex_search(asked, std::regex("number|multiple of"))) continue;
    ++numbers;
    CHECK(asked.find(" to ") != std::string::npos);
    for (const char* value : {"nan", "-inf", "inf", "1e999", "18446744073709551616", "-1", "x"}) {
      CHECK(complaint({flag.c_str(), value}).starts_with(flag + " " + value + ": expected "));
    }
  }
  return numbers;
}

}  // namespace support
