// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the noise formulas against the textbook's, and the measured noise against exact sums over
// positions and against what quantizing really adds.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/variance.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/reference.hpp"
#include "support/statistics.hpp"

namespace {

using actpack::bfloat16;
using actpack::float16;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;
using actpack::RoundingNoise;

// Sums over a row cut into groups, from the reference's parameters and real positions.
RoundingNoise expected_noise(const std::vector<float>& x, int group_size) {
  RoundingNoise noise;
  for (std::size_t width = 0; width < 4; ++width) {
    reference::Shape shape{
        1, static_cast<std::int64_t>(x.size()), group_size, support::all_widths[width], 0, {}};
    const reference::Packed packed = reference::quantize(x, shape, {});
    for (const reference::Group& group : reference::groups_of(shape)) {
      const reference::Params params = packed.params[static_cast<std::size_t>(group.index)];
      const double scale = reference::value_of(reference::bfloat16, params.scale);
      const double min = reference::value_of(reference::bfloat16, params.min);
      for (int i = 0; i < group.size; ++i) {
        const double value = static_cast<double>(x[static_cast<std::size_t>(group.first + i)]);
        const double position = scale == 0 ? 0 : (value - min) / scale;
        const double fraction = position - std::floor(position);
        noise.plain[width] += fraction * (1 - fraction) * scale * scale;
        noise.subtractive[width] += scale * scale / 12;
      }
    }
  }
  return noise;
}

// Positions resolve 2^-14 of a step and factors are rounded to float, so a position is known to
// 2^-13 steps and f (1 - f) to 2^-13; a subtractive error has no position.
template <class T>
void check_measured(const std::vector<T>& x, std::int32_t group_size) {
  const RoundingNoise got = actpack::measure_rounding_noise(x, group_size);
  const RoundingNoise expected = expected_noise(support::floats(x), group_size);
  for (std::size_t width = 0; width < 4; ++width) {
    CAPTURE(width);
    CHECK(std::fabs(got.plain[width] - expected.plain[width]) <=
          0x1p-13 * 12 * expected.subtractive[width]);
    CHECK(std::fabs(got.subtractive[width] - expected.subtractive[width]) <=
          1e-12 * expected.subtractive[width]);
  }
}

double squared_range_norm(const std::vector<float>& x, std::size_t group_size) {
  double norm = 0;
  for (std::size_t first = 0; first < x.size(); first += group_size) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(std::min(group_size, x.size() - first));
    const auto [low, high] = std::minmax_element(begin, end);
    const double range = static_cast<double>(*high) - static_cast<double>(*low);
    norm += range * range;
  }
  return norm;
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE("widths: 1, 2, 4 and 8, the order of every table") {
  static_assert(actpack::widths == std::array{1, 2, 4, 8});
  CHECK(std::ranges::equal(actpack::widths, support::all_widths));
}

TEST_CASE("variance_at: the sensitivity over the square of the largest code") {
  CHECK(actpack::variance_at(900, 1) == 900);
  CHECK(actpack::variance_at(900, 2) == 100);
  CHECK(actpack::variance_at(900, 4) == 4);
  CHECK(actpack::variance_at(65025, 8) == 1);
  CHECK(actpack::variance_at(0, 2) == 0);
}

TEST_CASE("gains: the formulas of the paper, worked out by hand") {
  CHECK(actpack::rounding_sensitivity(9, 256) == doctest::Approx(384));
  CHECK(actpack::linear_gain(7) == 7);
  // 9 taps on 100 pixels: 0.09 of the gradient's squared norm; half of that with two groups.
  CHECK(actpack::conv_gain(200, 9, 100) == doctest::Approx(18));
  CHECK(actpack::conv_gain(200, 9, 100, 2) == doctest::Approx(9));
  CHECK(actpack::transposed_conv_gain(200, 9, 100) == doctest::Approx(18));
  CHECK(actpack::transposed_conv_gain(200, 9, 100, 4) == doctest::Approx(4.5));
  // w = 2, s = 3, N = 5, dy = 7, sum = 11: 4 / (81 * 25) * (5 * 49 + 121).
  CHECK(actpack::batch_norm_gain(2, 3, 5, 7, 11) == doctest::Approx(4.0 / 2025 * 366));
}

TEST_CASE_TEMPLATE("measure_rounding_noise: f (1 - f) scale^2 and scale^2 / 12, summed over a row",
                   T, float, bfloat16, float16) {
  for (const std::int64_t size : {1, 2, 31, 33, 256, 257, 1000}) {
    for (const std::int32_t group_size : support::all_group_sizes) {
      for (const support::Data data :
           {support::Data::gaussian, support::Data::relu, support::Data::offset_100,
            support::Data::constant, support::Data::zeros}) {
        const char* const name = support::name_of(data);
        CAPTURE(size);
        CAPTURE(group_size);
        CAPTURE(name);
        std::vector<T> x;
        for (const float value : support::make(data, static_cast<std::size_t>(size), 90))
          x.push_back(T(value));
        check_measured(x, group_size);
      }
    }
  }
}

TEST_CASE(
    "measure_rounding_noise: the default groups are those of a layout, an empty row has none") {
  const std::vector<float> x = support::gaussian(1000, 91);
  CHECK(actpack::measure_rounding_noise(x).plain == actpack::measure_rounding_noise(x, 256).plain);
  const RoundingNoise none = actpack::measure_rounding_noise(std::vector<float>{});
  CHECK(none.plain == std::array<double, 4>{});
  CHECK(none.subtractive == std::array<double, 4>{});
}

TEST_CASE("measure_rounding_noise: codes on levels carry no noise plainly") {
  std::vector<float> x;
  for (int i = 0; i < 256; ++i) x.push_back(static_cast<float>(i));
  const RoundingNoise noise = actpack::measure_rounding_noise(x);
  CHECK(noise.plain[3] == 0);
  CHECK(noise.plain[0] > 0);
  CHECK(noise.subtractive[3] == doctest::Approx(256.0 / 12));
}

TEST_CASE("measure_rounding_noise: a NaN or infinity makes the whole sum NaN") {
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> x = support::gaussian(600, 92);
    x[300] = bad;
    const RoundingNoise noise = actpack::measure_rounding_noise(x, 64);
    for (std::size_t width = 0; width < 4; ++width) {
      CHECK(std::isnan(noise.plain[width]));
      CHECK(std::isnan(noise.subtractive[width]));
    }
  }
  // +-3e38 is poisoned at one bit only.
  const RoundingNoise noise =
      actpack::measure_rounding_noise(std::vector<float>{-3e38F, 3e38F, 1.0F});
  CHECK(std::isnan(noise.plain[0]));
  CHECK(std::isfinite(noise.plain[1]));
}

