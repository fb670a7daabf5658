// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Thresholds of statistical tests, each with a stated probability of alarming without a cause.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace support {

// One false alarm in a million test runs, were the seeds not fixed.
inline constexpr double false_alarm = 1e-6;

// The z with P(|Z| > z) = probability for a standard normal Z, by bisection of erfc.
inline double normal_quantile(double probability) {
  double low = 0;
  double high = 40;
  for (int step = 0; step < 100; ++step) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::sqrt(2.0)) > probability ? low : high) = middle;
  }
  return high;
}

// Bernstein's inequality: the mean of `count` independent variables, each of at most this variance
// and within `reach` of its mean, leaves [mean - radius, mean + radius] with at most `probability`.
// Solves 2 exp(-count r^2 / (2 (variance + reach r / 3))) = probability for r. Holds for any count
// and any distribution, which a normal approximation of a rare rounding does not.
inline double bernstein_radius(double variance, double reach, double count, double probability) {
  const double rate = std::log(2 / probability) / count;
  const double linear = rate * reach / 3;
  return linear + std::sqrt(linear * linear + 2 * rate * variance);
}

struct Interval {
  double low;
  double high;
  bool contains(double value) const { return low <= value && value <= high; }
};

// Laurent and Massart (2000): where a chi-square variable of `degrees` divided by its degrees lies,
// but for `probability`.
inline Interval chi_square_ratio(double degrees, double probability) {
  const double exponent = std::log(2 / probability);
  const double spread = 2 * std::sqrt(exponent / degrees);
  return {1 - spread, 1 + spread + 2 * exponent / degrees};
}

// A sample correlation of `count` independent pairs is normal with deviation 1 / sqrt(count), to
// the accuracy a threshold of about five deviations needs.
inline double correlation_radius(double count, double probability) {
  return normal_quantile(probability) / std::sqrt(count);
}

inline double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto count = static_cast<double>(a.size());
  double sum_a = 0;
  double sum_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum_a += a[i];
    sum_b += b[i];
  }
  double product = 0;
  double square_a = 0;
  double square_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double from_mean_a = a[i] - sum_a / count;
    const double from_mean_b = b[i] - sum_b / count;
    product += from_mean_a * from_mean_b;
    square_a += from_mean_a * from_mean_a;
    square_b += from_mean_b * from_mean_b;
  }
  return product / std::sqrt(square_a * square_b);
}

// sum (estimate - truth)^2 / sum truth^2
template <class Estimate, class Truth>
double relative_energy(const Estimate& estimate, const Truth& truth) {
  double error = 0;
  double energy = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double difference = static_cast<double>(estimate[i]) - static_cast<double>(truth[i]);
    error += difference * difference;
    energy += static_cast<double>(truth[i]) * static_cast<double>(truth[i]);
  }
  return error / energy;
}

}  // namespace support
