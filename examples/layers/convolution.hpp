// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The 3×3 convolution of one image.
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "common/parameter.hpp"
#include "common/tensor.hpp"

namespace trainer {

// 3×3, stride 1, one pixel of zero padding, no bias (batch normalisation follows). `columns` is
// scratch of columns_numel() values everywhere.
class Convolution {
 public:
  Convolution(Shape input, std::int64_t output_channels, std::mt19937_64& random);

  Parameter weight;  // [3][3][input channels][output channels]

  Shape input() const { return input_; }
  Shape output() const { return output_; }
  std::int64_t columns_numel() const;

  void forward(std::span<const float> input, std::span<float> output,
               std::span<float> columns) const;

  // Adds one image's share to `weight_gradient`.
  void add_weight_gradient(std::span<const float> input, std::span<const float> output_gradient,
                           std::span<float> weight_gradient, std::span<float> columns) const;

  void input_gradient(std::span<const float> output_gradient, std::span<float> input_gradient,
                      std::span<float> columns) const;

 private:
  Shape input_;
  Shape output_;
};

}  // namespace trainer