TEST_CASE("measure_rounding_noise: a wrong group size is refused") {
  const std::vector<float> x(10, 1.0F);
  for (const std::int32_t group_size : {-32, 0, 31, 100}) {
    CAPTURE(group_size);
    support::check_refused([&] { (void)actpack::measure_rounding_noise(x, group_size); },
                           {"group_size", std::to_string(group_size)});
  }
}

// Squared errors in steps^2 are independent numbers in [0, 1] of mean f (1 - f): Bernstein's bound
// for the mean over 64 groups of 256 and 200 seeds, weighted by each group's squared step.
TEST_CASE("measure_rounding_noise: what quantizing adds, measured over seeds") {
  constexpr std::size_t size = 64 * 256;
  constexpr int seeds = 200;
  for (const support::Data data : {support::Data::gaussian, support::Data::relu}) {
    const std::vector<float> x = support::make(data, size, 93);
    const RoundingNoise predicted = actpack::measure_rounding_noise(x);
    for (std::size_t width = 0; width < 4; ++width) {
      CAPTURE(width);
      PackedBuffer buffer(Layout{1, size, 256, support::all_widths[width]});
      std::vector<float> decoded(size);
      double plain = 0;
      double subtractive = 0;
      double largest_step = 0;
      for (int seed = 0; seed < seeds; ++seed) {
        const Rounding rounding = Rounding::stochastic(static_cast<std::uint64_t>(seed), 94);
        actpack::quantize(x, buffer.view(), rounding);
        const auto squared_error = [&] {
          double sum = 0;
          for (std::size_t i = 0; i < size; ++i) {
            const double error = static_cast<double>(decoded[i]) - static_cast<double>(x[i]);
            sum += error * error;
          }
          return sum / seeds;
        };
        actpack::dequantize(buffer.view(), decoded);
        plain += squared_error();
        actpack::dequantize(buffer.view(), decoded, actpack::Decoding::subtractive(rounding));
        subtractive += squared_error();
      }
      for (std::size_t group = 0; group < 64; ++group) {
        largest_step =
            std::max(largest_step,
                     static_cast<double>(static_cast<float>(buffer.view().params[group].scale)));
      }
      // Each squared error reaches at most step^2, so its variance is at most step^2 times its
      // mean; 2^-13 steps^2 an element for positions.
      const double unit = largest_step * largest_step;
      const double radius =
          support::bernstein_radius(predicted.plain[width] / size / unit, 1,
                                    seeds * static_cast<double>(size), support::false_alarm / 16);
      CHECK(std::fabs(plain - predicted.plain[width]) / size <= (radius + 0x1p-13) * unit);
      const double subtractive_radius = support::bernstein_radius(
          1.0 / 180, 1.0 / 6, seeds * static_cast<double>(size), support::false_alarm / 16);
      CHECK(std::fabs(subtractive - predicted.subtractive[width]) / size <=
            (subtractive_radius + 0x1p-13) * unit);
    }
  }
}

