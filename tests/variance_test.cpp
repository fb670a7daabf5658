// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the noise formulas against the textbook's, gains against what a change of one input value
// does to a gradient computed directly, and the measured noise against exact sums over positions
// and against what quantizing and encoding really add.
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

namespace {

using actpack::bfloat16;
using actpack::ConvAxis;
using actpack::Decoding;
using actpack::float16;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;
using actpack::RoundingNoise;
using actpack::SignMagnitudeBuffer;
using actpack::SignMagnitudeNoise;

// The variances of rounding one value.
struct ValueNoise {
  double plain;
  double subtractive;
};

ValueNoise value_noise(double distance, std::uint16_t step) {
  const double scale = reference::value_of(reference::bfloat16, step);
  const double position = scale == 0 ? 0 : distance / scale;
  const double fraction = position - std::floor(position);
  return {fraction * (1 - fraction) * scale * scale, scale * scale / 12};
}

reference::Shape row_shape(const std::vector<float>& x, int group_size, int bits) {
  return {1, static_cast<std::int64_t>(x.size()), group_size, bits, 0, {}};
}

// Of a row cut into groups, from the reference's parameters and real positions.
std::vector<ValueNoise> noise_of_values(const std::vector<float>& x, int group_size, int bits) {
  std::vector<ValueNoise> noise;
  const reference::Shape shape = row_shape(x, group_size, bits);
  const reference::Packed packed = reference::quantize(x, shape, {});
  for (const reference::Group& group : reference::groups_of(shape)) {
    const reference::Params params = packed.params[static_cast<std::size_t>(group.index)];
    const double min = reference::value_of(reference::bfloat16, params.min);
    for (int i = 0; i < group.size; ++i) {
      const double value = static_cast<double>(x[static_cast<std::size_t>(group.first + i)]);
      noise.push_back(value_noise(value - min, params.scale));
    }
  }
  return noise;
}

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

// A convolution and its weight gradient, computed as a textbook does: over a frame of zeros that
// holds what is strided over, so that nothing ever lies outside.
struct Convolution {
  std::array<ConvAxis, 3> axes;  // depth, height, width
  std::size_t groups = 1;
  std::size_t group_inputs = 1;   // channels
  std::size_t group_outputs = 1;  // channels

  std::size_t input_pixels() const { return pixels(&ConvAxis::input); }
  std::size_t output_pixels() const { return pixels(&ConvAxis::output); }
  std::size_t input_size() const { return groups * group_inputs * input_pixels(); }
  std::size_t output_size() const { return groups * group_outputs * output_pixels(); }

  // x and dy are [channel][pixel], the result is [output channel][input channel of group][tap].
  std::vector<double> weight_gradient(const std::vector<double>& x,
                                      const std::vector<double>& dy) const {
    std::vector<double> gradient;
    for (std::size_t out = 0; out < groups * group_outputs; ++out) {
      for (std::size_t in = 0; in < group_inputs; ++in) {
        const std::size_t channel = out / group_outputs * group_inputs + in;
        const double* const image = x.data() + channel * input_pixels();
        const double* const slope = dy.data() + out * output_pixels();
        const bool transposed = axes[2].transposed;
        const std::vector<double> sums =
            correlate(transposed ? image : slope, transposed ? slope : image);
        gradient.insert(gradient.end(), sums.begin(), sums.end());
      }
    }
    return gradient;
  }

  // ||dy||^2 of every output pixel over the channels of one group.
  std::vector<double> squared_gradient_norms(const std::vector<double>& dy,
                                             std::size_t group) const {
    std::vector<double> norms(output_pixels());
    for (std::size_t channel = 0; channel < group_outputs; ++channel) {
      for (std::size_t pixel = 0; pixel < output_pixels(); ++pixel) {
        const double slope = dy[(group * group_outputs + channel) * output_pixels() + pixel];
        norms[pixel] += slope * slope;
      }
    }
    return norms;
  }

  // The gain of every input value: how much its change by 1 changes all weights' gradients,
  // squared.
  std::vector<double> gains(const std::vector<double>& dy) const {
    std::vector<double> result;
    std::vector<double> x(input_size());
    for (double& value : x) {
      value = 1;
      double sum = 0;
      for (const double change : weight_gradient(x, dy)) sum += change * change;
      result.push_back(sum);
      value = 0;
    }
    return result;
  }

 private:
  std::size_t pixels(std::int64_t ConvAxis::*size) const {
    return static_cast<std::size_t>(axes[0].*size * axes[1].*size * axes[2].*size);
  }

