// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a run has to show for itself: the table for people, the JSON file for programs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <ostream>
#include <string>
#include <vector>

#include "codec.hpp"
#include "gradient_check.hpp"
#include "options.hpp"
#include "variance_check.hpp"
#include "width_comparison.hpp"

namespace trainer {

struct Run {
  std::string name;
  Codec codec;
  double test_accuracy = 0;  // in percent
  std::int64_t saved_bytes = 0;
  std::int64_t saved_bytes_fp32 = 0;
  std::int64_t saved_bytes_lean = 0;
  std::int64_t peak_bytes = 0;
  double seconds_per_epoch = 0;
  double codec_seconds_per_epoch = 0;
  std::vector<double> losses;
  std::vector<GradientError> gradient_error;
  std::int64_t largest_batch = 0;  // within the memory budget, at the depth that was asked for
  std::int64_t largest_depth = 0;  // the same with batches of the usual size
};

// printf into a string.
[[gnu::format(printf, 1, 2)]] inline std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

inline std::string form_name(Codec::Form form) {
  switch (form) {
    case Codec::Form::full_precision: return "full-precision";
    case Codec::Form::lean: return "lean";
    case Codec::Form::affine: return "affine";
    case Codec::Form::sign_magnitude: return "sign-magnitude";
  }
  return "";
}

inline std::string describe(const Codec& codec) {
  if (codec.form == Codec::Form::full_precision) {
    return "full precision";
  }
  return form_name(codec.form) +
         (codec.average_bits > 0 ? format(" %g-bit on average", codec.average_bits)
                                 : format(" %d-bit", codec.bits)) +
         (codec.is_stochastic ? (codec.is_subtractive ? " subtractive" : " plain") : " nearest") +
         (codec.has_tensor_range ? ", one range" : format(", group %d", codec.group_size));
}

// The first column of the tables.
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

inline void print_gradient_errors(const std::vector<Run>& runs, std::ostream& out) {
  const int width = name_width(runs);
  out << format("%-*s", width, "gradient error, mean of k =");
  for (const GradientError& error : runs.front().gradient_error) {
    out << format(" %8lld", static_cast<long long>(error.k));
  }
  out << "\n";
  for (const Run& run : runs) {
    out << format("%-*s", width, run.name.c_str());
    for (const GradientError& error : run.gradient_error) {
      out << format(" %8.4f", error.error);
    }
    out << "\n";
  }
}

inline void print_budget(const std::vector<Run>& runs, std::int64_t budget_mib, std::int64_t depth,
                         std::int64_t batch, std::ostream& out) {
  const int width = name_width(runs);
  out << format("%-*s %14s %16s\n", width,
                ("within " + std::to_string(budget_mib) + " MiB").c_str(),
                ("batch, depth " + std::to_string(depth)).c_str(),
                ("depth, batch " + std::to_string(batch)).c_str());
  for (const Run& run : runs) {
    out << format("%-*s %14lld %16lld\n", width, run.name.c_str(),
                  static_cast<long long>(run.largest_batch),
                  static_cast<long long>(run.largest_depth));
  }
}

inline std::string quantity_name(VarianceReport::Quantity quantity) {
  switch (quantity) {
    case VarianceReport::Quantity::weight_gradient: return "weight gradient";
    case VarianceReport::Quantity::gradient_one_rounding: return "input gradient, one rounding";
    case VarianceReport::Quantity::gradient_two_roundings: return "input gradient, two roundings";
  }
  return "";
}

inline void print_variances(const std::vector<VarianceReport>& reports, std::ostream& out) {
  out << format("%-13s %-43s %9s %7s %7s %7s %7s %6s %5s\n", "variance of", "rounded as",
                "measured", "+- %", "ranges", "noise", "values", "bias", "+-");
  const VarianceReport* previous = nullptr;
  for (const VarianceReport& report : reports) {
    if (previous == nullptr || previous->quantity != report.quantity) {
      out << quantity_name(report.quantity) << ":\n";
    }
    previous = &report;
    out << format("%-13s %-43s %9.3e %7.2f %7.3f %7.3f %7.3f %6.2f %5.2f\n", report.layer.c_str(),
                  describe(report.codec).c_str(), report.measured,
                  100 * report.standard_error / report.measured,
                  report.from_ranges / report.measured, report.from_mean_gain / report.measured,
                  report.from_values / report.measured, report.mean_error,
                  report.mean_error_deviation);
  }
  out << "predicted / measured, by ranges: from the groups' ranges and mean gains, ActNN's model; "
         "noise:\n"
         "from measured noise and mean gains; values: from noise and gains value by value.\n"
         "bias: draws x squared error of the mean / variance, 1 without bias. +-: standard "
         "errors.\n";
}

inline std::string policy_name(WidthPolicy policy) {
  switch (policy) {
    case WidthPolicy::uniform: return "uniform";
    case WidthPolicy::per_layer: return "per layer";
    case WidthPolicy::per_sample: return "per sample";
    case WidthPolicy::per_group: return "per group";
    case WidthPolicy::actnn: return "ActNN's sensitivities";
    case WidthPolicy::gradients_known: return "per sample, gradients known";
  }
  return "";
}

inline void print_widths(const std::vector<WidthReport>& reports, std::ostream& out) {
  const double* previous = nullptr;
  for (const WidthReport& report : reports) {
    if (previous == nullptr || *previous != report.average_bits) {
      out << format(
          "%-28s %9s %9s %6s %7s %6s %9s  %s\n",
          format("%s, %g bits", describe(report.codec).c_str(), report.average_bits).c_str(),
          "bytes", "variance", "+- %", "ratio", "+-", "predicted", "bits by tensor");
    }
    previous = &report.average_bits;
    out << format("%-28s %9lld %9.3e %6.2f %7.4f %6.4f %9.3f ", policy_name(report.policy).c_str(),
                  static_cast<long long>(report.stored_bytes), report.measured,
                  100 * report.standard_error / report.measured, report.ratio, report.ratio_error,
                  report.predicted / report.measured);
    for (const double bits : report.bits_by_tensor) {
      out << format(" %5.2f", bits);
    }
    out << "\n";
  }
  out << "ratio: to uniform's variance, in at most its stored bytes; predicted / measured, with "
         "gains\n"
         "of tensors as other batches have them; tensors: a layer's input, its batch norm's, and "
         "so "
         "on.\n+-: standard errors.\n";
}

// JSON's quoted string, and its number (which has no infinities).
inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}
inline std::string number(double value) {
  return std::isfinite(value) ? format("%.9g", value) : "null";
}

