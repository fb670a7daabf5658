// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The command line.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actpack/codes.hpp"
#include "flags.hpp"
#include "keeping.hpp"
#include "shape.hpp"
#include "training.hpp"

namespace gpt {

using trainer::Flag;
using trainer::OptionError;
using trainer::parse_choice;
using trainer::parse_number;

struct Options {
  std::string data;  // folder, "none" for a generated text, empty for the first that is found
  ModelShape shape;
  TrainingSetting training;  // but for the seed
  std::vector<std::uint64_t> seeds = {0};
  int threads = omp_get_num_procs();
  std::int64_t validation_windows = 256;

  // How activations are kept. Neither of the first two: all ways of the comparison, one by one.
  int bits = 0;
  double average_bits = 0;
  std::vector<std::pair<Kind, int>> exceptions;  // from `bits`
  Keeping::Gelu gelu = Keeping::Gelu::derivative;
  bool is_stochastic = true;
  bool is_subtractive = true;

  std::int64_t check_gradient = 0;
  double memory_budget = 0;  // MiB
  std::string json;
  bool wants_help = false;

  // `keeping` with the flags that go with every width.
  Keeping adapted(Keeping keeping) const {
    for (const auto& [kind, width] : exceptions) {
      keeping.bits_of(kind) = width;
    }
    keeping.gelu = gelu;
    keeping.is_stochastic = is_stochastic;
    keeping.is_subtractive = is_subtractive;
    return keeping;
  }
};

inline bool parse_width(std::string_view text, int& width) {
  return parse_number(text, 1, width) &&
         (width == Keeping::full_precision || actpack::is_width(width));
}

// Calls parse(item) for the items between commas, until one is refused.
template <class Parse>
bool parse_list(std::string_view text, const Parse& parse) {
  const std::size_t comma = text.find(',');
  return parse(text.substr(0, comma)) &&
         (comma == std::string_view::npos || parse_list(text.substr(comma + 1), parse));
}

// kind=width
inline bool parse_exception(std::string_view text, std::vector<std::pair<Kind, int>>& exceptions) {
  const std::size_t equals = text.find('=');
  const auto name = std::ranges::find(kind_names, text.substr(0, equals));
  int width = 0;
  if (equals == std::string_view::npos || name == kind_names.end() ||
      !parse_width(text.substr(equals + 1), width)) {
    return false;
  }
  exceptions.emplace_back(static_cast<Kind>(name - kind_names.begin()), width);
  return true;
}

inline bool parse_gelu(std::string_view text, Keeping::Gelu& gelu) {
  using Gelu = Keeping::Gelu;
  for (const auto& [name, value] : {std::pair{"derivative", Gelu::derivative},
                                    {"input", Gelu::input},
                                    {"input-with-sign", Gelu::input_with_sign}}) {
    if (text == name) {
      gelu = value;
      return true;
    }
  }
  return false;
}

inline std::vector<Flag> flags(Options& options) {
  using Value = std::string_view;
  ModelShape& shape = options.shape;
  TrainingSetting& training = options.training;
  return {
      {"--data", "DIR", "folder with a text, or with a folder tinyshakespeare; none: generated",
       "a folder, or none", [&](Value value) { return options.data = value, !value.empty(); }},
      {"--layers", "L", "of the model (2)", "a whole number from 1",
       [&](Value value) { return parse_number<std::int64_t>(value, 1, shape.layers); }},
      {"--channels", "C", "of the residual stream (64)", "a whole number from 1",
       [&](Value value) { return parse_number<std::int64_t>(value, 1, shape.channels); }},
      {"--heads", "H", "of the attention (4)", "a whole number from 1",
       [&](Value value) { return parse_number<std::int64_t>(value, 1, shape.heads); }},
      {"--context", "T", "tokens of a sequence, best a multiple of 32 (64)",
       "a whole number from 1",
       [&](Value value) { return parse_number<std::int64_t>(value, 1, shape.context); }},
      {"--batch", "B", "sequences of a step, of all ranks together (16)", "a whole number from 1",
       [&](Value value) { return parse_number<std::int64_t>(value, 1, training.batch); }},
      {"--steps", "N", "training steps (1200)", "a whole number from 0",
       [&](Value value) { return parse_number<std::int64_t>(value, 0, training.steps); }},
      {"--learning-rate", "R", "at its peak (0.003)", "a number from 0",
       [&](Value value) { return parse_number(value, 0.0, training.learning_rate); }},
      {"--seeds", "S,...", "of weights, batches and rounding, one run for each (0)",
       "whole numbers from 0 to 2^64 - 1 with commas between them",
       [&](Value value) {
         options.seeds.clear();
         return parse_list(value, [&](Value item) {
           return parse_number<std::uint64_t>(item, 0, options.seeds.emplace_back());
         });
       }},
      {"--threads", "T", "processor threads, of each rank (all)", "a whole number from 1 to 1024",
       [&](Value value) {
         return parse_number(value, 1, options.threads) && options.threads <= 1024;
       }},
      {"--validation-windows", "N", "sequences of the validation text (256)",
       "a whole number from 1",
       [&](Value value) {
         return parse_number<std::int64_t>(value, 1, options.validation_windows);
       }},
      {"--bits", "32|8|4|2|1", "one way at this width, 32: full precision; else the comparison",
       "32, 8, 4, 2 or 1", [&](Value value) { return parse_width(value, options.bits); }},
      {"--average-bits", "B", "one way with widths by tensor, B bits a value on average",
       "a number from 1 to 8",
       [&](Value value) {
         return parse_number(value, 1.0, options.average_bits) && options.average_bits <= 8;
       }},
      {"--keep", "KIND=W,...", "another width for some kinds of tensors; wants --bits",
       "KIND=W with commas between several, KIND attention-input, query, key, value, "
       "attention-output, mlp-input, gelu or mlp-output, W 32, 8, 4, 2 or 1",
       [&](Value value) {
         return parse_list(value,
                           [&](Value item) { return parse_exception(item, options.exceptions); });
       }},
      {"--gelu", "FORM", "what the GELU keeps: derivative, input or input-with-sign (derivative)",
       "derivative, input or input-with-sign",
       [&](Value value) { return parse_gelu(value, options.gelu); }},
      {"--decode", "plain|subtractive", "subtractive takes the dither out again (subtractive)",
       "plain or subtractive",
       [&](Value value) {
         return parse_choice(value, "subtractive", "plain", options.is_subtractive);
       }},
      {"--rounding", "stochastic|nearest", "how values become codes (stochastic)",
       "stochastic or nearest",
       [&](Value value) {
         return parse_choice(value, "stochastic", "nearest", options.is_stochastic);
       }},
      {"--check-gradient", "K", "instead: error and bias of K gradients, kind by kind",
       "an even number from 2",
       [&](Value value) {
         return parse_number<std::int64_t>(value, 2, options.check_gradient) &&
                options.check_gradient % 2 == 0;
       }},
      {"--memory-budget", "MiB", "instead: the largest batch and depth whose step fits",
       "a number above 0",
       [&](Value value) {
         return parse_number(value, 0.0, options.memory_budget) && options.memory_budget > 0;
       }},
      {"--json", "FILE", "results of the training runs", "a file name",
       [&](Value value) { return options.json = value, !value.empty(); }},
  };
}

inline std::string help() {
  Options options;
  const std::string text =
      "Trains a small transformer on bytes of text and keeps its activations in two bits.\n"
      "Without --bits and --average-bits: full precision, 8, 4 and 2 bits, and 2 bits on average,\n"
      "in one table. Under mpirun, ranks share each batch.\n\n";
  return text + trainer::describe(flags(options));
}

// Throws OptionError for flags that do not go together.
inline void require_consistent(const Options& options) {
  if (options.shape.channels % options.shape.heads != 0) {
    throw OptionError("--channels " + std::to_string(options.shape.channels) +
                      ": expected a multiple of --heads " + std::to_string(options.shape.heads));
  }
  if (options.bits != 0 && options.average_bits != 0) {
    throw OptionError("--average-bits: does not go with --bits");
  }
  if (!options.exceptions.empty() && options.bits == 0) {
    throw OptionError("--keep: wants --bits");
  }
  if (options.gelu != Keeping::Gelu::derivative && options.bits == 0) {
    throw OptionError("--gelu: wants --bits");
  }
  if (options.check_gradient > 0 && !options.is_stochastic) {
    throw OptionError("--check-gradient: wants stochastic rounding, or all gradients are the same");
  }
}

// Throws OptionError, in one line with flag and value, for what it does not understand.
inline Options parse_options(std::span<const char* const> arguments) {
  Options options;
  options.wants_help = !trainer::set_flags(flags(options), arguments);
  if (!options.wants_help) {
    require_consistent(options);
  }
  return options;
}

}  // namespace gpt
