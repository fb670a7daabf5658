// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The honest test of a codec inside a trainer: gradients of one batch, each rounded anew, against
// the exact one. Errors are relative to the norm of the exact gradient, all parameters taken as one
// vector.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace research {

using DrawGradient = std::function<std::vector<float>()>;

struct GradientError {
  std::int64_t k = 0;
  double error = 0;  // of the mean of k gradients
};

// The errors for k = 1, 4, 16, … and `most`: an unbiased codec falls like 1/√k, a biased one gets
// stuck. Calls progress(k) after each draw.
inline std::vector<GradientError> errors_of_means(
    const std::vector<float>& exact, const DrawGradient& draw, std::int64_t most,
    const std::function<void(std::int64_t)>& progress) {
  std::vector<double> sum(exact.size(), 0.0);
  std::vector<GradientError> errors;
  std::int64_t next = 1;
  for (std::int64_t k = 1; k <= most; ++k) {
    const std::vector<float> gradient = draw();
    double distance = 0;
    double norm = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      sum[i] += double{gradient[i]};
      const double difference = sum[i] / static_cast<double>(k) - double{exact[i]};
      distance += difference * difference;
      norm += double{exact[i]} * double{exact[i]};
    }
    if (k == next || k == most) {
      errors.push_back({k, std::sqrt(distance / norm)});
      next = k == next ? 4 * next : next;
    }
    progress(k);
  }
  return errors;
}

// Noise, and the bias that no number of steps averages out.
struct GradientBias {
  double error_of_one = 0;   // root mean square over the draws
  double error_of_mean = 0;  // of the mean of all draws

  // The squared error of the mean over what it is without bias: 1, with this standard deviation.
  double excess = 0;
  double excess_deviation = 0;

  // The part of the error of the mean that noise does not explain; 0 if noise explains all of it.
  double bias() const { return excess > 1 ? error_of_mean * std::sqrt(1 - 1 / excess) : 0; }
};

// From `draws` gradients, an even number. Calls progress() after each.
inline GradientBias measure_bias(const std::vector<float>& exact, const DrawGradient& draw,
                                 std::int64_t draws, const std::function<void()>& progress) {
  GradientBias report;
  std::vector<double> sum(exact.size());
  std::vector<double> previous(exact.size());
  double squares = 0;           // of all draws' errors
  double squared_products = 0;  // of the errors of pairs of draws
  for (std::int64_t k = 0; k < draws; ++k) {
    const std::vector<float> gradient = draw();
    double product = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double error = double{gradient[i]} - double{exact[i]};
      sum[i] += error;
      squares += error * error;
      product += error * previous[i];
      previous[i] = error;
    }
    squared_products += k % 2 == 1 ? product * product : 0;
    progress();
  }
  const double count = static_cast<double>(draws);
  double norm = 0;
  double squared_sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    norm += double{exact[i]} * double{exact[i]};
    squared_sum += sum[i] * sum[i];
  }
  report.error_of_one = std::sqrt(squares / count / norm);
  report.error_of_mean = std::sqrt(squared_sum / norm) / count;
  // With C the errors' covariance: the mean's squared error has mean tr C / count and, since it is
  // nearly a sum of squares of normal variables, variance 2 tr C² / count²; the product of two
  // errors has mean square tr C².
  const double trace = (squares - squared_sum / count) / (count - 1);
  const double squared_trace = squared_products / (count / 2);
  report.excess = squared_sum / count / trace;
  report.excess_deviation = std::sqrt(2 * squared_trace) / trace;
  return report;
}

}  // namespace research
