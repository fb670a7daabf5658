// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the measured noise of rounding against exact sums over positions and against what
// quantizing and encoding really add, and its closed form against the measured one.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>
#include <actpack/variance.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/reference.hpp"
#include "support/statistics.hpp"
#include "support/value_noise.hpp"

namespace {

using actpack::bfloat16;
using actpack::Decoding;
using actpack::float16;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;
using actpack::RoundingNoise;
using actpack::SignMagnitudeBuffer;
using actpack::SignMagnitudeNoise;
using support::noise_of_values;
using support::row_shape;
using support::value_noise;
using support::ValueNoise;

void add(RoundingNoise& sum, std::size_t width, ValueNoise noise) {
  sum.plain[width] += noise.plain;
  sum.subtractive[width] += noise.subtractive;
}

RoundingNoise expected_noise(const std::vector<float>& x, int group_size) {
  RoundingNoise noise;
  for (std::size_t width = 0; width < 4; ++width) {
    for (const ValueNoise& value : noise_of_values(x, group_size, support::all_widths[width])) {
      add(noise, width, value);
    }
  }
  return noise;
}

SignMagnitudeNoise expected_sign_magnitude_noise(const std::vector<float>& y, int group_size) {
  SignMagnitudeNoise noise;
  for (std::size_t width = 0; width < 4; ++width) {
    const reference::Shape shape = row_shape(y, group_size, support::all_widths[width]);
    const reference::SignMagnitude packed = reference::encode_sign_magnitude(y, shape, {});
    for (const reference::Group& group : reference::groups_of(shape)) {
      const auto params = packed.params[static_cast<std::size_t>(group.index)];
      for (int i = 0; i < group.size; ++i) {
        const double value = static_cast<double>(y[static_cast<std::size_t>(group.first + i)]);
        const std::uint16_t step = value > 0 ? params.positive : params.negative;
        const ValueNoise added = value_noise(std::fabs(value), step);
        add(noise.whole, width, added);
        if (value > 0) add(noise.relu, width, added);
      }
    }
  }
  return noise;
}

// Positions resolve 2^-14 of a step and factors are rounded to float, so a position is known to
// 2^-13 steps and f (1 - f) to 2^-13; a subtractive error has no position.
void check_close(const RoundingNoise& got, const RoundingNoise& expected) {
  for (std::size_t width = 0; width < 4; ++width) {
    CAPTURE(width);
    CHECK(std::fabs(got.plain[width] - expected.plain[width]) <=
          0x1p-13 * 12 * expected.subtractive[width]);
    CHECK(std::fabs(got.subtractive[width] - expected.subtractive[width]) <=
          1e-12 * expected.subtractive[width]);
  }
}

void check_all_nan(const RoundingNoise& noise) {
  for (std::size_t width = 0; width < 4; ++width) {
    CHECK(std::isnan(noise.plain[width]));
    CHECK(std::isnan(noise.subtractive[width]));
  }
}

void check_none(const RoundingNoise& noise) {
  CHECK(noise.plain == std::array<double, 4>{});
  CHECK(noise.subtractive == std::array<double, 4>{});
}

double squared_error(const std::vector<float>& decoded, const std::vector<float>& exact) {
  double sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double error = static_cast<double>(decoded[i]) - static_cast<double>(exact[i]);
    sum += error * error;
  }
  return sum;
}

// Squared errors in steps^2 are independent numbers in [0, 1] of mean f (1 - f), so that their
// variance is at most their mean: Bernstein's bound for the mean over values and seeds, weighted by
// each group's squared step, of which `largest_step` is the largest. Another 2^-13 steps^2 a value
// for positions.
struct MeasuredError {
  double plain = 0, subtractive = 0;  // over all values and seeds
  double largest_step = 0;

  void check(const RoundingNoise& predicted, std::size_t width, double size, int seeds) const {
    const double unit = largest_step * largest_step;
    const double count = seeds * size;
    const double plain_radius = support::bernstein_radius(predicted.plain[width] / size / unit, 1,
                                                          count, support::false_alarm / 16);
    CHECK(std::fabs(plain / seeds - predicted.plain[width]) / size <=
          (plain_radius + 0x1p-13) * unit);
    const double subtractive_radius =
        support::bernstein_radius(1.0 / 180, 1.0 / 6, count, support::false_alarm / 16);
    CHECK(std::fabs(subtractive / seeds - predicted.subtractive[width]) / size <=
          (subtractive_radius + 0x1p-13) * unit);
  }
};

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
        check_close(actpack::measure_rounding_noise(x, group_size),
                    expected_noise(support::floats(x), group_size));
      }
    }
  }
}

