// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command lines of the checks of train_fashion_mnist.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "train_fashion_mnist/options.hpp"

namespace research {

struct VarianceOptions : trainer::ExperimentOptions {
  std::int64_t draws = 500;
  int bits = 2;
  std::int32_t group_size = 256;
  std::string json = "check_variance.json";
  std::string help;  // not empty: asked for
};

struct WidthOptions : trainer::ExperimentOptions {
  std::int64_t draws = 256;
  trainer::Codec codec{.context = trainer::Codec::Context::affine};
  std::string json = "compare_widths.json";
  std::string help;  // not empty: asked for
};

struct CheckOptions : trainer::Options {
  CheckOptions() { json = "check_fashion_mnist.json"; }

  std::int64_t check_gradient = 0;
  std::int64_t memory_budget = 0;  // in MiB
  std::string help;                // not empty: asked for
};

// Throw trainer::OptionError, in one line with flag and value, for an argument they do not
// understand.
VarianceOptions parse_variance_options(std::span<const char* const> arguments);
WidthOptions parse_width_options(std::span<const char* const> arguments);
CheckOptions parse_check_options(std::span<const char* const> arguments);

}  // namespace research
