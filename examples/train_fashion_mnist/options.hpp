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
#include <string_view>
#include <vector>

#include "codec.hpp"
#include "flags.hpp"

namespace trainer {

struct Options {
  std::string data;  // folder, "none" for generated data, empty for the first that is found
  std::int64_t epochs = 2;
  std::int64_t train_limit = std::numeric_limits<std::int64_t>::max();
  std::uint64_t seed = 0;
  int threads = omp_get_num_procs();
  std::int64_t depth = 0;
  bool compares = true;  // no --bits: train all ways of the comparison, one after the other
  Codec codec;           // of the only run or, when comparing, of the second
  std::int64_t check_gradient = 0;
  std::int64_t check_variance = 0;
  std::int64_t compare_widths = 0;
  std::int64_t memory_budget = 0;  // in MiB
  std::string json = "train_fashion_mnist.json";
  bool wants_help = false;
};

inline std::vector<Flag> flags(Options& options) {
  using Text = std::string_view;
  Codec& codec = options.codec;
  return {
      {"--data", "DIR", "folder with Fashion-MNIST; none: a small generated data set",
       "a folder, or none", [&](Text text) { return options.data = text, !text.empty(); }},
      {"--epochs", "N", "passes over the training set (2)", "a whole number from 0",
       [&](Text text) { return parse_number<std::int64_t>(text, 0, options.epochs); }},
      {"--train-limit", "N", "train on the first N images only", "a whole number from 1",
       [&](Text text) { return parse_number<std::int64_t>(text, 1, options.train_limit); }},
      {"--seed", "S", "of weights, order and rounding (0)", "a whole number from 0 to 2^64 - 1",
       [&](Text text) { return parse_number<std::uint64_t>(text, 0, options.seed); }},
      {"--threads", "T", "processor threads (all)", "a whole number from 1 to 1024",
       [&](Text text) {
         return parse_number(text, 1, options.threads) && options.threads <= 1024;
       }},
      {"--depth", "D", "further convolutions behind the first block (0)",
       "a whole number from 0 to 1000",
       [&](Text text) {
         return parse_number<std::int64_t>(text, 0, options.depth) && options.depth <= 1000;
       }},
      {"--bits", "32|8|4|2|1", "one run at this width, 32: full precision; else the comparison",
       "32, 8, 4, 2 or 1",
       [&](Text text) {
         options.compares = false;
         return parse_number(text, 1, codec.bits) &&
                (codec.bits == 32 || codec.bits == 8 || codec.bits == 4 || codec.bits == 2 ||
                 codec.bits == 1);
       }},
      {"--average-bits", "B", "one run with widths by tensor, B bits a value on average",
       "a number from 1 to 8",
       [&](Text text) {
         options.compares = false;
         return parse_number(text, 1.0, codec.average_bits) && codec.average_bits <= 8;
       }},
      {"--context", "affine|sign-magnitude",
       "what is kept: ActNN's copies, or actpack's one (sign-magnitude)",
       "affine or sign-magnitude",
       [&](Text text) {
         codec.form = text == "affine" ? Codec::Form::affine : Codec::Form::sign_magnitude;
         return text == "affine" || text == "sign-magnitude";
       }},
      {"--decode", "plain|subtractive", "subtractive takes the dither out again (subtractive)",
       "plain or subtractive",
       [&](Text text) { return parse_choice(text, "subtractive", "plain", codec.is_subtractive); }},
      {"--rounding", "stochastic|nearest", "how values become codes (stochastic)",
       "stochastic or nearest",
       [&](Text text) { return parse_choice(text, "stochastic", "nearest", codec.is_stochastic); }},
      {"--range", "group|tensor", "what shares one range (group)", "group or tensor",
       [&](Text text) { return parse_choice(text, "tensor", "group", codec.has_tensor_range); }},
      {"--group-size", "G", "values per group, a multiple of 32 (256)", "a positive multiple of 32",
       [&](Text text) {
         return parse_number(text, 32, codec.group_size) && codec.group_size % 32 == 0;
       }},
      {"--check-gradient", "K", "error of the mean of up to K compressed gradients",
       "a whole number from 1",
       [&](Text text) { return parse_number<std::int64_t>(text, 1, options.check_gradient); }},
      {"--check-variance", "N", "N draws per layer: measured variance against the formulas'",
       "a whole number from 2",
       [&](Text text) { return parse_number<std::int64_t>(text, 2, options.check_variance); }},
      {"--compare-widths", "N", "N draws per policy: widths by layer, sample and group",
       "a whole number from 2",
       [&](Text text) { return parse_number<std::int64_t>(text, 2, options.compare_widths); }},
      {"--memory-budget", "MIB", "the largest batch and depth whose step's peak fits into it",
       "a whole number from 1",
       [&](Text text) { return parse_number<std::int64_t>(text, 1, options.memory_budget); }},
      {"--json", "FILE", "results (train_fashion_mnist.json); loss curves beside it, in .svg",
       "a file name that does not end in .svg",
       [&](Text text) { return options.json = text, !text.empty() && !text.ends_with(".svg"); }},
  };
}

inline std::string help() {
  Options options;
  const std::string text =
      "Trains a small convolutional network on Fashion-MNIST and keeps its activations in two "
      "bits.\n"
      "Without --bits: full precision, actpack (as the codec flags say), ActNN's way, and nearest\n"
      "rounding with one range per tensor, in one table.\n\n";
  return text + describe(flags(options));
}

// Throws OptionError, in one line with flag and value, for what it does not understand.
inline Options parse_options(std::span<const char* const> arguments) {
  Options options;
  options.wants_help = !set_flags(flags(options), arguments);
  if (options.wants_help) {
    return options;
  }
  if (options.codec.average_bits > 0 &&
      (options.codec.bits != 2 || options.codec.has_tensor_range)) {
    throw OptionError("--average-bits: goes with neither --bits nor --range tensor");
  }
  if (options.codec.bits == 32) {
    options.codec.form = Codec::Form::full_precision;
    if (options.check_variance > 0) {
      throw OptionError("--check-variance: needs a codec, and --bits 32 is none");
    }
  }
  return options;
}

}  // namespace trainer
