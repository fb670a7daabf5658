// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Prints, writes and draws the policies' variances beside that of uniform widths.

#include "research/width_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <ostream>

#include "common/json.hpp"

namespace research {
namespace {

// A line for each policy, with average bits along and the ratio up, on a logarithmic scale.
class WidthPicture {
 public:
  explicit WidthPicture(const std::vector<WidthReport>& reports) : reports_(reports) {
    for (const WidthReport& report : reports) {
      lowest_ = std::min(lowest_, report.ratio / 1.2);
      highest_ = std::max(highest_, report.ratio * 1.2);
    }
  }

  void write(std::ostream& out) const {
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 520\" "
           "font-family=\"sans-serif\" font-size=\"13\">\n"
           "<rect width=\"700\" height=\"520\" fill=\"white\"/>\n";
    for (const double tick : ticks) {
      if (tick >= lowest_ && tick <= highest_) {
        out << format("<path d=\"M%g %.1fH%g\" stroke=\"#ddd\"/>\n", left, y(tick), right)
            << format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left - 8,
                      y(tick) + 4, tick);
      }
    }
    for (const double bits : compared_average_bits) {
      out << format("<path d=\"M%.1f %gv5\" stroke=\"black\"/>\n", x(bits), bottom)
          << format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%g</text>\n", x(bits),
                    bottom + 20, bits);
    }
    out << format("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"black\"/>\n", left, top, bottom,
                  right)
        << format(
               "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">average bits of uniform widths "
               "that take as many bytes</text>\n",
               (left + right) / 2, bottom + 40)
        << format("<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">",
                  (top + bottom) / 2)
        << "gradient variance, uniform = 1 (log scale)</text>\n";
    for (std::size_t i = 0; i < all_policies.size(); ++i) {
      write_path(out, line_of(all_policies[i]), styles[i]);
      const std::size_t column = i % 3;
      const std::size_t row = i / 3;
      const double from = left + 195 * static_cast<double>(column);
      const double height = bottom + 72 + 24 * static_cast<double>(row);
      write_path(out, format("M%g %gh24", from, height), styles[i]);
      out << format("<text x=\"%g\" y=\"%g\">%s</text>\n", from + 32, height + 4,
                    policy_name(all_policies[i]).c_str());
    }
    out << "</svg>\n";
  }

 private:
  static constexpr double left = 70;
  static constexpr double right = 680;
  static constexpr double top = 20;
  static constexpr double bottom = 400;
  static constexpr std::array ticks{0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0};
  static constexpr std::array styles{"stroke=\"#222222\"",
                                     "stroke=\"#1f77d4\"",
                                     "stroke=\"#e8730c\"",
                                     "stroke=\"#b3243c\"",
                                     "stroke=\"#2a8f4b\" stroke-dasharray=\"8 4\"",
                                     "stroke=\"#888888\" stroke-dasharray=\"2 4\""};
  static_assert(styles.size() == all_policies.size());

  static void write_path(std::ostream& out, const std::string& path, const char* style) {
    out << "<path fill=\"none\" stroke-width=\"2\" " << style << " d=\"" << path << "\"/>\n";
  }

  std::string line_of(WidthPolicy policy) const {
    std::string path;
    for (const WidthReport& report : reports_) {
      if (report.policy == policy) {
        path += format("%c%.1f %.1f", path.empty() ? 'M' : 'L', x(report.average_bits),
                       y(report.ratio));
      }
    }
    return path;
  }

  double x(double bits) const {
    constexpr double least = compared_average_bits.front();
    constexpr double most = compared_average_bits.back();
    return left + 20 + (right - left - 40) * (bits - least) / (most - least);
  }
  double y(double ratio) const {
    return bottom - (bottom - top) * std::log(ratio / lowest_) / std::log(highest_ / lowest_);
  }

  const std::vector<WidthReport>& reports_;
  double lowest_ = 1;
  double highest_ = 1;
};

}  // namespace

std::string policy_name(WidthPolicy policy) {
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

void print_widths(const std::vector<WidthReport>& reports, std::ostream& out) {
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

std::string width_json(const std::vector<WidthReport>& reports) {
  std::vector<std::string> objects;
  for (const WidthReport& report : reports) {
    objects.push_back(json_object({{"policy", quoted(policy_name(report.policy))},
                                   {"codec", quoted(describe(report.codec))},
                                   {"average_bits", number(report.average_bits)},
                                   {"stored_bytes", std::to_string(report.stored_bytes)},
                                   {"measured", number(report.measured)},
                                   {"standard_error", number(report.standard_error)},
                                   {"mean_error", number(report.mean_error)},
                                   {"mean_error_deviation", number(report.mean_error_deviation)},
                                   {"ratio", number(report.ratio)},
                                   {"ratio_error", number(report.ratio_error)},
                                   {"predicted", number(report.predicted)},
                                   {"bits_by_tensor", json_numbers(report.bits_by_tensor)}}));
  }
  return json_array(objects, 4);
}

void write_width_picture(const std::vector<WidthReport>& reports, std::ostream& out) {
  WidthPicture(reports).write(out);
}

}  // namespace research
