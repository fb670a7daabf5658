// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The flags, one by one.

#include "research/options.hpp"

#include <string_view>
#include <vector>

namespace research {

using namespace trainer;

namespace {

constexpr std::int64_t most_draws = 10'000'000;

std::vector<Flag> flags(VarianceOptions& options) {
  std::vector<Flag> all = experiment_flags(options);
  all.push_back(
      number_flag("--draws", "N", "of each gradient (500)", options.draws, 2, most_draws));
  all.push_back(
      {"--bits", "8|4|2|1", "width of a code (2)", "8, 4, 2 or 1", [&](std::string_view text) {
         return parse_width(text, options.bits) && options.bits != 32;
       }});
  all.push_back(group_size_flag(options.group_size));
  all.push_back(
      json_flag("results (check_variance.json); a picture beside it, in .svg", options.json));
  return all;
}

std::vector<Flag> flags(WidthOptions& options) {
  std::vector<Flag> all = experiment_flags(options);
  all.push_back(number_flag("--draws", "N", "of the gradient under each policy (256)",
                            options.draws, 2, most_draws));
  all.push_back(decode_flag(options.codec.is_subtractive));
  all.push_back(group_size_flag(options.codec.group_size));
  all.push_back(
      json_flag("results (compare_widths.json); a picture beside it, in .svg", options.json));
  return all;
}

template <class Options>
Options parse(std::span<const char* const> arguments, const std::string& purpose) {
  Options options;
  if (!set_flags(flags(options), arguments)) {
    options.help = purpose + "\n\n" + describe(flags(options));
  }
  return options;
}

}  // namespace

VarianceOptions parse_variance_options(std::span<const char* const> arguments) {
  return parse<VarianceOptions>(
      arguments, "Compares the variance of gradients under rounding with actpack's formulas.");
}

WidthOptions parse_width_options(std::span<const char* const> arguments) {
  return parse<WidthOptions>(arguments,
                             "Compares policies that choose widths within the same bytes.");
}

CheckOptions parse_check_options(std::span<const char* const> arguments) {
  CheckOptions options;
  std::vector<Flag> known = flags(options);
  known.push_back(number_flag("--check-gradient", "K",
                              "error of the mean of up to K compressed gradients",
                              options.check_gradient, 1, most_draws));
  known.push_back(number_flag("--memory-budget", "MIB",
                              "the largest batch and depth whose step's peak fits into it",
                              options.memory_budget, 1, 1 << 30));
  if (!set_options(options, known, arguments)) {
    options.help =
        "Checks the codecs of train_fashion_mnist, whose flags it takes.\n\n" + describe(known);
  } else if (options.check_gradient == 0 && options.memory_budget == 0) {
    throw OptionError("wants --check-gradient, --memory-budget or both (--help lists all flags)");
  }
  return options;
}

}  // namespace research