TEST_CASE(
    "measure_rounding_noise: the default groups are those of a layout, an empty row has none") {
  const std::vector<float> x = support::gaussian(1000, 91);
  CHECK(actpack::measure_rounding_noise(x).plain == actpack::measure_rounding_noise(x, 256).plain);
  check_none(actpack::measure_rounding_noise(std::vector<float>{}));
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
    check_all_nan(actpack::measure_rounding_noise(x, 64));
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
      MeasuredError error;
      for (std::uint64_t seed = 0; seed < seeds; ++seed) {
        const Rounding rounding = Rounding::stochastic(seed, 94);
        actpack::quantize(x, buffer.view(), rounding);
        actpack::dequantize(buffer.view(), decoded);
        error.plain += squared_error(decoded, x);
        actpack::dequantize(buffer.view(), decoded, Decoding::subtractive(rounding));
        error.subtractive += squared_error(decoded, x);
      }
      for (std::size_t group = 0; group < 64; ++group) {
        const float step = buffer.view().params[group].scale;
        error.largest_step = std::max(error.largest_step, static_cast<double>(step));
      }
      error.check(predicted, width, size, seeds);
    }
  }
}

TEST_CASE_TEMPLATE("measure_sign_magnitude_noise: the sums of each side, summed over a row", T,
                   float, bfloat16, float16) {
  for (const std::int64_t size : {1, 2, 31, 33, 256, 257, 1000}) {
    for (const std::int32_t group_size : support::all_group_sizes) {
      for (const support::Data data :
           {support::Data::gaussian, support::Data::relu, support::Data::offset_100,
            support::Data::bfloat16_constant, support::Data::zeros}) {
        for (const bool with_zeros : {false, true}) {
          const char* const name = support::name_of(data);
          CAPTURE(size);
          CAPTURE(group_size);
          CAPTURE(name);
          CAPTURE(with_zeros);
          std::vector<T> y;
          for (const float value : support::make(data, static_cast<std::size_t>(size), 120)) {
            y.push_back(T(with_zeros && y.size() % 3 == 2 ? 0.0F : value));
          }
          const SignMagnitudeNoise got = actpack::measure_sign_magnitude_noise(y, group_size);
          const SignMagnitudeNoise expected =
              expected_sign_magnitude_noise(support::floats(y), group_size);
          check_close(got.relu, expected.relu);
          check_close(got.whole, expected.whole);
        }
      }
    }
  }
}

TEST_CASE("measure_sign_magnitude_noise: the noise of a small tensor is this") {
  // By hand, at two bits: steps 2 and 171/512, the first bfloat16 above 1/3. 3 is 1.5 steps, 6 is 3
  // steps, the zeros are on the negative side, -1 is just short of 3 steps.
  const SignMagnitudeNoise noise =
      actpack::measure_sign_magnitude_noise(std::vector<float>{3, -1, 0.0F, -0.0F, 6});
  const double step = 171.0 / 512;
  const double fraction = 1 / step - 2;
  CHECK(noise.relu.plain[1] == 1);
  CHECK(noise.relu.subtractive[1] == doctest::Approx(2 * 4.0 / 12));
  CHECK(noise.whole.plain[1] ==
        doctest::Approx(1 + fraction * (1 - fraction) * step * step).epsilon(1e-5));
  CHECK(noise.whole.subtractive[1] == doctest::Approx(2 * 4.0 / 12 + 3 * step * step / 12));
  // Without negative values there is no step to move a zero by.
  const SignMagnitudeNoise positive =
      actpack::measure_sign_magnitude_noise(std::vector<float>{3, 0.0F, -0.0F, 6});
  CHECK(positive.whole.subtractive == positive.relu.subtractive);
  CHECK(positive.whole.plain == positive.relu.plain);
}

