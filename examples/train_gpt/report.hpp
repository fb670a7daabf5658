// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a run has to show for itself: tables for people, a JSON file for programs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "../train_fashion_mnist/report.hpp"
#include "budget.hpp"
#include "gradient_check.hpp"
#include "keeping.hpp"
#include "options.hpp"
#include "training.hpp"

namespace gpt {

using trainer::format;
using trainer::number;
using trainer::quoted;

// One way to keep activations, and what became of it with each seed.
struct Way {
  std::string name;
  Keeping keeping;
  std::vector<TrainingReport> reports;
  std::vector<double> validation_losses;  // nats a byte
  std::int64_t peak_bytes = 0;            // of one step, without training
  std::int64_t stored_bytes = 0;
};

inline std::string describe(const Keeping& keeping) {
  if (keeping.average_bits > 0) {
    return format("%g bits on average", keeping.average_bits);
  }
  if (std::ranges::count(keeping.bits, Keeping::full_precision) ==
      static_cast<std::ptrdiff_t>(kinds)) {
    return "full precision";
  }
  std::string text;
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    text += (kind == 0 ? "" : " ") + std::to_string(keeping.bits[kind]);
  }
  return text;
}

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

// `stored` and `peak` are full precision's bytes.
inline void print_table(const std::vector<Way>& ways, std::int64_t stored, std::int64_t peak,
                        std::ostream& out) {
  out << format("%-26s %9s %9s %8s %9s %8s %8s %7s  %s\n", "activations kept in", "loss",
                "stored MB", "ratio", "peak MB", "ratio", "ms/step", "codec %", "loss by seed");
  for (const Way& way : ways) {
    out << format("%-26s %9.4f %9.3f %8s %9.3f %8s %8.2f %7.1f ", way.name.c_str(),
                  mean_of(way.validation_losses), 1e-6 * static_cast<double>(way.stored_bytes),
                  ratio(stored, way.stored_bytes).c_str(),
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

inline void print_gradient_heading(std::int64_t draws, std::ostream& out) {
  out << format("%-34s %9s %9s %12s %9s %8s %5s\n", "rounded", "stored MB", "error",
                format("mean of %lld", static_cast<long long>(draws)).c_str(), "bias", "excess",
                "+-");
}
inline void print_gradient_report(const GradientReport& report, std::ostream& out) {
  out << format("%-34s %9.3f %9.4f %12.4f %9.4f %8.2f %5.2f\n", report.name.c_str(),
                1e-6 * static_cast<double>(report.stored_bytes), report.error_of_one,
                report.error_of_mean, report.bias(), report.excess, report.excess_deviation);
  out.flush();
}
inline void print_gradient_legend(std::ostream& out) {
  out << "Relative to the exact gradient's norm. error: of one rounding; bias: what remains of the "
         "mean's\n"
         "error without its noise. excess: the mean's squared error over what noise alone makes "
         "of it:\n"
         "1 without bias, +- its standard deviation.\n";
}

inline void print_budget_row(const std::string& name, const BudgetReport& report,
                             std::ostream& out) {
  out << format("%-26s %10lld %10lld\n", name.c_str(), static_cast<long long>(report.sequences),
                static_cast<long long>(report.layers));
  out.flush();
}

template <class T>
std::string json_list(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) {
    text += (text.size() == 1 ? "" : ", ") + number(static_cast<double>(value));
  }
  return text + "]";
}

inline void write_json(const Options& options, const std::string& data,
                       const std::vector<Way>& ways, std::ostream& out) {
  const ModelShape& shape = options.shape;
  out << "{\n  \"data\": " << quoted(data) << ",\n  \"layers\": " << shape.layers
      << ",\n  \"channels\": " << shape.channels << ",\n  \"heads\": " << shape.heads
      << ",\n  \"context\": " << shape.context << ",\n  \"batch\": " << options.training.batch
      << ",\n  \"steps\": " << options.training.steps
      << ",\n  \"learning_rate\": " << number(options.training.learning_rate)
      << ",\n  \"threads\": " << options.threads << ",\n  \"seeds\": " << json_list(options.seeds)
      << ",\n  \"ways\": [";
  const char* separator = "\n";
  for (const Way& way : ways) {
    out << separator << "    {\n      \"name\": " << quoted(way.name)
        << ",\n      \"validation_losses\": " << json_list(way.validation_losses)
        << ",\n      \"stored_bytes\": " << way.stored_bytes
        << ",\n      \"peak_bytes\": " << way.peak_bytes
        << ",\n      \"seconds_per_step\": " << number(seconds_per_step(way))
        << ",\n      \"codec_share\": " << number(codec_share(way)) << ",\n      \"runs\": [";
    const char* run_separator = "\n";
    for (const TrainingReport& report : way.reports) {
      out << run_separator << "        {\"widths\": " << json_list(report.widths)
          << ", \"losses\": " << json_list(report.losses) << "}";
      run_separator = ",\n";
    }
    out << "\n      ]\n    }";
    separator = ",\n";
  }
  out << "\n  ]\n}\n";
}

}  // namespace gpt