inline std::string drawn_fields(const DrawnVariance& variance) {
  return ", \"measured\": " + number(variance.measured) +
         ", \"standard_error\": " + number(variance.standard_error) +
         ", \"mean_error\": " + number(variance.mean_error) +
         ", \"mean_error_deviation\": " + number(variance.mean_error_deviation);
}

inline void write_variances(const std::vector<VarianceReport>& reports, std::ostream& out) {
  out << ",\n  \"variance\": [";
  const char* separator = "\n";
  for (const VarianceReport& report : reports) {
    out << separator << "    {\"layer\": " << quoted(report.layer)
        << ", \"quantity\": " << quoted(quantity_name(report.quantity))
        << ", \"codec\": " << quoted(describe(report.codec)) << drawn_fields(report)
        << ", \"from_ranges\": " << number(report.from_ranges)
        << ", \"from_mean_gain\": " << number(report.from_mean_gain)
        << ", \"from_values\": " << number(report.from_values) << "}";
    separator = ",\n";
  }
  out << "\n  ]";
}

inline void write_widths(const std::vector<WidthReport>& reports, std::ostream& out) {
  out << ",\n  \"widths\": [";
  const char* separator = "\n";
  for (const WidthReport& report : reports) {
    out << separator << "    {\"policy\": " << quoted(policy_name(report.policy))
        << ", \"codec\": " << quoted(describe(report.codec))
        << ", \"average_bits\": " << number(report.average_bits)
        << ", \"stored_bytes\": " << report.stored_bytes << drawn_fields(report)
        << ", \"ratio\": " << number(report.ratio)
        << ", \"ratio_error\": " << number(report.ratio_error)
        << ", \"predicted\": " << number(report.predicted) << ", \"bits_by_tensor\": [";
    for (const double& bits : report.bits_by_tensor) {
      out << (&bits == &report.bits_by_tensor.front() ? "" : ", ") << number(bits);
    }
    out << "]}";
    separator = ",\n";
  }
  out << "\n  ]";
}

