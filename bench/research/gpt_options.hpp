// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command line of check_gpt.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "train_gpt/options.hpp"

namespace research {

struct GptCheckOptions : gpt::Options {
  std::int64_t check_gradient = 0;
  double memory_budget = 0;  // MiB
  std::string help;          // not empty: asked for
};

// Throws trainer::OptionError, in one line with flag and value, for an argument it does not
// understand.
GptCheckOptions parse_gpt_check_options(std::span<const char* const> arguments);

}  // namespace research
