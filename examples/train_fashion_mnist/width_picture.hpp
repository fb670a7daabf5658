// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Policies for widths in one SVG picture: their variance beside that of uniform widths.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

#include "report.hpp"
#include "width_comparison.hpp"

namespace trainer {

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

}  // namespace trainer