  // The sum over pixels p of strided[p] * frame[p * stride + tap * dilation], for every tap.
  std::vector<double> correlate(const double* strided, const double* spanned) const {
    std::array<std::int64_t, 3> count;
    std::array<std::int64_t, 3> source;
    std::array<std::int64_t, 3> frame;
    for (std::size_t i = 0; i < 3; ++i) {
      count[i] = axes[i].transposed ? axes[i].input : axes[i].output;
      source[i] = axes[i].transposed ? axes[i].output : axes[i].input;
      frame[i] = std::max((count[i] - 1) * axes[i].stride + (axes[i].kernel - 1) * axes[i].dilation,
                          axes[i].padding + source[i] - 1) +
                 1;
    }
    const auto number = [](const std::array<std::int64_t, 3>& shape, std::int64_t z, std::int64_t y,
                           std::int64_t x) {
      return static_cast<std::size_t>((z * shape[1] + y) * shape[2] + x);
    };
    std::vector<double> framed(static_cast<std::size_t>(frame[0] * frame[1] * frame[2]));
    for_each(source, [&](std::int64_t z, std::int64_t y, std::int64_t x) {
      framed[number(frame, z + axes[0].padding, y + axes[1].padding, x + axes[2].padding)] =
          spanned[number(source, z, y, x)];
    });
    std::vector<double> sums;
    for_each({axes[0].kernel, axes[1].kernel, axes[2].kernel},
             [&](std::int64_t a, std::int64_t b, std::int64_t c) {
               double sum = 0;
               for_each(count, [&](std::int64_t z, std::int64_t y, std::int64_t x) {
                 sum += strided[number(count, z, y, x)] *
                        framed[number(frame, z * axes[0].stride + a * axes[0].dilation,
                                      y * axes[1].stride + b * axes[1].dilation,
                                      x * axes[2].stride + c * axes[2].dilation)];
               });
               sums.push_back(sum);
             });
    return sums;
  }

