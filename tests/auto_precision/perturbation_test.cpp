// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks gains found by perturbation against gains that are known, and against the variance of a
// small network's gradient.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "support/allocation_reference.hpp"
#include "support/auto_precision/network.hpp"
#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/statistics.hpp"

namespace {

using namespace support::auto_precision;
using support::Generator;

double at_width(const Table& noise, int bits) {
  return noise[reference::index_of(static_cast<std::uint8_t>(bits))];
}

}  // namespace

TEST_CASE("AutoPrecision: a perturbation is half the difference over the noise at the widths now") {
  Generator generator(5);
  for (const PrecisionPer per : {PrecisionPer::row, PrecisionPer::tensor}) {
    for (const bool is_measured : {false, true}) {
      for (const double average : {1.5, 2.0, 3.0}) {
        const std::vector<TensorSpec> tensors{spec(6, 64, per, 20), spec(6, 64)};
        const AutoPrecisionOptions options{.average_bits = average, .solve_interval = 2};
        AutoPrecision perturbed = make(options, tensors);
        AutoPrecision fed = make(options, tensors);
        for (int step = 1; step <= 9; ++step) {
          CAPTURE(is_measured);
          CAPTURE(average);
          CAPTURE(step);
          // Solutions are after steps 1, 2, 4, 6, 8. At steps of odd number all is known from
          // before; at even ones, all that counts was observed since.
          Observation own = random_observation(tensors[0], is_measured, generator);
          const Observation other = random_observation(tensors[1], is_measured, generator);
          if (step % 2 == 0 || step == 1) {
            double noise = 0;
            for (std::size_t row = 0; row < 6; ++row) {
              noise +=
                  at_width(is_measured ? own.noise[row] : closed_form(tensors[0], own.ranges[row]),
                           perturbed.row_bits(0)[row]);
            }
            const double difference = 2 * noise * reference::log_uniform(generator, -2, 2);
            observe_noise(perturbed, 0, own);
            observe_noise(fed, 0, own);
            perturbed.observe_perturbation(0, difference);
            fed.observe_gains(0, std::vector<double>(6, difference / 2 / noise));
            // Beside gains that rows have of their own, it is each row's all the same.
            if (step % 4 == 0) perturbed.observe_gains(0, own.gains);
            if (step % 4 == 0) fed.observe_gains(0, own.gains);
          }
          observe(perturbed, 1, other);
          observe(fed, 1, other);
          CHECK(perturbed.step() == fed.step());
          CHECK(widths_of(perturbed) == widths_of(fed));
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: a perturbation goes by the average noise where none is new") {
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecisionOptions options = for_one_of_two;
    options.solve_interval = 1;
    AutoPrecision precision = make(options, two_tensors);
    // An average of (10 + 20) / 2 and now a width of 2: variance_at divides by 9.
    for (const double norm : {10.0, 20.0}) {
      precision.observe_ranges(0, std::vector<double>{norm});
      precision.observe_gains(0, std::vector<double>{4});
      observe_all(precision, 1, 1, 1);
      precision.step();
      CHECK(is_first_wider(precision));
    }
    const double noise = 32 / 6.0 * 15 / 9;
    precision.observe_perturbation(0, 2 * noise * 10);  // a gain of 10, averaged with 4
    observe_all(precision, 1, 2 * 15 * side * 7 - 1, 1);
    precision.step();
    CHECK(is_first_wider(precision) == (side < 1));
  }
}

TEST_CASE("AutoPrecision: a perturbation needs noise, and noise of zero tells nothing") {
  for (const PrecisionPer per : {PrecisionPer::row, PrecisionPer::tensor}) {
    AutoPrecision precision = make({.solve_interval = 1}, {spec(3, 40), spec(3, 40, per)});
    const std::vector<std::byte> before = precision.save();
    support::check_refused([&] { precision.observe_perturbation(1, 1); }, {"tensor", "1"});
    precision.observe_gains(1, std::vector<double>{1, 2, 3});
    support::check_refused([&] { precision.observe_perturbation(1, 1); }, {"tensor", "1"});
    CHECK(precision.save() != before);
    precision.observe_ranges(1, std::vector<double>{0, 0, 0});
    const std::vector<std::byte> still = precision.save();
    precision.observe_perturbation(1, 1);
    precision.observe_perturbation(1, 0);
    CHECK(precision.save() == still);
    precision.step();
    const std::vector<std::byte> later = precision.save();
    precision.observe_perturbation(1, 1);
    CHECK(precision.save() == later);
    // But no difference for some noise is a gain of 0.
    precision.observe_ranges(1, std::vector<double>{1, 2, 3});
    AutoPrecision fed = precision;
    precision.observe_perturbation(1, 0);
    fed.observe_gains(1, std::vector<double>(3, 0.0));
    precision.step();
    fed.step();
    CHECK(widths_of(precision) == widths_of(fed));
  }
}

TEST_CASE("AutoPrecision: a perturbation counts unobserved rows as the mean") {
  AutoPrecision precision =
      make({.average_bits = 1.5, .max_bits = 2}, {spec(4, 16), spec(4, 16, PrecisionPer::tensor)});
  const Table noise{12, 12 / 9.0, 12 / 225.0, 12 / 65025.0};
  const Table none{not_a_number, not_a_number, not_a_number, not_a_number};
  precision.observe_noise(0, std::vector<Table>{noise, noise, none, none});
  const std::vector<std::uint8_t> now = widths_of(precision, 0);
  double sum = 0;
  for (const std::uint8_t bits : now) sum += at_width(noise, bits);
  precision.observe_perturbation(0, 2 * sum * 10);  // a gain of 10
  // A second bit for all four rows is worth 48 · 10, for the other tensor 48 · 11.
  precision.observe_noise(1, std::vector<Table>(4, noise));
  precision.observe_gains(1, std::vector<double>(4, 11));
  precision.step();
  CHECK(widths_of(precision) == Widths{{1, 1, 1, 1}, {2, 2, 2, 2}});
}

// The mean of 400 differences is normal, its deviation the sample's: within 4.9 deviations but once
// in a million.
TEST_CASE("AutoPrecision: the perturbation of a network is its gradient's variance") {
  const Network network;
  for (const bool of_x : {true, false}) {
    CAPTURE(of_x);
    const TensorSpec tensor = of_x ? Network::x_spec() : Network::h_spec();
    const std::vector<float>& exact = of_x ? network.x() : network.h();
    const std::vector<double> gains = of_x ? network.x_gains() : network.h_gains();
    const std::vector<Table> noise = measured_noise(exact, tensor);
    // The rival is the same tensor with a gain that is known.
    const TensorSpec whole{tensor.layout, PrecisionPer::tensor};
    AutoPrecision precision = make(for_one_of_two, {whole, whole});
    AutoPrecision by_row = make({.average_bits = 2.5}, {tensor});
    const std::vector<std::uint8_t> widths = of_x ? widths_of(by_row, 0) : widths_of(precision, 0);
    double variance = 0;
    double narrow_variance = 0;  // with all rows at 1 bit, for the tensor of one width
    double narrow_noise = 0;
    for (std::size_t row = 0; row < gains.size(); ++row) {
      variance += gains[row] * at_width(noise[row], widths[row]);
      narrow_variance += gains[row] * noise[row][0];
      narrow_noise += noise[row][0];
    }
    precision.observe_noise(0, noise);
    precision.observe_noise(1, noise);

    constexpr int repetitions = 400;
    const std::vector<std::uint8_t> narrow = widths_of(precision, 0);
    CHECK(narrow == std::vector<std::uint8_t>(narrow.size(), 1));
    double sum = 0, square = 0, narrow_sum = 0, narrow_square = 0;
    for (std::uint64_t seed = 0; seed < repetitions; ++seed) {
      const auto differing = [&](const std::vector<std::uint8_t>& bits) {
        const std::vector<float> first = rounded(exact, tensor, bits, 2 * seed);
        const std::vector<float> second = rounded(exact, tensor, bits, 2 * seed + 1);
        const auto add = [&](std::vector<double>& gradient, double sign,
                             const std::vector<float>& saved) {
          network.add_gradient(gradient, sign, of_x ? saved : network.x(),
                               of_x ? network.h() : saved);
        };
        // The loss's gradient and minus the loss's, into one sum.
        std::vector<double> gradient;
        add(gradient, 1, first);
        add(gradient, -1, second);
        const double without_copy = squared_norm(gradient);
        if (seed < 20) {
          std::vector<double> copy;
          std::vector<double> other;
          add(copy, 1, first);
          add(other, 1, second);
          for (std::size_t i = 0; i < copy.size(); ++i) copy[i] -= other[i];
          // Gradients of some hundred terms whose difference is a hundredth of them.
          CHECK(squared_norm(copy) == doctest::Approx(without_copy).epsilon(1e-9));
        }
        return without_copy;
      };
      const double half = differing(widths) / 2;
      sum += half;
      square += half * half;
      const double difference = differing(narrow);
      precision.observe_perturbation(0, difference);
      narrow_sum += difference / 2;
      narrow_square += difference / 2 * (difference / 2);
    }
    const double z = support::normal_quantile(support::false_alarm);
    const auto radius = [&](double total, double squares) {
      const double mean = total / repetitions;
      return z * std::sqrt((squares / repetitions - mean * mean) / repetitions);
    };
    CHECK(std::fabs(sum / repetitions - variance) <= radius(sum, square));
    CHECK(radius(sum, square) < 0.1 * variance);  // the test can tell a tenth
    // And so says the controller: more than the variance less that radius, less than it plus it.
    const double tolerance = radius(narrow_sum, narrow_square) / narrow_variance;
    CHECK(tolerance < 0.1);
    for (const double side : {1 - tolerance, 1 + tolerance}) {
      AutoPrecision weighed = precision;
      weighed.observe_gains(
          1, std::vector<double>(gains.size(), side * narrow_variance / narrow_noise));
      weighed.step();
      CHECK(is_first_wider(weighed) == (side < 1));
    }
  }
}
