// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Measures that values come back right on average, alone and in sums, with independent noise of the
// size that theory states: gradients depend on it. Seeds are fixed. Every threshold states how
// often it would alarm falsely if they were not.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/reference.hpp"
#include "support/statistics.hpp"

namespace {

using actpack::Decoding;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;

constexpr std::array activations{support::Data::gaussian, support::Data::relu,
                                 support::Data::offset_100};

double scale_of(const PackedBuffer& buffer, std::size_t group) {
  return static_cast<double>(static_cast<float>(buffer.view().params[group].scale));
}

// f (1 - f) with f the fraction of a step at which x lies: the variance of rounding it, in steps^2.
double rounding_variance(const PackedBuffer& buffer, std::size_t group, float x) {
  const actpack::GroupParams params = buffer.view().params[group];
  const double position =
      (static_cast<double>(x) - static_cast<double>(static_cast<float>(params.min))) /
      scale_of(buffer, group);
  const double fraction = position - std::floor(position);
  return fraction * (1 - fraction);
}

// Decoded values minus x in steps of their groups.
std::vector<double> errors_in_steps(const std::vector<float>& x, PackedBuffer& buffer,
                                    const Rounding& rounding, const Decoding& decoding) {
  std::vector<float> decoded(x.size());
  actpack::quantize(x, buffer.view(), rounding);
  actpack::dequantize(buffer.view(), decoded, decoding);
  std::vector<double> errors(x.size());
  const auto group_size = static_cast<std::size_t>(buffer.layout().group_size);
  for (std::size_t i = 0; i < x.size(); ++i) {
    errors[i] = (static_cast<double>(decoded[i]) - static_cast<double>(x[i])) /
                scale_of(buffer, i / group_size);
  }
  return errors;
}

// The distance from 100 to the next float is 2^-17, and the widest step of 8 bits here is 1 / 64:
// the decoded value's own rounding is 2^-12 steps at most. By contract the bias is 2^-13 steps.
constexpr double allowed_bias = 0x1p-12 + 0x1p-13;

struct Means {
  std::vector<double> element;  // of each element's error
  double sum = 0;               // of the group's summed error
};

// A careless codec, as published systems are: it makes codes against min and step in float, and
// decodes with both rounded to bfloat16.
Means means_of_careless_codec(const std::vector<float>& x, int bits, int seeds, double step) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const double min = static_cast<double>(*low);
  const double scale = (static_cast<double>(*high) - min) / reference::max_code(bits);
  const auto stored_min = static_cast<double>(static_cast<float>(actpack::bfloat16(*low)));
  const auto stored_scale =
      static_cast<double>(static_cast<float>(actpack::bfloat16(static_cast<float>(scale))));
  support::Generator generator(70);
  Means means{std::vector<double>(x.size(), 0.0)};
  for (int seed = 0; seed < seeds; ++seed) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double value = static_cast<double>(x[i]);
      const double code = std::floor((value - min) / scale + generator.uniform());
      means.element[i] += (stored_min + stored_scale * code - value) / step / seeds;
    }
  }
  for (const double mean : means.element) means.sum += mean;
  return means;
}

}  // namespace