inline void write_json(const Options& options, const std::string& data,
                       const std::vector<Run>& runs, std::ostream& out,
                       const std::vector<VarianceReport>& variances = {},
                       const std::vector<WidthReport>& widths = {}) {
  out << "{\n  \"data\": " << quoted(data) << ",\n  \"epochs\": " << options.epochs
      << ",\n  \"seed\": " << options.seed << ",\n  \"depth\": " << options.depth
      << ",\n  \"threads\": " << options.threads << ",\n  \"runs\": [";
  const char* separator = "\n";
  for (const Run& run : runs) {
    const bool is_full = run.codec.form == Codec::Form::full_precision;
    out << separator << "    {\n      \"name\": " << quoted(run.name) << ",\n      \"bits\": "
        << (is_full                      ? 32
            : run.codec.average_bits > 0 ? run.codec.average_bits
                                         : run.codec.bits)
        << ",\n      \"context\": " << quoted(form_name(run.codec.form)) << ",\n      \"decode\": "
        << quoted(is_full                    ? "none"
                  : run.codec.is_subtractive ? "subtractive"
                                             : "plain")
        << ",\n      \"rounding\": "
        << quoted(is_full                   ? "none"
                  : run.codec.is_stochastic ? "stochastic"
                                            : "nearest")
        << ",\n      \"range\": "
        << quoted(is_full                      ? "none"
                  : run.codec.has_tensor_range ? "tensor"
                                               : "group")
        << ",\n      \"group_size\": " << run.codec.group_size
        << ",\n      \"test_accuracy\": " << number(run.test_accuracy)
        << ",\n      \"saved_bytes\": " << run.saved_bytes
        << ",\n      \"saved_bytes_fp32\": " << run.saved_bytes_fp32
        << ",\n      \"saved_bytes_lean\": " << run.saved_bytes_lean
        << ",\n      \"peak_bytes\": " << run.peak_bytes
        << ",\n      \"seconds_per_epoch\": " << number(run.seconds_per_epoch)
        << ",\n      \"codec_seconds_per_epoch\": " << number(run.codec_seconds_per_epoch);
    if (options.check_gradient > 0) {
      out << ",\n      \"gradient_error\": [";
      for (const GradientError& error : run.gradient_error) {
        out << (&error == &run.gradient_error.front() ? "" : ", ") << "{\"k\": " << error.k
            << ", \"error\": " << number(error.error) << "}";
      }
      out << "]";
    }
    if (options.memory_budget > 0) {
      out << ",\n      \"memory_budget_mib\": " << options.memory_budget
          << ",\n      \"largest_batch\": " << run.largest_batch
          << ",\n      \"largest_depth\": " << run.largest_depth;
    }
    out << ",\n      \"loss\": [";
    for (const double& loss : run.losses) {
      out << (&loss == &run.losses.front() ? "" : ", ") << number(loss);
    }
    out << "]\n    }";
    separator = ",\n";
  }
  out << "\n  ]";
  if (!variances.empty()) {
    write_variances(variances, out);
  }
  if (!widths.empty()) {
    write_widths(widths, out);
  }
  out << "\n}\n";
}

}  // namespace trainer
