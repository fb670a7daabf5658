// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What rounding does to the gradient of one batch: its noise, and its bias, which no number of
// steps averages out.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "activation_store.hpp"
#include "model.hpp"

namespace gpt {

// Errors are relative to the norm of the exact gradient, all parameters taken as one vector.
struct GradientReport {
  std::string name;
  std::int64_t stored_bytes = 0;
  double error_of_one = 0;   // root mean square over the draws
  double error_of_mean = 0;  // of the mean of all draws

  // The squared error of the mean over what it is without bias: 1, with this standard deviation.
  double excess = 0;
  double excess_deviation = 0;

  // What is left of the error of the mean when noise is taken out; 0 if that is all of it.
  double bias() const { return excess > 1 ? error_of_mean * std::sqrt(1 - 1 / excess) : 0; }
};

// `draws`, even, gradients of `batch`, each rounded anew, against `exact`. Calls progress() after
// each.
template <class Progress>
GradientReport check_gradient(Model& model, const Batch& batch, const std::vector<float>& exact,
                              ActivationStore& store, std::int64_t draws,
                              const Progress& progress) {
  GradientReport report;
  std::vector<double> sum(exact.size());
  std::vector<double> previous(exact.size());
  double squares = 0;           // of all draws' errors
  double squared_products = 0;  // of the errors of pairs of draws
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    report.stored_bytes = model.forward_backward(batch, store).stored_bytes;
    double product = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double error = double{model.gradients()[i]} - double{exact[i]};
      sum[i] += error;
      squares += error * error;
      product += error * previous[i];
      previous[i] = error;
    }
    squared_products += draw % 2 == 1 ? product * product : 0;
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

}  // namespace gpt
