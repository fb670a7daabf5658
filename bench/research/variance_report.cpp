// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Prints, writes and draws predicted against measured variances.

#include "research/variance_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <ostream>

#include "common/json.hpp"

namespace research {
namespace {

// Two square panels with the same decades along both sides: weight gradients, and batch norm's
// input gradients with the one rounding that the trainer has. Good predictions lie on the
// diagonal.
class VariancePicture {
 public:
  explicit VariancePicture(const std::vector<VarianceReport>& reports)
      : panels_{Panel("weight gradients of convolutions (1, 2, ...) and classifier (c)", 70),
                Panel("input gradients of batch norms (1, 2, ...)", 500)} {
    for (const VarianceReport& report : reports) {
      if (report.quantity == VarianceReport::Quantity::weight_gradient) {
        panels_[0].add(report);
      } else if (report.quantity == VarianceReport::Quantity::gradient_one_rounding) {
        panels_[1].add(report);
      }
    }
  }

  void write(std::ostream& out) const {
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 880 500\" "
           "font-family=\"sans-serif\" font-size=\"13\">\n"
           "<rect width=\"880\" height=\"500\" fill=\"white\"/>\n";
    for (const Panel& panel : panels_) {
      panel.write(out);
    }
    const std::array rows{bottom + 68, bottom + 90};
    std::size_t place = 0;
    for (const Codec::Context context : {Codec::Context::affine, Codec::Context::sign_magnitude}) {
      for (const bool is_subtractive : {false, true}) {
        const double x = place % 2 == 0 ? 70 : 260;
        const double y = rows[place / 2];
        write_mark(out, context, is_subtractive, x, y - 4, true);
        out << format("<text x=\"%g\" y=\"%g\">%s, %s</text>\n", x + 14, y,
                      name_of(context).c_str(), is_subtractive ? "subtractive" : "plain");
        ++place;
      }
    }
    write_mark(out, Codec::Context::affine, false, 500, rows[0] - 4, true);
    out << format("<text x=\"514\" y=\"%g\">from measured noise, value by value</text>\n", rows[0]);
    write_mark(out, Codec::Context::affine, false, 500, rows[1] - 4, false);
    out << format("<text x=\"514\" y=\"%g\">from the groups' ranges: ActNN's model</text>\n",
                  rows[1])
        << "</svg>\n";
  }

 private:
  static constexpr double top = 40;
  static constexpr double size = 350;
  static constexpr double bottom = top + size;

  // Shapes tell codecs apart, and filling tells predictions apart, without colour.
  static void write_mark(std::ostream& out, Codec::Context context, bool is_subtractive, double x,
                         double y, bool is_filled) {
    const char* style =
        is_filled ? "fill=\"black\" stroke=\"black\"" : "fill=\"white\" stroke=\"black\"";
    if (context == Codec::Context::sign_magnitude && !is_subtractive) {
      out << format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" %s/>\n", x, y, style);
      return;
    }
    const char* path = context == Codec::Context::sign_magnitude ? "m0 -5.5l5.5 10h-11z"
                       : is_subtractive                          ? "m0 -6l6 6l-6 6l-6 -6z"
                                                                 : "m-4.5 -4.5h9v9h-9z";
    out << format("<path d=\"M%.1f %.1f%s\" %s/>\n", x, y, path, style);
  }

  class Panel {
   public:
    Panel(const char* title, double left) : title_(title), left_(left) {}

    void add(const VarianceReport& report) {
      reports_.push_back(&report);
      for (const double value : {report.measured, report.from_ranges, report.from_values}) {
        if (value > 0 && std::isfinite(value)) {
          lowest_ = std::min(lowest_, std::floor(std::log10(value)));
          highest_ = std::max(highest_, std::ceil(std::log10(value)));
        }
      }
    }