TEST_CASE("measure_sign_magnitude_noise: default groups, empty rows, poison and refusals") {
  const std::vector<float> y = support::gaussian(1000, 121);
  CHECK(actpack::measure_sign_magnitude_noise(y).whole.plain ==
        actpack::measure_sign_magnitude_noise(y, 256).whole.plain);
  const SignMagnitudeNoise none = actpack::measure_sign_magnitude_noise(std::vector<float>{});
  check_none(none.relu);
  check_none(none.whole);
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> poisoned = y;
    poisoned[300] = bad;
    const SignMagnitudeNoise noise = actpack::measure_sign_magnitude_noise(poisoned, 64);
    check_all_nan(noise.relu);
    check_all_nan(noise.whole);
  }
  // The largest number is beyond bfloat16 at one bit only, and poisons both sides.
  const SignMagnitudeNoise noise = actpack::measure_sign_magnitude_noise(
      std::vector<float>{1.0F, -std::numeric_limits<float>::max()});
  CHECK(std::isnan(noise.relu.plain[0]));
  CHECK(std::isnan(noise.whole.subtractive[0]));
  CHECK(std::isfinite(noise.relu.plain[1]));
  CHECK(std::isfinite(noise.whole.subtractive[1]));
  support::check_refused([&] { (void)actpack::measure_sign_magnitude_noise(y, 48); },
                         {"group_size", "48"});
}

TEST_CASE("measure_sign_magnitude_noise: what encoding adds, measured over seeds") {
  constexpr std::size_t size = 64 * 256;
  constexpr int seeds = 200;
  std::vector<float> y = support::gaussian(size, 122);
  for (std::size_t i = 0; i < size; i += 5) y[i] = 0;  // which subtractive decoding moves
  // Sides of different sizes, so that a test sees if their steps are mixed up.
  for (float& value : y) value = value < 0 ? 3 * value : value;
  std::vector<float> relu_of_y = y;
  for (float& value : relu_of_y) value = std::max(value, 0.0F);
  const SignMagnitudeNoise predicted = actpack::measure_sign_magnitude_noise(y);
  for (std::size_t width = 0; width < 4; ++width) {
    CAPTURE(width);
    SignMagnitudeBuffer buffer(Layout{1, size, 256, support::all_widths[width]});
    std::vector<float> decoded(size);
    MeasuredError relu;
    MeasuredError whole;
    for (std::uint64_t seed = 0; seed < seeds; ++seed) {
      const Rounding rounding = Rounding::stochastic(seed, 123);
      actpack::encode(y, buffer.view(), rounding);
      actpack::decode(buffer.view(), decoded);
      whole.plain += squared_error(decoded, y);
      actpack::decode_relu(buffer.view(), decoded);
      relu.plain += squared_error(decoded, relu_of_y);
      actpack::decode(buffer.view(), decoded, Decoding::subtractive(rounding));
      whole.subtractive += squared_error(decoded, y);
      actpack::decode_relu(buffer.view(), decoded, Decoding::subtractive(rounding));
      relu.subtractive += squared_error(decoded, relu_of_y);
    }
    for (std::size_t group = 0; group < 64; ++group) {
      const float positive = buffer.view().params[group].positive;
      const float negative = buffer.view().params[group].negative;
      relu.largest_step = std::max(relu.largest_step, static_cast<double>(positive));
      whole.largest_step =
          std::max({whole.largest_step, relu.largest_step, static_cast<double>(negative)});
    }
    relu.check(predicted.relu, width, size, seeds);
    whole.check(predicted.whole, width, size, seeds);
  }
}

// Uniform data fill the steps evenly, so the closed form is exact. Its step is the range
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

// As above for the positive side, whose values are uniform between 0 and its largest: the step is
// up to 2^-7 too large, its square 1.6 %; half the values leave 0.2 % of sampling.
TEST_CASE("rounding_sensitivity: predicts one side of a sign-magnitude context") {
  const std::vector<float> y = support::uniform(1024 * 256, 124, -1, 1);
  const SignMagnitudeNoise noise = actpack::measure_sign_magnitude_noise(y);
  std::vector<float> relu_of_y = y;
  for (float& value : relu_of_y) value = std::max(value, 0.0F);
  const auto positive = std::count_if(y.begin(), y.end(), [](float value) { return value > 0; });
  const double sensitivity = actpack::rounding_sensitivity(squared_range_norm(relu_of_y, 256),
                                                           static_cast<double>(positive) / 1024);
  for (std::size_t width = 0; width < 4; ++width) {
    CAPTURE(width);
    const double predicted = actpack::variance_at(sensitivity, support::all_widths[width]);
    CHECK(noise.relu.plain[width] / predicted >= 0.996);
    CHECK(noise.relu.plain[width] / predicted <= 1.02);
    CHECK(noise.relu.subtractive[width] / predicted >= 0.499);
    CHECK(noise.relu.subtractive[width] / predicted <= 0.51);
  }
}
