// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A small data set for machines without one: ten kinds of drawn patterns.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

#include "common/data.hpp"

namespace trainer {
namespace {

// The ink, 0 or 1, of pattern `kind` at (x, y), with the pattern filling about [-1, 1]².
double pattern(int kind, double x, double y) {
  const double radius = std::hypot(x, y);
  const double side = std::max(std::abs(x), std::abs(y));
  const auto stripes = [](double value) { return std::sin(7 * value) > 0; };
  switch (kind) {
    case 0: return radius < 0.9;                                             // disc
    case 1: return radius < 0.9 && radius > 0.5;                             // ring
    case 2: return side < 0.8;                                               // square
    case 3: return side < 0.8 && side > 0.45;                                // frame
    case 4: return side < 0.9 && std::min(std::abs(x), std::abs(y)) < 0.25;  // upright cross
    case 5: return side < 0.8 && std::abs(std::abs(x) - std::abs(y)) < 0.3;  // diagonal cross
    case 6: return std::abs(x) < 0.5 * (y + 0.9) && y < 0.8;                 // triangle
    case 7: return side < 0.9 && stripes(x);                                 // upright stripes
    case 8: return side < 0.9 && stripes(y);                                 // level stripes
    default: return side < 0.9 && stripes(x) != stripes(y);                  // chequers
  }
}

}  // namespace

Batch generate_data(std::int64_t images, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * 0x1p-53 * static_cast<double>(random() >> 11);
  };
  Batch data{Tensor<std::uint8_t>(images, 28 * 28), {}};
  for (std::int64_t image = 0; image < images; ++image) {
    const int kind = static_cast<int>(random() % 10);
    data.labels.push_back(static_cast<std::uint8_t>(kind));
    const double angle = uniform(-0.35, 0.35);
    const double size = uniform(6, 12);
    const double x_center = uniform(10, 17);
    const double y_center = uniform(10, 17);
    const double ink = uniform(60, 160);
    const double paper = uniform(0, 60);
    const std::span<std::uint8_t> pixels = data.pixels.image(image);
    for (std::size_t pixel = 0; pixel < pixels.size(); ++pixel) {
      const std::size_t row = pixel / 28;
      const double x = (static_cast<double>(pixel % 28) - x_center) / size;
      const double y = (static_cast<double>(row) - y_center) / size;
      const double drawn = pattern(kind, std::cos(angle) * x + std::sin(angle) * y,
                                   std::cos(angle) * y - std::sin(angle) * x);
      const double noise = uniform(-50, 50) + uniform(-50, 50);
      pixels[pixel] =
          static_cast<std::uint8_t>(std::clamp(paper + ink * drawn + noise, 0.0, 255.0));
    }
  }
  return data;
}

}  // namespace trainer
