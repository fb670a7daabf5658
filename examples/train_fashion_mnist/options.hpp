// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command line.
#pragma once

#include <omp.h>

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "common/flags.hpp"
#include "train_fashion_mnist/contexts.hpp"

namespace trainer {

// The options of every program that trains this network.
struct ExperimentOptions {
  std::string data;  // folder, "none" for generated data, empty for the first that is found
  std::int64_t train_limit = std::numeric_limits<std::int64_t>::max();
  std::uint64_t seed = 0;
  int threads = omp_get_num_procs();
  std::int64_t depth = 0;
};

struct Options : ExperimentOptions {
  std::int64_t epochs = 2;
  bool compares = true;  // no --bits: one training run for each row of the comparison
  Codec codec;           // of the only run or, when comparing, of the second
  std::string json = "train_fashion_mnist.json";
  bool wants_help = false;
};

std::vector<Flag> experiment_flags(ExperimentOptions& options);
Flag group_size_flag(std::int32_t& group_size);
Flag json_flag(const std::string& help, std::string& json);

std::vector<Flag> flags(Options& options);
std::string help();

// Sets what the arguments say; returns false where help is asked for. Throws OptionError, in one
// line with flag and value, for an argument that is not understood.
bool set_options(Options& options, const std::vector<Flag>& known,
                 std::span<const char* const> arguments);
Options parse_options(std::span<const char* const> arguments);

}  // namespace trainer
