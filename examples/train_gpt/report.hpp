// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results: tables for people, a JSON file for programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "common/json.hpp"
#include "train_gpt/options.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/training.hpp"

namespace gpt {

// One way to save activations, and its results with each seed.
struct Way {
  std::string name;
  SavePolicy policy;
  std::vector<TrainingReport> reports;
  std::vector<double> validation_losses;  // nats a byte
  std::int64_t peak_bytes = 0;            // of one step, without training
  std::int64_t saved_bytes = 0;

  // What its trainings found out.
  void visit(trainer::Checkpoint& checkpoint) {
    std::size_t runs = reports.size();
    checkpoint.visit("runs", runs);
    reports.resize(runs);
    for (TrainingReport& report : reports) {
      report.visit(checkpoint);
    }
    checkpoint.visit("validation losses", validation_losses);
    checkpoint.visit("peak bytes", peak_bytes);
    checkpoint.visit("saved bytes", saved_bytes);
  }
};

using trainer::format;
using trainer::json_array;
using trainer::json_numbers;
using trainer::json_object;
using trainer::number;
using trainer::quoted;

inline double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) {
    sum += value;
  }
  return sum / static_cast<double>(values.size());
}

inline std::string ratio(std::int64_t whole, std::int64_t part) {
  return format("%.2fx", static_cast<double>(whole) / static_cast<double>(part));
}

inline double seconds_per_step(const Way& way) {
  double seconds = 0;
  std::size_t steps = 0;
  for (const TrainingReport& report : way.reports) {
    seconds += report.seconds;
    steps += report.losses.size();
  }
  return steps == 0 ? 0 : seconds / static_cast<double>(steps);
}

inline double codec_share(const Way& way) {
  double seconds = 0;
  double codec_seconds = 0;
  for (const TrainingReport& report : way.reports) {
    seconds += report.seconds;
    codec_seconds += report.codec_seconds;
  }
  return seconds == 0 ? 0 : codec_seconds / seconds;
}

inline std::string way_object(const Way& way) {
  std::vector<std::string> runs;
  for (const TrainingReport& report : way.reports) {
    runs.push_back(json_object(
        {{"widths", json_numbers(report.widths)}, {"losses", json_numbers(report.losses)}}));
  }
  return json_object({{"name", quoted(way.name)},
                      {"validation_losses", json_numbers(way.validation_losses)},
                      {"stored_bytes", std::to_string(way.saved_bytes)},
                      {"peak_bytes", std::to_string(way.peak_bytes)},
                      {"seconds_per_step", number(seconds_per_step(way))},
                      {"codec_share", number(codec_share(way))},
                      {"runs", json_array(runs, 8)}},
                     6);
}

// The ways that were asked for, with nothing measured yet.
inline std::vector<Way> planned_ways(const Options& options) {
  std::vector<Way> ways;
  const auto plan = [&](const std::string& name, const SavePolicy& policy) {
    ways.emplace_back();
    ways.back().name = name;
    ways.back().policy = options.adapted(policy);
  };
  if (options.average_bits > 0) {
    plan(format("%g bits on average", options.average_bits),
         SavePolicy::on_average(options.average_bits));
  } else if (options.bits != 0) {
    plan(options.bits == SavePolicy::full_precision ? "full precision"
                                                    : format("%d bits", options.bits),
         SavePolicy::shipped(options.bits));
  } else {
    plan("full precision", SavePolicy::all(SavePolicy::full_precision));
    for (const int bits : {8, 4, 2}) {
      plan(format("%d bits", bits), SavePolicy::shipped(bits));
    }
    plan("2 bits on average", SavePolicy::on_average(2));
  }
  return ways;
}

// `stored` and `peak` are full precision's bytes.
inline void print_table(const std::vector<Way>& ways, std::int64_t stored, std::int64_t peak,
                        std::ostream& out) {
  out << format("%-26s %9s %9s %8s %9s %8s %8s %7s  %s\n", "activations kept in", "loss",
                "stored MB", "ratio", "peak MB", "ratio", "ms/step", "codec %", "loss by seed");
  for (const Way& way : ways) {
    out << format("%-26s %9.4f %9.3f %8s %9.3f %8s %8.2f %7.1f ", way.name.c_str(),
                  mean_of(way.validation_losses), 1e-6 * static_cast<double>(way.saved_bytes),
                  ratio(stored, way.saved_bytes).c_str(),
                  1e-6 * static_cast<double>(way.peak_bytes), ratio(peak, way.peak_bytes).c_str(),
                  1e3 * seconds_per_step(way), 100 * codec_share(way));
    for (const double loss : way.validation_losses) {
      out << format(" %.4f", loss);
    }
    out << "\n";
  }
  out << "loss: of the validation text, nats a byte. stored: what waits for the backward pass; "
         "peak: the\n"
         "most at any moment of a step. Both beyond what was there before the step: parameters, "
         "optimizer,\n"
         "the threads' scratch. ratio: to the same tensors in float.\n";
  for (const Way& way : ways) {
    if (way.reports.empty() || way.reports.back().widths.empty()) {
      continue;
    }
    out << way.name << ", the last widths by layer (";
    for (std::size_t kind = 0; kind < kinds; ++kind) {
      out << (kind == 0 ? "" : ", ") << kind_names[kind];
    }
    out << "):";
    const std::vector<int>& widths = way.reports.back().widths;
    for (std::size_t tensor = 0; tensor < widths.size(); ++tensor) {
      out << (tensor % kinds == 0 ? "\n " : "") << ' ' << widths[tensor];
    }
    out << "\n";
  }
}

inline void write_json(const Options& options, const std::string& data,
                       const std::vector<Way>& ways, std::ostream& out) {
  const ModelShape& shape = options.shape;
  std::vector<std::string> way_objects;
  way_objects.reserve(ways.size());
  for (const Way& way : ways) {
    way_objects.push_back(way_object(way));
  }
  out << json_object({{"data", quoted(data)},
                      {"layers", std::to_string(shape.layers)},
                      {"channels", std::to_string(shape.channels)},
                      {"heads", std::to_string(shape.heads)},
                      {"context", std::to_string(shape.context)},
                      {"batch", std::to_string(options.training.batch)},
                      {"steps", std::to_string(options.training.steps)},
                      {"learning_rate", number(options.training.learning_rate)},
                      {"threads", std::to_string(options.threads)},
                      {"seeds", json_numbers(options.seeds)},
                      {"ways", json_array(way_objects, 4)}},
                     2)
      << "\n";
}

}  // namespace gpt
