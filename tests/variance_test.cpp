// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks gains against what a change of one input value does to a gradient computed directly, and
// predicted variances against the measured ones of real gradients.
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
#include <actpack/variance.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/statistics.hpp"
#include "support/value_noise.hpp"

namespace {

using actpack::ConvAxis;
using actpack::Decoding;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;
using support::noise_of_values;
using support::ValueNoise;

// A convolution and its weight gradient, computed as a textbook does: over a frame of zeros, so
// that no tap lies outside.
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

}  // namespace

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