    void write(std::ostream& out) const {
      if (reports_.empty()) {
        return;
      }
      const double right = left_ + size;
      out << format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
                    (left_ + right) / 2, top - 16, title_);
      for (double decade = lowest_; decade <= highest_; ++decade) {
        const double along = size * (decade - lowest_) / (highest_ - lowest_);
        out << format("<path d=\"M%.1f %gV%gM%g %.1fH%g\" stroke=\"#ddd\"/>\n", left_ + along, top,
                      bottom, left_, bottom - along, right)
            << format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">1e%g</text>\n",
                      left_ + along, bottom + 18, decade)
            << format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">1e%g</text>\n", left_ - 6,
                      bottom - along + 4, decade);
      }
      out << format("<path d=\"M%g %gL%g %g\" stroke=\"black\" stroke-dasharray=\"5 4\"/>\n", left_,
                    bottom, right, top)
          << format("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"black\"/>\n", left_, top,
                    bottom, right)
          << format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">measured variance</text>\n",
                    (left_ + right) / 2, bottom + 38)
          << format(
                 "<text transform=\"translate(%g %g) rotate(-90)\" "
                 "text-anchor=\"middle\">predicted variance</text>\n",
                 left_ - 50, (top + bottom) / 2);
      for (const VarianceReport* report : reports_) {
        const double x = left_ + distance(report->measured);
        const double from_ranges = bottom - distance(report->from_ranges);
        const double from_values = bottom - distance(report->from_values);
        out << format("<path d=\"M%.1f %.1fV%.1f\" stroke=\"#888\"/>\n", x, from_ranges,
                      from_values);
        write_mark(out, report->codec.context, report->codec.is_subtractive, x, from_ranges, false);
        write_mark(out, report->codec.context, report->codec.is_subtractive, x, from_values, true);
      }
      for (const VarianceReport* report : reports_) {  // over all marks
        write_label(out, *report);
      }
    }

   private:
    double distance(double value) const {
      return size * (std::log10(value) - lowest_) / (highest_ - lowest_);
    }

    // Affine marks have theirs below on the right, the others above on the left: they often lie
    // close together.
    void write_label(std::ostream& out, const VarianceReport& report) const {
      const double x = left_ + distance(report.measured);
      const auto [lower, higher] =
          std::minmax({distance(report.from_ranges), distance(report.from_values)});
      const bool is_affine = report.codec.context == Codec::Context::affine;
      out << format("<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" text-anchor=\"%s\">%s</text>\n",
                    is_affine ? x + 8 : x - 7, is_affine ? bottom - lower + 9 : bottom - higher - 3,
                    is_affine ? "start" : "end", short_name(report.layer).c_str());
    }

    // The layer's number; the classifier has none.
    static std::string short_name(const std::string& layer) {
      const std::size_t space = layer.rfind(' ');
      return space == std::string::npos ? "c" : layer.substr(space + 1);
    }

    const char* title_;
    double left_;
    double lowest_ = std::numeric_limits<double>::infinity();
    double highest_ = -std::numeric_limits<double>::infinity();
    std::vector<const VarianceReport*> reports_;
  };

  std::array<Panel, 2> panels_;
};

}  // namespace

std::string quantity_name(VarianceReport::Quantity quantity) {
  switch (quantity) {
    case VarianceReport::Quantity::weight_gradient: return "weight gradient";
    case VarianceReport::Quantity::gradient_one_rounding: return "input gradient, one rounding";
    case VarianceReport::Quantity::gradient_two_roundings: return "input gradient, two roundings";
  }
  return "";
}

void print_variances(const std::vector<VarianceReport>& reports, std::ostream& out) {
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

std::string variance_json(const std::vector<VarianceReport>& reports) {
  std::vector<std::string> objects;
  for (const VarianceReport& report : reports) {
    objects.push_back(json_object({{"layer", quoted(report.layer)},
                                   {"quantity", quoted(quantity_name(report.quantity))},
                                   {"codec", quoted(describe(report.codec))},
                                   {"measured", number(report.measured)},
                                   {"standard_error", number(report.standard_error)},
                                   {"mean_error", number(report.mean_error)},
                                   {"mean_error_deviation", number(report.mean_error_deviation)},
                                   {"from_ranges", number(report.from_ranges)},
                                   {"from_mean_gain", number(report.from_mean_gain)},
                                   {"from_values", number(report.from_values)}}));
  }
  return json_array(objects, 4);
}

void write_variance_picture(const std::vector<VarianceReport>& reports, std::ostream& out) {
  VariancePicture(reports).write(out);
}

}  // namespace research
