// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command line.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/flags.hpp"
#include "train_fashion_mnist/contexts.hpp"

namespace trainer {

// The options of every program that trains this network.
struct ExperimentOptions {
  std::string data;  // folder, "none" for generated data, empty for the first that is found
  std::int64_t train_limit = all_images;
  std::uint64_t seed = 0;
  int threads = omp_get_num_procs();
  std::int64_t depth = 0;
};

struct Options : ExperimentOptions {
  std::int64_t epochs = 2;
  bool compares = true;  // no --bits: one training run for each row of the comparison
  Codec codec;           // of the only run or, when comparing, of the second
  std::string json = "train_fashion_mnist.json";
  CheckpointOptions checkpoint;
  bool wants_help = false;
};

inline std::vector<Flag> experiment_flags(ExperimentOptions& options) {
  return {fashion_mnist_flag(options.data), train_limit_flag(options.train_limit),
          seed_flag(options.seed), threads_flag("processor threads (all)", options.threads),
          depth_flag(options.depth)};
}

inline Flag group_size_flag(std::int32_t& group_size) {
  constexpr std::int32_t most = 1 << 24;
  return {"--group-size",
          "G",
          "values per group, a multiple of 32 (256)",
          "a multiple of 32 from 32 to " + text_of(most),
          [&](std::string_view text) {
            return parse_number(text, 32, most, group_size) && group_size % 32 == 0;
          },
          [&] { return text_of(group_size); }};
}

inline Flag json_flag(const std::string& help, std::string& json) {
  return {"--json", "FILE", help, "a file name that does not end in .svg",
          [&](std::string_view text) {
            json = text;
            return !text.empty() && !text.ends_with(".svg");
          }};
}

inline std::vector<Flag> flags(Options& options) {
  Codec& codec = options.codec;
  std::vector<Flag> all = experiment_flags(options);
  std::ranges::move(
      std::vector<Flag>{
          epochs_flag(0, options.epochs),
          {"--bits", "32|8|4|2|1", "one run at this width, 32: full precision; else the comparison",
           "32, 8, 4, 2 or 1",
           [&](std::string_view text) {
             options.compares = false;
             return parse_width(text, codec.bits);
           },
           [&] { return options.compares ? "of the comparison" : text_of(codec.bits); }},
          {"--average-bits", "B", "one run with widths by tensor, B bits a value on average",
           "a number from 1 to 8",
           [&](std::string_view text) {
             options.compares = false;
             return parse_number(text, 1.0, 8.0, codec.average_bits);
           },
           [&] { return text_of(codec.average_bits); }},
          {"--context", "affine|sign-magnitude",
           "what is saved: ActNN's copies, or actpack's one (sign-magnitude)",
           "affine or sign-magnitude",
           [&](std::string_view text) {
             codec.context =
                 text == "affine" ? Codec::Context::affine : Codec::Context::sign_magnitude;
             return text == "affine" || text == "sign-magnitude";
           },
           [&] { return name_of(codec.context); }},
          decode_flag(codec.is_subtractive),
          rounding_flag(codec.is_stochastic),
          choice_flag("--range", "group", "tensor", "what shares one range (group)",
                      codec.has_tensor_range, "tensor"),
          group_size_flag(codec.group_size),
          json_flag("results (train_fashion_mnist.json); loss curves beside it, in .svg",
                    options.json)},
      std::back_inserter(all));
  return all;
}

// Those of the trainer itself.
inline std::vector<Flag> training_flags(Options& options) {
  std::vector<Flag> all = flags(options);
  std::ranges::move(checkpoint_flags(options.checkpoint), std::back_inserter(all));
  return all;
}

inline std::string help() {
  Options options;
  return "Trains a small convolutional network on Fashion-MNIST and keeps its activations in two "
         "bits.\n"
         "Without --bits: full precision, actpack (as the codec flags say), ActNN's way, and "
         "nearest\n"
         "rounding with one range per tensor, in one table.\n\n" +
         describe(training_flags(options));
}

// Sets what the arguments say; returns false where help is asked for. Throws OptionError, in one
// line with flag and value, for an argument that is not understood.
inline bool set_options(Options& options, const std::vector<Flag>& known,
                        std::span<const char* const> arguments) {
  if (!set_flags(known, arguments)) {
    return false;
  }
  options.checkpoint.require_consistent(options.epochs > 0, options.json);
  Codec& codec = options.codec;
  if (codec.average_bits > 0 && (codec.bits != 2 || codec.has_tensor_range)) {
    throw OptionError("--average-bits: goes with neither --bits nor --range tensor");
  }
  if (codec.bits == 32) {
    codec.context = Codec::Context::full_precision;
  }
  return true;
}

inline Options parse_options(std::span<const char* const> arguments) {
  Options options;
  options.wants_help = !set_options(options, training_flags(options), arguments);
  return options;
}

}  // namespace trainer