// Every element's mean over the seeds is a mean of independent roundings of variance f (1 - f) that
// stay within a step: Bernstein's bound, one false alarm in a million over all of the comparisons.
TEST_CASE("unbiased: every element's mean over seeds is the element, for every width") {
  constexpr int seeds = 2000;
  constexpr std::size_t size = 512;
  constexpr double comparisons = 4 * 3 * 3 * static_cast<double>(size);
  for (const int bits : support::all_widths) {
    for (const support::Data data : activations) {
      for (const float alpha : {0.0F, 0.5F, 1.0F}) {
        const char* const name = support::name_of(data);
        CAPTURE(bits);
        CAPTURE(name);
        CAPTURE(static_cast<double>(alpha));
        const std::vector<float> x = support::make(data, size, 71);
        PackedBuffer buffer(Layout{1, size, 256, bits});
        std::vector<double> mean(size, 0.0);
        for (int seed = 0; seed < seeds; ++seed) {
          const Rounding rounding = Rounding::stochastic(static_cast<std::uint64_t>(seed), 72);
          const std::vector<double> errors =
              errors_in_steps(x, buffer, rounding, Decoding::subtractive(rounding, alpha));
          for (std::size_t i = 0; i < size; ++i) mean[i] += errors[i] / seeds;
        }
        int biased = 0;
        double sum = 0;
        double variance_sum = 0;
        for (std::size_t i = 0; i < size; ++i) {
          const double share = static_cast<double>(alpha);
          const double variance =
              rounding_variance(buffer, i / 256, x[i]) * (1 - share) + share * share / 12 + 0x1p-13;
          const double radius =
              support::bernstein_radius(variance, 1, seeds, support::false_alarm / comparisons);
          biased += std::fabs(mean[i]) > radius + allowed_bias ? 1 : 0;
          sum += mean[i];
          variance_sum += variance;
        }
        CHECK(biased == 0);
        // The sums: seeds * size roundings, of which only the two of a pair share random bits
        // (covariance at most 0.001, nothing on average).
        const double radius = support::bernstein_radius(
            variance_sum / size, 1, seeds * static_cast<double>(size), support::false_alarm / 36);
        CHECK(std::fabs(sum / size) <= radius + allowed_bias);
      }
    }
  }
}

TEST_CASE("unbiased: this test sees the bias of parameters rounded after encoding") {
  constexpr int seeds = 2000;
  constexpr std::size_t size = 256;
  const std::vector<float> x = support::make(support::Data::offset_100, size, 71);
  PackedBuffer buffer(Layout{1, size, 256, 8});
  actpack::quantize(x, buffer.view(), Rounding::nearest());
  const Means means = means_of_careless_codec(x, 8, seeds, scale_of(buffer, 0));
  int biased = 0;
  for (const double mean : means.element) {
    const double radius =
        support::bernstein_radius(0.25 + 0x1p-13, 1, seeds, support::false_alarm / size);
    biased += std::fabs(mean) > radius + allowed_bias ? 1 : 0;
  }
  CHECK(biased > static_cast<int>(size) / 2);
  CHECK(std::fabs(means.sum / size) >
        allowed_bias + support::bernstein_radius(0.25, 1, seeds * size, support::false_alarm));
}

// The squared errors of one tensor over many seeds: independent numbers in [0, 1] steps^2 of mean
// f (1 - f), hence of variance at most that mean.
TEST_CASE("variance: f (1 - f) step^2 plainly, step^2 / 12 subtractively") {
  constexpr int seeds = 400;
  constexpr std::size_t size = 1024;
  for (const int bits : support::all_widths) {
    for (const support::Data data : {support::Data::gaussian, support::Data::relu}) {
      const char* const name = support::name_of(data);
      CAPTURE(bits);
      CAPTURE(name);
      const std::vector<float> x = support::make(data, size, 73);
      PackedBuffer buffer(Layout{1, size, 256, bits});
      double plain = 0;
      double subtractive = 0;
      for (int seed = 0; seed < seeds; ++seed) {
        const Rounding rounding = Rounding::stochastic(74, static_cast<std::uint64_t>(seed));
        for (const double error : errors_in_steps(x, buffer, rounding, Decoding::plain())) {
          plain += error * error / (seeds * size);
        }
        for (const double error :
             errors_in_steps(x, buffer, rounding, Decoding::subtractive(rounding))) {
          subtractive += error * error / (seeds * size);
        }
      }
      double expected = 0;
      for (std::size_t i = 0; i < size; ++i) {
        expected += rounding_variance(buffer, i / 256, x[i]) / size;
      }
      const double count = seeds * static_cast<double>(size);
      const double probability = support::false_alarm / 16;
      // Positions are known to 2^-13 steps, which moves f (1 - f) by no more.
      CHECK(std::fabs(plain - expected) <=
            support::bernstein_radius(expected, 1, count, probability) + 0x1p-13);
      // The square of a number uniform in +-1/2 has mean 1 / 12 and variance 1 / 180.
      CHECK(std::fabs(subtractive - 1.0 / 12) <=
            support::bernstein_radius(1.0 / 180, 1.0 / 6, count, probability) + 0x1p-13);
    }
  }
}

