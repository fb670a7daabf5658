// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The 3×3 convolution of one image: its patches laid out as a matrix, and a matrix product.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>

#include "eigen.hpp"
#include "parameter.hpp"
#include "tensor.hpp"

namespace trainer {

// 3×3, stride 1, one pixel of zero padding, no bias (batch normalisation follows).
class Convolution {
 public:
  Convolution(Shape input, std::int64_t output_channels, std::mt19937_64& random)
      : weight(9 * input.channels * output_channels),
        input_(input), output_{input.height, input.width, output_channels} {
    fill_normal(weight.value.span(), std::sqrt(2.0 / static_cast<double>(taps())), random);
  }

  Parameter weight;  // [3][3][input channels][output channels]

  Shape input() const { return input_; }
  Shape output() const { return output_; }
  std::int64_t columns_numel() const {
    return patches_numel() + (input_.height + 2) * padded_row();
  }

  // `columns` is scratch of columns_numel() values, here and below.
  void forward(std::span<const float> input, std::span<float> output,
               std::span<float> columns) const {
    unfold(input, columns);
    Matrix(output.data(), output_.pixels(), output_.channels).noalias() =
        patches(columns) * weights();
  }

  // Adds one image's share to `weight_gradient`.
  void add_weight_gradient(std::span<const float> input, std::span<const float> output_gradient,
                           std::span<float> weight_gradient, std::span<float> columns) const {
    unfold(input, columns);
    Matrix(weight_gradient.data(), taps(), output_.channels).noalias() +=
        patches(columns).transpose() * pixels(output_gradient);
  }

  void input_gradient(std::span<const float> output_gradient, std::span<float> input_gradient,
                      std::span<float> columns) const {
    Matrix(columns.data(), output_.pixels(), taps()).noalias() =
        pixels(output_gradient) * weights().transpose();
    fold(columns, input_gradient);
  }

 private:
  std::int64_t taps() const { return 9 * input_.channels; }
  std::int64_t patches_numel() const { return output_.pixels() * taps(); }
  ConstMatrix weights() const { return {weight.value.span().data(), taps(), output_.channels}; }
  ConstMatrix patches(std::span<const float> columns) const {
    return {columns.data(), output_.pixels(), taps()};
  }
  ConstMatrix pixels(std::span<const float> output) const {
    return {output.data(), output_.pixels(), output_.channels};
  }

  std::int64_t padded_row() const { return (input_.width + 2) * input_.channels; }

  // Channels last makes the three taps of a patch's row neighbours in the padded image: calls
  // run(where they start in the padded image, where they start in the patches).
  template <class Run>
  void for_each_run(const Run& run) const {
    std::int64_t patch = 0;
    for (std::int64_t row = 0; row < input_.height; ++row) {
      for (std::int64_t column = 0; column < input_.width; ++column) {
        const std::int64_t corner = row * padded_row() + column * input_.channels;
        for (std::int64_t tap_row = 0; tap_row < 3; ++tap_row) {
          run(corner + tap_row * padded_row(), patch);
          patch += 3 * input_.channels;
        }
      }
    }
  }

  // Calls row(where a row starts in the image, where it starts in the padded image).
  template <class Row>
  void for_each_row(const Row& row) const {
    for (std::int64_t index = 0; index < input_.height; ++index) {
      row(index * input_.width * input_.channels, (index + 1) * padded_row() + input_.channels);
    }
  }

  // image -> patches, by way of the padded image behind the patches.
  void unfold(std::span<const float> image, std::span<float> columns) const {
    const std::span<float> padded = columns.subspan(static_cast<std::size_t>(patches_numel()));
    std::ranges::fill(padded, 0.0f);
    for_each_row([&](std::int64_t at, std::int64_t at_padded) {
      std::copy_n(&image[static_cast<std::size_t>(at)], input_.width * input_.channels,
                  &padded[static_cast<std::size_t>(at_padded)]);
    });
    const float* from = padded.data();
    float* to = columns.data();
    const std::size_t run = static_cast<std::size_t>(3 * input_.channels) * sizeof(float);
    if (input_.channels == 1) {  // too short for a call: the constant lets the compiler inline it
      for_each_run([=](std::int64_t at, std::int64_t patch) {
        std::memcpy(to + patch, from + at, 3 * sizeof(float));
      });
    } else {
      for_each_run(
          [=](std::int64_t at, std::int64_t patch) { std::memcpy(to + patch, from + at, run); });
    }
  }

  // The transpose of unfold: every value of a patch is added where it came from.
  void fold(std::span<float> columns, std::span<float> image) const {
    const std::span<float> padded = columns.subspan(static_cast<std::size_t>(patches_numel()));
    std::ranges::fill(padded, 0.0f);
    const float* from = columns.data();
    float* to = padded.data();
    const std::int64_t run = 3 * input_.channels;
    for_each_run([=](std::int64_t at, std::int64_t patch) {
      for (std::int64_t tap = 0; tap < run; ++tap) to[at + tap] += from[patch + tap];
    });
    for_each_row([&](std::int64_t at, std::int64_t at_padded) {
      std::copy_n(&padded[static_cast<std::size_t>(at_padded)], input_.width * input_.channels,
                  &image[static_cast<std::size_t>(at)]);
    });
  }

  Shape input_;
  Shape output_;
};

}  // namespace trainer
