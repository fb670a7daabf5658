// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The flags, one by one.

#include "train_gpt/options.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <string_view>

namespace gpt {

using namespace trainer;

namespace {

// Calls parse(item) for the items between commas, until one is refused.
template <class Parse>
bool parse_list(std::string_view text, const Parse& parse) {
  const std::size_t comma = text.find(',');
  return parse(text.substr(0, comma)) &&
         (comma == std::string_view::npos || parse_list(text.substr(comma + 1), parse));
}

// kind=width
bool parse_exception(std::string_view text, std::vector<std::pair<Kind, int>>& exceptions) {
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

// The opposite of parse_list: text_of(item) for all items, with commas between them.
template <class T, class TextOf>
std::string list_of(const std::vector<T>& items, const TextOf& text_of) {
  std::string text;
  for (const T& item : items) {
    text += (text.empty() ? "" : ",") + text_of(item);
  }
  return text;
}

using GeluName = std::pair<std::string_view, SavePolicy::Gelu>;
constexpr std::array<GeluName, 3> gelu_names = {
    GeluName{"derivative", SavePolicy::Gelu::derivative},
    {"input", SavePolicy::Gelu::input},
    {"input-with-sign", SavePolicy::Gelu::input_with_sign}};

bool parse_gelu(std::string_view text, SavePolicy::Gelu& gelu) {
  const auto found = std::ranges::find(gelu_names, text, &GeluName::first);
  if (found == gelu_names.end()) {
    return false;
  }
  gelu = found->second;
  return true;
}

// Throws OptionError for flags that do not go together.
void require_consistent(const Options& options) {
  if (options.shape.channels % options.shape.heads != 0) {
    throw OptionError("--channels " + std::to_string(options.shape.channels) +
                      ": expected a multiple of --heads " + std::to_string(options.shape.heads));
  }
  options.checkpoint.require_consistent(options.training.steps > 0, options.json);
  if (options.bits != 0 && options.average_bits != 0) {
    throw OptionError("--average-bits: does not go with --bits");
  }
  if (!options.exceptions.empty() && options.bits == 0) {
    throw OptionError("--keep: wants --bits");
  }
  if (options.gelu != SavePolicy::Gelu::derivative && options.bits == 0) {
    throw OptionError("--gelu: wants --bits");
  }
}

}  // namespace

std::vector<Flag> flags(Options& options) {
  using Value = std::string_view;
  ModelShape& shape = options.shape;
  TrainingSetting& training = options.training;
  return {
      path_flag("--data", "DIR",
                "folder with a text, or with a folder tinyshakespeare; none: generated",
                "a folder, or none", options.data),
      number_flag("--layers", "L", "of the model (2)", shape.layers, 1, 1000),
      number_flag("--channels", "C", "of the residual stream (64)", shape.channels, 1, 16384),
      number_flag("--heads", "H", "of the attention (4)", shape.heads, 1, 1024),
      number_flag("--context", "T", "tokens of a sequence, best a multiple of 32 (64)",
                  shape.context, 1, 16384),
      number_flag("--batch", "B", "sequences of a step, of all ranks together (16)", training.batch,
                  1, 65536),
      number_flag("--steps", "N", "training steps (1200)", training.steps, 0, 1'000'000'000),
      number_flag("--learning-rate", "R", "at its peak (0.003)", training.learning_rate, 0, 10),
      {"--seeds", "S,...", "of weights, batches and rounding, one run for each (0)",
       "whole numbers from 0 to 2^64 - 1 with commas between them",
       [&](Value value) {
         options.seeds.clear();
         return parse_list(value, [&](Value item) {
           return parse_number(item, 0, ~std::uint64_t{0}, options.seeds.emplace_back());
         });
       },
       [&] { return list_of(options.seeds, text_of<std::uint64_t>); }},
      threads_flag("processor threads, of each rank (all)", options.threads),
      number_flag("--validation-windows", "N", "sequences of the validation text (256)",
                  options.validation_windows, 1, 100'000),
      {"--bits", "32|8|4|2|1", "one way at this width, 32: full precision; else the comparison",
       "32, 8, 4, 2 or 1", [&](Value value) { return parse_width(value, options.bits); },
       [&] { return options.bits == 0 ? "of the comparison" : text_of(options.bits); }},
      number_flag("--average-bits", "B", "one way with widths by tensor, B bits a value on average",
                  options.average_bits, 1, 8),
      {"--keep", "KIND=W,...", "another width for some kinds of tensors; wants --bits",
       "KIND=W with commas between several, KIND attention-input, query, key, value, "
       "attention-output, mlp-input, gelu or mlp-output, W 32, 8, 4, 2 or 1",
       [&](Value value) {
         return parse_list(value,
                           [&](Value item) { return parse_exception(item, options.exceptions); });
       },
       [&] {
         return list_of(options.exceptions, [](const auto& exception) {
           return std::string(kind_names[index_of(exception.first)]) + "=" +
                  text_of(exception.second);
         });
       }},
      {"--gelu", "FORM", "what the GELU keeps: derivative, input or input-with-sign (derivative)",
       "derivative, input or input-with-sign",
       [&](Value value) { return parse_gelu(value, options.gelu); },
       [&] {
         return std::string(std::ranges::find(gelu_names, options.gelu, &GeluName::second)->first);
       }},
      decode_flag(options.is_subtractive),
      rounding_flag(options.is_stochastic),
  };
}

std::vector<Flag> training_flags(Options& options) {
  std::vector<Flag> all = flags(options);
  all.push_back(
      path_flag("--json", "FILE", "results of the training runs", "a file name", options.json));
  std::ranges::move(checkpoint_flags(options.checkpoint), std::back_inserter(all));
  return all;
}

std::string help() {
  Options options;
  const std::string text =
      "Trains a small transformer on bytes of text and keeps its activations in two bits.\n"
      "Without --bits and --average-bits: full precision, 8, 4 and 2 bits, and 2 bits on average,\n"
      "in one table. Under mpirun, ranks share each batch.\n\n";
  return text + describe(training_flags(options));
}

bool set_options(Options& options, const std::vector<Flag>& known,
                 std::span<const char* const> arguments) {
  const bool is_set = set_flags(known, arguments);
  if (is_set) {
    require_consistent(options);
  }
  return is_set;
}

Options parse_options(std::span<const char* const> arguments) {
  Options options;
  options.wants_help = !set_options(options, training_flags(options), arguments);
  return options;
}

}  // namespace gpt
