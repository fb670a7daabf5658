// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command line.
#pragma once

#include <omp.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/codes.hpp"
#include "common/checkpoint.hpp"
#include "common/flags.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/shape.hpp"
#include "train_gpt/training.hpp"

namespace gpt {

struct Options {
  std::string data;  // folder, "none" for a generated text, empty for the first that is found
  ModelShape shape;
  TrainingSetting training;  // but for the seed
  std::vector<std::uint64_t> seeds = {0};
  int threads = omp_get_num_procs();
  std::int64_t validation_windows = 256;

  // How activations are saved. Neither of the first two: all ways of the comparison, one by one.
  int bits = 0;
  double average_bits = 0;
  std::vector<std::pair<Kind, int>> exceptions;  // from `bits`
  SavePolicy::Gelu gelu = SavePolicy::Gelu::derivative;
  bool is_stochastic = true;
  bool is_subtractive = true;

  std::string json;
  trainer::CheckpointOptions checkpoint;
  bool wants_help = false;

  // `policy` with the flags that go with every width.
  SavePolicy adapted(SavePolicy policy) const {
    for (const auto& [kind, width] : exceptions) {
      policy.bits_of(kind) = width;
    }
    policy.gelu = gelu;
    policy.is_stochastic = is_stochastic;
    policy.is_subtractive = is_subtractive;
    return policy;
  }
};

// Of every program that trains this model, and those of the trainer itself.
std::vector<trainer::Flag> flags(Options& options);
std::vector<trainer::Flag> training_flags(Options& options);
std::string help();

// Sets what the arguments say; returns false where help is asked for. Throws trainer::OptionError,
// in one line with flag and value, for an argument that is not understood.
bool set_options(Options& options, const std::vector<trainer::Flag>& known,
                 std::span<const char* const> arguments);
Options parse_options(std::span<const char* const> arguments);

}  // namespace gpt
