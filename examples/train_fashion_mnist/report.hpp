// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results of training runs: tables for people, a JSON file for programs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "common/data.hpp"
#include "common/json.hpp"
#include "common/step_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/options.hpp"

namespace trainer {

struct Run : TrainingReport {
  std::string name;
  Codec codec;
  double test_accuracy = 0;  // in percent
  std::int64_t saved_bytes_fp32 = 0;
  std::int64_t saved_bytes_lean = 0;
  double seconds_per_epoch = 0;
  double codec_seconds_per_epoch = 0;

  // What its training found out.
  void visit(Checkpoint& checkpoint) {
    TrainingReport::visit(checkpoint);
    checkpoint.visit("test accuracy", test_accuracy);
    checkpoint.visit("seconds per epoch", seconds_per_epoch);
    checkpoint.visit("codec seconds per epoch", codec_seconds_per_epoch);
  }
};

inline std::string run_object(const Run& run) {
  const Codec& codec = run.codec;
  const bool is_full = codec.context == Codec::Context::full_precision;
  const auto word = [&](bool is_first, const char* first, const char* second) {
    return quoted(is_full ? "none" : is_first ? first : second);
  };
  return json_object({{"name", quoted(run.name)},
                      {"bits", number(is_full                  ? 32
                                      : codec.average_bits > 0 ? codec.average_bits
                                                               : codec.bits)},
                      {"context", quoted(name_of(codec.context))},
                      {"decode", word(codec.is_subtractive, "subtractive", "plain")},
                      {"rounding", word(codec.is_stochastic, "stochastic", "nearest")},
                      {"range", word(codec.has_tensor_range, "tensor", "group")},
                      {"group_size", std::to_string(codec.group_size)},
                      {"test_accuracy", number(run.test_accuracy)},
                      {"saved_bytes", std::to_string(run.saved_bytes)},
                      {"saved_bytes_fp32", std::to_string(run.saved_bytes_fp32)},
                      {"saved_bytes_lean", std::to_string(run.saved_bytes_lean)},
                      {"peak_bytes", std::to_string(run.peak_bytes)},
                      {"seconds_per_epoch", number(run.seconds_per_epoch)},
                      {"codec_seconds_per_epoch", number(run.codec_seconds_per_epoch)},
                      {"loss", json_numbers(run.losses)}},
                     6);
}

// The runs that were asked for, with names and codecs and nothing measured yet.
inline std::vector<Run> planned_runs(const Options& options) {
  std::vector<Run> runs;
  const auto plan = [&](const std::string& name, const Codec& codec) {
    runs.emplace_back();
    runs.back().name = name;
    runs.back().codec = codec;
  };
  if (!options.compares) {
    plan(describe(options.codec), options.codec);
    return runs;
  }
  Codec actnn;
  actnn.context = Codec::Context::affine;
  actnn.is_subtractive = false;
  Codec coarse = actnn;
  coarse.is_stochastic = false;
  coarse.has_tensor_range = true;
  plan("full precision", Codec::full_precision());
  plan("actpack: " + describe(options.codec), options.codec);
  plan("ActNN's way: " + describe(actnn), actnn);
  plan(describe(coarse), coarse);
  return runs;
}

// The width of the tables' first column.
inline int name_width(const std::vector<Run>& runs) {
  std::size_t width = 28;
  for (const Run& run : runs) {
    width = std::max(width, run.name.size());
  }
  return static_cast<int>(width);
}

inline void print_table(const std::vector<Run>& runs, std::ostream& out) {
  const auto ratio = [](std::int64_t whole, std::int64_t part) {
    return format("%.2fx", static_cast<double>(whole) / static_cast<double>(part));
  };
  const int width = name_width(runs);
  out << format("%-*s %8s %9s %8s %8s %8s %8s %8s %7s\n", width, "activations kept as", "accuracy",
                "saved MB", "vs full", "vs lean", "peak MB", "s/epoch", "codec s", "codec %");
  for (const Run& run : runs) {
    const double codec_share =
        run.seconds_per_epoch > 0 ? 100 * run.codec_seconds_per_epoch / run.seconds_per_epoch : 0;
    out << format("%-*s %7.2f%% %9.3f %8s %8s %8.2f %8.2f %8.2f %6.1f%%\n", width, run.name.c_str(),
                  run.test_accuracy, 1e-6 * static_cast<double>(run.saved_bytes),
                  ratio(run.saved_bytes_fp32, run.saved_bytes).c_str(),
                  ratio(run.saved_bytes_lean, run.saved_bytes).c_str(),
                  1e-6 * static_cast<double>(run.peak_bytes), run.seconds_per_epoch,
                  run.codec_seconds_per_epoch, codec_share);
  }
  out << "saved: live between forward and backward pass; peak: the most live in a step. Both are "
         "the\n"
         "allocator's, less what was there before the step, which is the same in every run.\n"
         "full: every tensor that an autograd framework keeps; lean: one float copy per block.\n";
}

inline void write_json(const Options& options, const std::string& data,
                       const std::vector<Run>& runs, std::ostream& out) {
  std::vector<std::string> run_objects;
  run_objects.reserve(runs.size());
  for (const Run& run : runs) {
    run_objects.push_back(run_object(run));
  }
  out << json_object({{"data", quoted(data)},
                      {"epochs", std::to_string(options.epochs)},
                      {"seed", std::to_string(options.seed)},
                      {"depth", std::to_string(options.depth)},
                      {"threads", std::to_string(options.threads)},
                      {"runs", json_array(run_objects, 4)}},
                     2)
      << "\n";
}

}  // namespace trainer
