// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The flags of train_gpt, and two more.

#include "research/gpt_options.hpp"

#include <string_view>
#include <vector>

namespace research {

using trainer::OptionError;
using trainer::parse_number;

GptCheckOptions parse_gpt_check_options(std::span<const char* const> arguments) {
  GptCheckOptions options;
  std::vector<trainer::Flag> known = gpt::flags(options);
  known.push_back({"--check-gradient", "K", "error and bias of K gradients, kind by kind",
                   "an even number from 2 to 10000000", [&](std::string_view value) {
                     return parse_number(value, 2, 10'000'000, options.check_gradient) &&
                            options.check_gradient % 2 == 0;
                   }});
  known.push_back(trainer::number_flag("--memory-budget", "MiB",
                                       "the largest batch and depth whose step fits",
                                       options.memory_budget, 0x1p-20, 1 << 30));
  if (!gpt::set_options(options, known, arguments)) {
    options.help = "Checks train_gpt, whose flags it takes.\n\n" + trainer::describe(known);
    return options;
  }
  if ((options.check_gradient > 0) == (options.memory_budget > 0)) {
    throw OptionError("wants either --check-gradient or --memory-budget (--help lists all flags)");
  }
  if (options.check_gradient > 0 && !options.is_stochastic) {
    throw OptionError("--check-gradient: wants stochastic rounding, or all gradients are the same");
  }
  return options;
}

}  // namespace research