  template <class Visit>
  static void for_each(const std::array<std::int64_t, 3>& shape, Visit visit) {
    for (std::int64_t z = 0; z < shape[0]; ++z) {
      for (std::int64_t y = 0; y < shape[1]; ++y) {
        for (std::int64_t x = 0; x < shape[2]; ++x) visit(z, y, x);
      }
    }
  }
};

// Strides, padding, dilation and groups in one, two and three dimensions: unequal axes, even
// kernels, padding that differs above and below, inputs that no tap sees, kernels larger than the
// image. The last two are transposed.
std::vector<Convolution> convolutions() {
  const ConvAxis unit;
  return {
      {{unit, unit, {.input = 9, .output = 7, .kernel = 3}}, 1, 2, 3},
      {{unit, unit, {.input = 10, .output = 4, .kernel = 3, .stride = 3, .padding = 1}}, 1, 1, 2},
      {{unit, unit, {.input = 11, .output = 2, .kernel = 2, .stride = 7}}, 1, 1, 1},
      {{unit,
        {.input = 5, .output = 5, .kernel = 3, .padding = 1},
        {.input = 6, .output = 3, .kernel = 3, .stride = 2, .padding = 1}},
       2,
       2,
       1},
      {{unit,
        {.input = 7, .output = 3, .kernel = 3, .stride = 2, .padding = 2, .dilation = 3},
        {.input = 6, .output = 6, .kernel = 4, .padding = 1}},
       3,
       1,
       2},
      {{unit,
        {.input = 2, .output = 2, .kernel = 5, .padding = 2},
        {.input = 3, .output = 3, .kernel = 3, .padding = 4, .dilation = 4}},
       1,
       2,
       2},
      {{{{.input = 3, .output = 2, .kernel = 2},
         {.input = 4, .output = 2, .kernel = 3, .stride = 2, .padding = 1},
         {.input = 5, .output = 4, .kernel = 3, .padding = 1, .dilation = 2}}},
       2,
       1,
       2},
      {{unit,
        {.input = 3, .output = 6, .kernel = 4, .stride = 2, .padding = 1, .transposed = true},
        {.input = 4, .output = 5, .kernel = 2, .transposed = true}},
       2,
       2,
       1},
      {{{{.input = 2, .output = 3, .kernel = 2, .transposed = true},
         {.input = 3, .output = 8, .kernel = 3, .stride = 3, .padding = 1, .transposed = true},
         {.input = 4, .output = 9, .kernel = 2, .stride = 2, .dilation = 2, .transposed = true}}},
       1,
       2,
       2},
  };
}

// The axes as a caller would give them: without leading ones of a single pixel.
std::span<const ConvAxis> spatial(const Convolution& convolution) {
  const std::span<const ConvAxis> axes = convolution.axes;
  const bool one = axes[1].input * axes[1].output == 1;
  const bool two = axes[0].input * axes[0].output == 1;
  return axes.subspan(one ? 2 : two ? 1 : 0);
}

std::vector<double> gradient_of(const Convolution& convolution, std::uint64_t seed) {
  support::Generator generator(seed);
  std::vector<double> dy(convolution.output_size());
  for (double& slope : dy) slope = generator.normal() * (1 + generator.below(3));
  return dy;
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
  CHECK(actpack::conv_gain(7, {}) == 7);
  // 3 taps see all of 8 outputs each on 10 pixels, in both directions: 9 / 100.
  const std::vector<ConvAxis> inside(2, {.input = 10, .output = 8, .kernel = 3});
  CHECK(actpack::conv_gain(200, inside) == doctest::Approx(18));
  CHECK(actpack::conv_gain(200, inside, 2) == doctest::Approx(9));
  // Padded, 9 + 10 + 9 pairs of 10 outputs and 10 inputs.
  const std::vector<ConvAxis> padded(2, {.input = 10, .output = 10, .kernel = 3, .padding = 1});
  CHECK(actpack::conv_gain(200, padded) == doctest::Approx(200 * 0.28 * 0.28));
  // Upsampling by 2: 4 taps of 5 inputs reach 20 outputs, less one beyond either end.
  const std::vector<ConvAxis> upsampling(
      1, {.input = 5, .output = 10, .kernel = 4, .stride = 2, .padding = 1, .transposed = true});
  CHECK(actpack::conv_gain(200, upsampling, 4) == doctest::Approx(200 * 18.0 / 50 / 4));
  // w = 2, s = 3, N = 5, dy = 7, sum = 11: 4 / (81 * 25) * (5 * 49 + 121).
  CHECK(actpack::batch_norm_gain(2, 3, 5, 49, 11) == doctest::Approx(4.0 / 2025 * 366));
}

TEST_CASE("conv_gain: pairs of positions that a tap connects, counted one by one") {
  int cases = 0;
  int wrong = 0;
  for (const bool transposed : {false, true}) {
    for (std::int64_t input = 1; input <= 6; ++input) {
      for (std::int64_t output = 1; output <= 6; ++output) {
        for (std::int64_t kernel = 1; kernel <= 4; ++kernel) {
          for (std::int64_t stride = 1; stride <= 3; ++stride) {
            for (std::int64_t padding = 0; padding <= 4; ++padding) {
              for (std::int64_t dilation = 1; dilation <= 3; ++dilation) {
                int pairs = 0;
                for (std::int64_t i = 0; i < input; ++i) {
                  for (std::int64_t o = 0; o < output; ++o) {
                    for (std::int64_t tap = 0; tap < kernel; ++tap) {
                      const std::int64_t reached =
                          (transposed ? i : o) * stride - padding + tap * dilation;
                      pairs += reached == (transposed ? o : i) ? 1 : 0;
                    }
                  }
                }
                const std::vector<ConvAxis> axes{
                    {input, output, kernel, stride, padding, dilation, transposed}};
                const double expected = 30.0 * pairs / static_cast<double>(input * output);
                ++cases;
                wrong += std::fabs(actpack::conv_gain(30, axes) - expected) <= 1e-12 ? 0 : 1;
              }
            }
          }
        }
      }
    }
  }
  CHECK(cases == 2 * 36 * 4 * 3 * 5 * 3);
  CHECK(wrong == 0);
}

TEST_CASE("conv_gain: the largest numbers do not overflow") {
  constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();
  const auto gain = [](const ConvAxis& axis) {
    return actpack::conv_gain(1, std::vector<ConvAxis>{axis});
  };
  CHECK(gain({.input = largest, .output = largest, .kernel = 2}) == doctest::Approx(2.0 / largest));
  CHECK(gain({.input = largest, .output = largest, .kernel = 2, .stride = largest}) ==
        doctest::Approx(2.0 / largest / largest));
  CHECK(gain({.input = largest,
              .output = 2,
              .kernel = 1000,
              .stride = largest,
              .padding = largest,
              .dilation = largest}) == doctest::Approx(2.0 / largest / 2));
}

TEST_CASE("conv_gain_map: what a change of one input value does to the weight gradient") {
  std::uint64_t seed = 100;
  for (const Convolution& convolution : convolutions()) {
    const std::vector<double> dy = gradient_of(convolution, ++seed);
    const std::vector<double> expected = convolution.gains(dy);
    CAPTURE(seed);
    std::vector<double> gains(convolution.input_pixels(), -1);
    std::size_t value = 0;
    for (std::size_t group = 0; group < convolution.groups; ++group) {
      actpack::conv_gain_map(convolution.squared_gradient_norms(dy, group), gains,
                             spatial(convolution));
      for (std::size_t channel = 0; channel < convolution.group_inputs; ++channel) {
        for (const double gain : gains) CHECK(gain == doctest::Approx(expected[value++]));
      }
    }
    CHECK(value == expected.size());
  }
}

TEST_CASE("conv_gain: the mean over all input values where gradients are even") {
  for (const Convolution& convolution : convolutions()) {
    const std::vector<double> dy(convolution.output_size(), 0.5);
    double sum = 0;
    for (const double gain : convolution.gains(dy)) sum += gain;
    CHECK(actpack::conv_gain(0.25 * static_cast<double>(dy.size()), spatial(convolution),
                             static_cast<std::int64_t>(convolution.groups)) ==
          doctest::Approx(sum / static_cast<double>(convolution.input_size())));
  }
}

// The variance of the whole weight gradient, sum over input values of gain times noise. Every
// channel has weights of its own, so the squared errors are quadratic forms whose largest
// eigenvalue is at most a channel's share of the variance: they are spread like a chi-square of
// (variance / largest share) degrees a seed, or less, for rounding errors have a smaller fourth
// moment than normal ones.
TEST_CASE("conv_gain_map: predicts the variance of a convolution's weight gradient") {
  constexpr int seeds = 2000;
  constexpr int bits = 2;
  constexpr std::int32_t group_size = 32;
  std::uint64_t seed = 200;
  for (const Convolution& convolution : convolutions()) {
    CAPTURE(seed);
    const std::vector<float> x = support::gaussian(convolution.input_size(), ++seed);
    const std::vector<double> dy = gradient_of(convolution, ++seed);
    const std::vector<ValueNoise> noise = noise_of_values(x, group_size, bits);

    const std::size_t channel_size = convolution.input_pixels();
    std::vector<double> gains(channel_size);
    ValueNoise predicted{};
    ValueNoise largest_share{};
    for (std::size_t first = 0; first < x.size(); first += channel_size) {
      const std::size_t group = first / channel_size / convolution.group_inputs;
      actpack::conv_gain_map(convolution.squared_gradient_norms(dy, group), gains,
                             spatial(convolution));
      ValueNoise share{};
      for (std::size_t pixel = 0; pixel < channel_size; ++pixel) {
        share.plain += gains[pixel] * noise[first + pixel].plain;
        share.subtractive += gains[pixel] * noise[first + pixel].subtractive;
      }
      predicted.plain += share.plain;
      predicted.subtractive += share.subtractive;
      largest_share.plain = std::max(largest_share.plain, share.plain);
      largest_share.subtractive = std::max(largest_share.subtractive, share.subtractive);
    }

    PackedBuffer buffer(Layout{1, static_cast<std::int64_t>(x.size()), group_size, bits});
    std::vector<float> decoded(x.size());
    std::vector<double> error(x.size());
    const auto variance = [&](const Decoding& decoding) {
      actpack::dequantize(buffer.view(), decoded, decoding);
      for (std::size_t i = 0; i < x.size(); ++i) {
        error[i] = static_cast<double>(decoded[i]) - static_cast<double>(x[i]);
      }
      double sum = 0;
      for (const double weight : convolution.weight_gradient(error, dy)) sum += weight * weight;
      return sum / seeds;
    };
    ValueNoise measured{};
    for (std::uint64_t round = 0; round < seeds; ++round) {
      const Rounding rounding = Rounding::stochastic(round, seed);
      actpack::quantize(x, buffer.view(), rounding);
      measured.plain += variance(Decoding::plain());
      measured.subtractive += variance(Decoding::subtractive(rounding));
    }
    const auto allowed = [](double total, double share) {
      return support::chi_square_ratio(seeds * total / share, support::false_alarm / 16);
    };
    CHECK(allowed(predicted.plain, largest_share.plain).contains(measured.plain / predicted.plain));
    CHECK(allowed(predicted.subtractive, largest_share.subtractive)
              .contains(measured.subtractive / predicted.subtractive));
  }
}

TEST_CASE(
    "conv_gain, conv_gain_map: what is no convolution is refused before anything is written") {
  std::vector<double> norms(4, 1.0);
  std::vector<double> gains(6, -1.0);
  const ConvAxis axis{.input = 3, .output = 2, .kernel = 2};
  const ConvAxis other{.input = 2, .output = 2};
  struct Mistake {
    std::int64_t ConvAxis::*field;
    const char* name;
    std::int64_t value;
  };
  for (const Mistake& mistake : std::initializer_list<Mistake>{
           {&ConvAxis::input, "input", 0},
           {&ConvAxis::output, "output", -1},
           {&ConvAxis::kernel, "kernel", 0},
           {&ConvAxis::stride, "stride", 0},
           {&ConvAxis::padding, "padding", -1},
           {&ConvAxis::dilation, "dilation", 0},
           {&ConvAxis::input, "input", std::int64_t{1} << 31},
           {&ConvAxis::dilation, "dilation", std::int64_t{1} << 31},
       }) {
    std::vector<ConvAxis> axes{axis, other};
    axes[1].*mistake.field = mistake.value;
    const std::vector<std::string> words{"axes", mistake.name, std::to_string(mistake.value)};
    support::check_refused([&] { (void)actpack::conv_gain(1, axes); }, words);
    support::check_refused([&] { actpack::conv_gain_map(norms, gains, axes); }, words);
  }
  const std::vector<ConvAxis> axes{axis, other};
  for (const std::int64_t groups : {0, -2}) {
    support::check_refused([&] { (void)actpack::conv_gain(1, axes, groups); },
                           {"conv_groups", std::to_string(groups)});
  }
  const std::vector<ConvAxis> huge(2, {.input = 1 << 25, .output = 1});
  support::check_refused([&] { (void)actpack::conv_gain(1, huge); }, {"axes", "33554432"});
  norms.resize(3);
  support::check_refused([&] { actpack::conv_gain_map(norms, gains, axes); },
                         {"squared_gradient_norms", "3", "4"});
  norms.resize(4);
  gains.resize(7, -1.0);
  support::check_refused([&] { actpack::conv_gain_map(norms, gains, axes); }, {"gains", "7", "6"});
  CHECK(gains == std::vector<double>(7, -1.0));
}

// The input gradient's two uses of x-hat, each with values of its own, are linear in either: the
// squares of what a change of one value by 1 / s does, summed over both uses and all outputs.
TEST_CASE("batch_norm_gain: what a change of one input value does to the input gradient") {
  constexpr std::size_t count = 12;
  constexpr double weight = -0.7;
  constexpr double deviation = 1.9;
  support::Generator generator(110);
  std::vector<double> x_hat(count);
  std::vector<double> dy(count);
  for (double& value : x_hat) value = generator.normal();
  for (double& value : dy) value = generator.normal();
  double mean = 0;
  for (const double value : x_hat) mean += value / count;
  double square = 0;
  for (double& value : x_hat) square += (value - mean) * (value - mean) / count;
  for (double& value : x_hat) value = (value - mean) / std::sqrt(square);

  const auto input_gradient = [&](const std::vector<double>& outer,
                                  const std::vector<double>& inner) {
    double mean_dy = 0;
    double mean_product = 0;
    for (std::size_t i = 0; i < count; ++i) {
      mean_dy += dy[i] / count;
      mean_product += inner[i] * dy[i] / count;
    }
    std::vector<double> dx;
    for (std::size_t i = 0; i < count; ++i) {
      dx.push_back(weight / deviation * (dy[i] - mean_dy - outer[i] * mean_product));
    }
    return dx;
  };
  const std::vector<double> unchanged = input_gradient(x_hat, x_hat);
  const auto squared_change = [&](const std::vector<double>& changed) {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += std::pow(changed[i] - unchanged[i], 2);
    return sum;
  };
  double dot = 0;
  double squared_norm = 0;
  for (std::size_t i = 0; i < count; ++i) {
    dot += x_hat[i] * dy[i];
    squared_norm += dy[i] * dy[i];
  }
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<double> changed = x_hat;
    changed[i] += 1 / deviation;
    const double gain = squared_change(input_gradient(changed, x_hat)) +
                        squared_change(input_gradient(x_hat, changed));
    CHECK(actpack::batch_norm_gain(weight, deviation, count, dy[i] * dy[i], dot) ==
          doctest::Approx(gain));
    sum += gain;
  }
  CHECK(actpack::batch_norm_gain(weight, deviation, count, squared_norm / count, dot) ==
        doctest::Approx(sum / count));
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
  // Sides of different size, so that no step can pass for the other.
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
