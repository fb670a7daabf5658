// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Ten kinds of synthetic activations, each 1024 groups of 256 values, on which the error of codecs
// is compared.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/data.hpp"

namespace bench {

inline constexpr std::int64_t group_size = 256;
inline constexpr std::int64_t groups_per_set = 1024;

struct Distribution {
  std::string name;
  std::string description;
  bool is_relu_output;
  std::function<std::vector<float>()> draw;
};

/// Every value is value(generator, index), where the index tells group and place.
template <class Value>
std::vector<float> draw_values(std::uint64_t seed, const Value& value) {
  support::Generator generator(seed);
  std::vector<float> x(group_size * groups_per_set);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(value(generator, i));
  }
  return x;
}

/// Activations of a batch of 32 samples with 32 channels, a group each: N(0, 1) times e^N(0, 1) of
/// the channel times e^N(0, 0.3²) of the sample.
inline std::vector<float> draw_channel_scales(std::uint64_t seed) {
  support::Generator generator(seed);
  std::array<double, 32> channel{};
  std::array<double, 32> sample{};
  std::ranges::generate(channel, [&] { return std::exp(generator.normal()); });
  std::ranges::generate(sample, [&] { return std::exp(0.3 * generator.normal()); });
  return draw_values(seed + 1, [&](support::Generator& values, std::size_t i) {
    const std::size_t group = i / group_size;
    return channel[group % 32] * sample[group / 32] * values.normal();
  });
}

/// Tokens of 1024 channels, four groups each: N(0, 1), but times 20 in ten channels.
inline std::vector<float> draw_outlier_channels(std::uint64_t seed) {
  support::Generator generator(seed);
  std::array<bool, 1024> is_outlier{};
  for (int found = 0; found < 10;) {
    bool& chosen = is_outlier[generator.below(1024)];
    found += chosen ? 0 : 1;
    chosen = true;
  }
  return draw_values(seed + 1, [&](support::Generator& values, std::size_t i) {
    return (is_outlier[i % 1024] ? 20 : 1) * values.normal();
  });
}

/// Maps of 32 × 32, four groups of eight rows each: white noise under a Gaussian of σ = 2 that
/// wraps around, scaled to variance 1, plus white noise of deviation 0.3.
inline std::vector<float> draw_maps(std::uint64_t seed) {
  constexpr int side = 32;
  std::array<double, side> kernel{};
  double sum_of_squares = 0;
  for (int offset = 0; offset < side; ++offset) {
    const double distance = std::min(offset, side - offset);
    kernel[static_cast<std::size_t>(offset)] = std::exp(-distance * distance / 8);
  }
  for (const double weight : kernel) {
    sum_of_squares += weight * weight;
  }
  const double scale = 1 / sum_of_squares;  // the kernel acts along both axes
  support::Generator generator(seed);
  std::vector<float> x;
  using Map = std::array<std::array<double, side>, side>;
  const auto smooth_and_transpose = [&](const Map& from) {
    Map to{};
    for (std::size_t row = 0; row < side; ++row) {
      for (std::size_t column = 0; column < side; ++column) {
        for (std::size_t other = 0; other < side; ++other) {
          to[column][row] += kernel[(other + side - column) % side] * from[row][other];
        }
      }
    }
    return to;
  };
  for (std::int64_t map = 0; map < groups_per_set * group_size / (side * side); ++map) {
    Map noise{};
    for (auto& row : noise) {
      std::ranges::generate(row, [&] { return generator.normal(); });
    }
    for (const auto& row : smooth_and_transpose(smooth_and_transpose(noise))) {
      for (const double value : row) {
        x.push_back(static_cast<float>(scale * value + 0.3 * generator.normal()));
      }
    }
  }
  return x;
}

inline std::vector<float> relu_of(std::vector<float> x) {
  std::ranges::transform(x, x.begin(), [](float value) { return std::max(value, 0.0f); });
  return x;
}

inline std::vector<Distribution> distributions() {
  using support::Generator;
  return {
      {"gauss", "N(0, 1)", false,
       [] { return draw_values(1, [](Generator& g, std::size_t) { return g.normal(); }); }},
      {"relu", "max(0, N(0, 1))", true,
       [] {
         return relu_of(draw_values(2, [](Generator& g, std::size_t) { return g.normal(); }));
       }},
      {"gelu", "z Φ(z) of z ~ N(0, 1)", false,
       [] {
         return draw_values(3, [](Generator& g, std::size_t) {
           const double z = g.normal();
           return z / 2 * std::erfc(-z / std::sqrt(2.0));
         });
       }},
      {"t3", "Student's t with 3 degrees of freedom", false,
       [] {
         return draw_values(4, [](Generator& g, std::size_t) {
           const double a = g.normal();
           const double b = g.normal();
           const double c = g.normal();
           return g.normal() / std::sqrt((a * a + b * b + c * c) / 3);
         });
       }},
      {"relu_channel_scales", "max(0, .) of gauss_channel_scales", true,
       [] { return relu_of(draw_channel_scales(5)); }},
      {"gauss_channel_scales",
       "N(0, 1) exp(N(0, 1)) of the channel exp(N(0, 0.3^2)) of the sample, a group each", false,
       [] { return draw_channel_scales(7); }},
      {"outlier_channels", "N(0, 1), times 20 in 10 of 1024 channels; a token is four groups",
       false, [] { return draw_outlier_channels(9); }},
      {"lognormal", "exp(N(0, 1.5^2)), as softmax gives", false,
       [] {
         return draw_values(11,
                            [](Generator& g, std::size_t) { return std::exp(1.5 * g.normal()); });
       }},
      {"relu_maps", "max(0, .) of gauss_maps", true, [] { return relu_of(draw_maps(12)); }},
      {"gauss_maps",
       "32 x 32 maps: N(0, 1) smoothed with sigma 2 plus N(0, 0.3^2); a group is 8 rows", false,
       [] { return draw_maps(13); }},
  };
}

}  // namespace bench