// Sums over a group with weights of one sign and of alternating signs: correlated neighbours would
// raise one and lower the other. 64 groups and 256 seeds give 16384 independent sums, each of 256
// roundings and so close to normal; their squares over their variances add up to a chi-square.
TEST_CASE("independence: the noise of a weighted sum is that of independent roundings") {
  constexpr int seeds = 256;
  constexpr std::size_t groups = 64;
  constexpr std::size_t group_size = 256;
  constexpr std::size_t size = groups * group_size;
  const support::Interval allowed =
      support::chi_square_ratio(seeds * static_cast<double>(groups), support::false_alarm / 40);
  for (const int bits : {1, 2, 8}) {
    for (const bool constant_fraction : {false, true}) {
      std::vector<float> x = support::gaussian(size, 75);
      for (std::size_t i = 0; constant_fraction && i < size; ++i) {
        // All values but the two ends of each group are at 0.4 of the first step, where shared bits
        // show most.
        const auto top = static_cast<float>(reference::max_code(bits));
        x[i] = i % group_size == 0 ? 0.0F : i % group_size == 1 ? top : 0.4F;
      }
      for (const bool subtractive : {false, true}) {
        for (const int weights : {0, 1, 2, 3}) {
          CAPTURE(bits);
          CAPTURE(constant_fraction);
          CAPTURE(subtractive);
          CAPTURE(weights);
          const auto weight = [weights](std::size_t i) {
            switch (weights) {
              case 0: return 1.0;
              case 1: return i % 2 == 0 ? 1.0 : -1.0;             // the pair of a half-word
              case 2: return i % 4 < 2 ? 1.0 : -1.0;              // the half-words of a word
              default: return i % group_size < 128 ? 1.0 : -1.0;  // the halves of a group
            }
          };
          PackedBuffer buffer(Layout{1, size, group_size, bits});
          double ratio = 0;
          for (int seed = 0; seed < seeds; ++seed) {
            const Rounding rounding = Rounding::stochastic(static_cast<std::uint64_t>(seed), 76);
            const std::vector<double> errors =
                errors_in_steps(x, buffer, rounding,
                                subtractive ? Decoding::subtractive(rounding) : Decoding::plain());
            for (std::size_t group = 0; group < groups; ++group) {
              double sum = 0;
              double variance = 0;
              for (std::size_t i = group * group_size; i < (group + 1) * group_size; ++i) {
                sum += weight(i) * errors[i];
                variance += subtractive ? 1.0 / 12 : rounding_variance(buffer, group, x[i]);
              }
              ratio += sum * sum / variance / (seeds * groups);
            }
          }
          // A pair's covariance of at most 0.001 adds or takes at most 0.001 / (0.4 * 0.6) = 0.4 %
          // where every fraction is 0.4, and nothing on average over fractions; the bias of 2^-13
          // steps, 256 times in a sum, is at most 0.03 against a deviation of 4.6 or more.
          CHECK(ratio >= allowed.low - 0.005);
          CHECK(ratio <= allowed.high + 0.005);
        }
      }
    }
  }
}

// The errors of subtractive decoding are uniform whatever x is. Any structure in their correlations
// comes from the random bits.
TEST_CASE("independence: no correlation between neighbours, groups, tensors, seeds or steps") {
  constexpr std::size_t size = 1 << 18;
  constexpr std::size_t group_size = 256;
  const std::vector<float> x = support::uniform(size, 77, 0, 3);
  PackedBuffer buffer(Layout{1, size, group_size, 2});
  const auto errors_of = [&](std::uint64_t seed, std::uint64_t offset, bool subtractive) {
    const Rounding rounding = Rounding::stochastic(seed, offset);
    return errors_in_steps(x, buffer, rounding,
                           subtractive ? Decoding::subtractive(rounding) : Decoding::plain());
  };
  constexpr double comparisons = 2 * (11 + 7);
  const double probability = support::false_alarm / comparisons;
  for (const bool subtractive : {false, true}) {
    CAPTURE(subtractive);
    const std::vector<double> errors = errors_of(1000, 10, subtractive);
    for (const std::size_t lag :
         std::initializer_list<std::size_t>{1, 2, 3, 4, 6, 7, 8, 128, 256, 512, 65536}) {
      CAPTURE(lag);
      const std::vector<double> early(errors.begin(),
                                      errors.end() - static_cast<std::ptrdiff_t>(lag));
      const std::vector<double> late(errors.begin() + static_cast<std::ptrdiff_t>(lag),
                                     errors.end());
      CHECK(std::fabs(support::correlation(early, late)) <=
            support::correlation_radius(static_cast<double>(size - lag), probability));
    }
    // Other tensors (offsets), steps (seeds), and the pairs that a sum of both would confuse.
    const std::array<std::array<std::uint64_t, 2>, 7> others{
        {{1000, 11}, {1000, 9}, {1001, 10}, {999, 10}, {1001, 9}, {999, 11}, {10, 1000}}};
    for (const std::array<std::uint64_t, 2>& other : others) {
      const std::uint64_t seed = other[0];
      const std::uint64_t offset = other[1];
      CAPTURE(seed);
      CAPTURE(offset);
      CHECK(std::fabs(support::correlation(errors, errors_of(seed, offset, subtractive))) <=
            support::correlation_radius(size, probability));
    }
  }
}