// Uniform data fill the steps evenly, the case the closed form is exact for. Its step is the range
// over the largest code, the stored one is larger by up to 2^-7 and the min lower by up to 2^-8 of
// its size, here half the range: together at most 2.4 % of the step, 5 % of its square.
TEST_CASE("rounding_sensitivity: predicts the measured noise of uniform data") {
  const std::vector<float> x = support::uniform(1024 * 256, 95, -1, 1);
  const RoundingNoise noise = actpack::measure_rounding_noise(x);
  const double sensitivity = actpack::rounding_sensitivity(squared_range_norm(x, 256), 256);
  for (std::size_t width = 0; width < 4; ++width) {
    CAPTURE(width);
    const double predicted = actpack::variance_at(sensitivity, support::all_widths[width]);
    // Sampling: 262144 values of f (1 - f) with mean 1/6 and deviation 0.075 leave 0.1 %.
    CHECK(noise.plain[width] / predicted >= 0.998);
    CHECK(noise.plain[width] / predicted <= 1.052);
    CHECK(noise.subtractive[width] / predicted >= 0.5);
    CHECK(noise.subtractive[width] / predicted <= 0.526);
  }
}

// dW = x^T g summed over samples: its variance is the sum over samples of ||g_n||^2 times the noise
// of x_n, since every entry of row n multiplies every entry of g_n. 400 roundings of 40 * 3 sums:
// a chi-square of 400 * 120 degrees at least in effect bounds the ratio.
TEST_CASE("linear_gain: predicts the variance of a linear layer's weight gradient") {
  constexpr std::size_t samples = 16;
  constexpr std::size_t inputs = 40;
  constexpr std::size_t outputs = 3;
  constexpr int seeds = 400;
  const std::vector<float> x = support::gaussian(samples * inputs, 96);
  const std::vector<float> gradient = support::gaussian(samples * outputs, 97);
  double predicted = 0;
  for (std::size_t n = 0; n < samples; ++n) {
    double norm = 0;
    for (std::size_t o = 0; o < outputs; ++o) {
      norm += std::pow(static_cast<double>(gradient[n * outputs + o]), 2);
    }
    const std::span<const float> row = std::span<const float>(x).subspan(n * inputs, inputs);
    predicted += actpack::linear_gain(norm) * actpack::measure_rounding_noise(row, 64).plain[1];
  }
  PackedBuffer buffer(Layout{samples, inputs, 64, 2});
  std::vector<float> decoded(x.size());
  double variance = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    actpack::quantize(x, buffer.view(), Rounding::stochastic(static_cast<std::uint64_t>(seed), 98));
    actpack::dequantize(buffer.view(), decoded);
    for (std::size_t i = 0; i < inputs; ++i) {
      for (std::size_t o = 0; o < outputs; ++o) {
        double error = 0;
        for (std::size_t n = 0; n < samples; ++n) {
          error += (static_cast<double>(decoded[n * inputs + i]) -
                    static_cast<double>(x[n * inputs + i])) *
                   static_cast<double>(gradient[n * outputs + o]);
        }
        variance += error * error / seeds;
      }
    }
  }
  // The three outputs of an input share its noise: no more than 40 independent sums a seed count.
  const support::Interval allowed =
      support::chi_square_ratio(seeds * static_cast<double>(inputs), support::false_alarm);
  CHECK(allowed.contains(variance / predicted));
}
