// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The loss curves of several training runs in one SVG picture.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

#include "common/json.hpp"

namespace trainer {

struct LossCurve {
  std::string name;
  std::vector<double> losses;  // of every step
};

class Plot {
 public:
  explicit Plot(const std::vector<LossCurve>& curves) {
    for (const LossCurve& curve : curves) {
      curves_.push_back({curve.name, smoothed(curve.losses)});
      steps_ = std::max(steps_, static_cast<double>(curve.losses.size()));
      for (const Point& point : curves_.back().points) {
        lowest_ = std::min(lowest_, point.loss);
        highest_ = std::max(highest_, point.loss);
      }
    }
    lowest_ *= 0.9;
    highest_ *= 1.1;
  }

  void write(std::ostream& out) const {
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 520\" "
           "font-family=\"sans-serif\" "
           "font-size=\"13\">\n<rect width=\"840\" height=\"520\" fill=\"white\"/>\n";
    for (const double tick : loss_ticks) {
      if (tick >= lowest_ && tick <= highest_) {
        out << format("<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", left,
                      right, y(tick), y(tick))
            << format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left - 8,
                      y(tick) + 4, tick);
      }
    }
    const double step = step_between_ticks();
    for (int i = 0; i * step <= steps_; ++i) {
      const double tick = i * step;
      out << format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\" stroke=\"black\"/>\n",
                    x(tick), x(tick), bottom, bottom + 5)
          << format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%g</text>\n", x(tick),
                    bottom + 20, tick);
    }
    out << format("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"black\"/>\n", left, top, bottom,
                  right)
        << format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">step</text>\n",
                  (left + right) / 2, bottom + 42)
        << format("<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">",
                  (top + bottom) / 2)
        << "training loss (log scale)</text>\n";
    for (std::size_t i = 0; i < curves_.size(); ++i) {
      const char* color = colors[i % colors.size()];
      out << "<polyline fill=\"none\" stroke-width=\"1.6\" stroke=\"" << color << "\" points=\"";
      for (const Point& point : curves_[i].points) {
        out << format("%.1f,%.1f ", x(point.step), y(point.loss));
      }
      const std::size_t line = i / 2;
      const double row = legend + 22 * static_cast<double>(line);
      const double column = i % 2 == 0 ? left : (left + right) / 2;
      out << "\"/>\n"
          << format(
                 "<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke-width=\"3\" "
                 "stroke=\"%s\"/>\n",
                 column, column + 24, row, row, color)
          << format("<text x=\"%g\" y=\"%g\">", column + 32, row + 4) << escaped(curves_[i].name)
          << "</text>\n";
    }
    out << "</svg>\n";
  }

 private:
  struct Point {
    double step;
    double loss;
  };
  struct Curve {
    std::string name;
    std::vector<Point> points;
  };

  static constexpr double left = 70;
  static constexpr double right = 820;
  static constexpr double top = 20;
  static constexpr double bottom = 420;
  static constexpr double legend = 480;  // two columns below
  static constexpr std::array loss_ticks{0.01, 0.02, 0.05, 0.1, 0.2,  0.3,  0.5,  0.7,  1.0,
                                         1.5,  2.0,  3.0,  5.0, 10.0, 20.0, 50.0, 100.0};
  static constexpr std::array colors{"#222222", "#1f77d4", "#e8730c", "#b3243c"};

  // The means of about 120 equal stretches: single steps would hide the curve in their noise.
  static std::vector<Point> smoothed(const std::vector<double>& losses) {
    const std::size_t stretch = std::max<std::size_t>(1, losses.size() / 120);
    std::vector<Point> points;
    for (std::size_t first = 0; first < losses.size(); first += stretch) {
      const std::size_t last = std::min(first + stretch, losses.size());
      double sum = 0;
      for (std::size_t step = first; step < last; ++step) {
        sum += losses[step];
      }
      const double mean = sum / static_cast<double>(last - first);
      if (std::isfinite(mean)) {
        points.push_back({0.5 * static_cast<double>(first + last), std::max(mean, 1e-3)});
      }
    }
    return points;
  }

  double step_between_ticks() const {
    const double magnitude = std::pow(10, std::floor(std::log10(std::max(steps_, 1.0) / 2)));
    return steps_ / magnitude > 10 ? 2 * magnitude : magnitude;
  }

  double x(double step) const { return left + (right - left) * step / std::max(steps_, 1.0); }
  double y(double loss) const {
    return bottom - (bottom - top) * std::log(loss / lowest_) / std::log(highest_ / lowest_);
  }

  static std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) {
      out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
    }
    return out;
  }

  std::vector<Curve> curves_;
  double steps_ = 0;
  double lowest_ = 1;  // whatever the losses: the axis holds 1
  double highest_ = 1;
};

inline void write_loss_curves(const std::vector<LossCurve>& curves, std::ostream& out) {
  Plot(curves).write(out);
}

}  // namespace trainer