TEST_CASE("independence: the same seed and offset give the same noise, whatever ran before") {
  const std::vector<float> x = support::gaussian(5000, 78);
  PackedBuffer buffer(Layout{1, 5000, 64, 2});
  const Rounding rounding = Rounding::stochastic(79, 80);
  const std::vector<double> first = errors_in_steps(x, buffer, rounding, Decoding::plain());
  (void)errors_in_steps(x, buffer, Rounding::stochastic(81, 82), Decoding::plain());
  CHECK(errors_in_steps(x, buffer, rounding, Decoding::plain()) == first);
}

// 1024 groups of 256. A group's noise follows its squared range, which varies by a quarter from
// group to group on normal data, so the mean of 1024 by 0.8 %: 3 % is almost four deviations, and
// the stated figures are rounded to 0.3 % themselves.
TEST_CASE("noise: on Gaussian and ReLU data what the design states") {
  constexpr std::size_t size = 1024 * 256;
  const auto check_noise = [](const std::vector<float>& x, int bits, double plain,
                              double subtractive) {
    PackedBuffer buffer(Layout{1024, 256, 256, bits});
    const Rounding rounding = Rounding::stochastic(83, 0);
    std::vector<float> decoded(x.size());
    actpack::quantize(x, buffer.view(), rounding);
    actpack::dequantize(buffer.view(), decoded);
    const double got_plain = support::relative_energy(decoded, x);
    actpack::dequantize(buffer.view(), decoded, Decoding::subtractive(rounding));
    const double got_subtractive = support::relative_energy(decoded, x);
    CAPTURE(got_plain);
    CAPTURE(got_subtractive);
    CHECK(std::fabs(got_plain / plain - 1) <= 0.03);
    CHECK(std::fabs(got_subtractive / subtractive - 1) <= 0.03);
  };
  const std::vector<float> gaussian = support::gaussian(size, 84);
  std::vector<float> relu = support::relu_of_gaussian(size, 84);
  check_noise(gaussian, 2, 0.596, 0.299);
  check_noise(relu, 2, 0.151, 0.152);

  // With the exact mask a ReLU's zeros stay zeros, and subtractive decoding halves the remaining
  // noise.
  PackedBuffer buffer(Layout{1024, 256, 256, 2});
  const Rounding rounding = Rounding::stochastic(85, 0);
  std::vector<float> decoded(size);
  actpack::quantize(relu, buffer.view(), rounding);
  actpack::dequantize(buffer.view(), decoded, Decoding::subtractive(rounding));
  for (std::size_t i = 0; i < size; ++i) decoded[i] = relu[i] > 0 ? decoded[i] : 0.0F;
  CHECK(std::fabs(support::relative_energy(decoded, relu) / 0.076 - 1) <= 0.03);

  // Rounding to nearest is as quiet as subtractive decoding, but the mean of its errors is not
  // zero.
  actpack::quantize(gaussian, buffer.view(), Rounding::nearest());
  actpack::dequantize(buffer.view(), decoded);
  CHECK(std::fabs(support::relative_energy(decoded, gaussian) / 0.300 - 1) <= 0.03);
}
