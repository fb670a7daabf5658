// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// An image's patches laid out as the rows of a matrix, and a matrix product.

#include "layers/convolution.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "common/eigen.hpp"

namespace trainer {
namespace {

std::int64_t taps(const Shape& image) { return 9 * image.channels; }
std::int64_t patches_numel(const Shape& image) { return image.pixels() * taps(image); }
std::int64_t padded_row(const Shape& image) { return (image.width + 2) * image.channels; }

// Channels last makes the three taps of a patch's row neighbours in the padded image: calls
// visit(where they start in the padded image, where they start in the patches).
template <class Visit>
void for_each_patch_row(const Shape& image, const Visit& visit) {
  std::int64_t patch = 0;
  for (std::int64_t row = 0; row < image.height; ++row) {
    for (std::int64_t column = 0; column < image.width; ++column) {
      const std::int64_t corner = row * padded_row(image) + column * image.channels;
      for (std::int64_t tap_row = 0; tap_row < 3; ++tap_row) {
        visit(corner + tap_row * padded_row(image), patch);
        patch += 3 * image.channels;
      }
    }
  }
}

// Calls visit(where a row starts in the image, where it starts in the padded image).
template <class Visit>
void for_each_image_row(const Shape& image, const Visit& visit) {
  for (std::int64_t row = 0; row < image.height; ++row) {
    visit(row * image.width * image.channels, (row + 1) * padded_row(image) + image.channels);
  }
}

// image -> patches, by way of the padded image behind the patches.
void unfold(const Shape& shape, std::span<const float> image, std::span<float> columns) {
  const std::span<float> padded = columns.subspan(static_cast<std::size_t>(patches_numel(shape)));
  std::ranges::fill(padded, 0.0f);
  for_each_image_row(shape, [&](std::int64_t at, std::int64_t at_padded) {
    std::copy_n(&image[static_cast<std::size_t>(at)], shape.width * shape.channels,
                &padded[static_cast<std::size_t>(at_padded)]);
  });
  const float* from = padded.data();
  float* to = columns.data();
  const std::size_t size = static_cast<std::size_t>(3 * shape.channels) * sizeof(float);
  if (shape.channels == 1) {  // too short for a call: the constant lets the compiler inline it
    for_each_patch_row(shape, [=](std::int64_t at, std::int64_t patch) {
      std::memcpy(to + patch, from + at, 3 * sizeof(float));
    });
  } else {
    for_each_patch_row(shape, [=](std::int64_t at, std::int64_t patch) {
      std::memcpy(to + patch, from + at, size);
    });
  }
}

// The transpose of unfold: adds every value of a patch where it came from.
void fold(const Shape& shape, std::span<float> columns, std::span<float> image) {
  const std::span<float> padded = columns.subspan(static_cast<std::size_t>(patches_numel(shape)));
  std::ranges::fill(padded, 0.0f);
  const float* from = columns.data();
  float* to = padded.data();
  const std::int64_t row_taps = 3 * shape.channels;
  for_each_patch_row(shape, [=](std::int64_t at, std::int64_t patch) {
    for (std::int64_t tap = 0; tap < row_taps; ++tap) to[at + tap] += from[patch + tap];
  });
  for_each_image_row(shape, [&](std::int64_t at, std::int64_t at_padded) {
    std::copy_n(&padded[static_cast<std::size_t>(at_padded)], shape.width * shape.channels,
                &image[static_cast<std::size_t>(at)]);
  });
}

// One row for each pixel.
ConstMatrix patches(const Shape& image, std::span<const float> columns) {
  return {columns.data(), image.pixels(), taps(image)};
}
ConstMatrix pixels(const Shape& output, std::span<const float> values) {
  return {values.data(), output.pixels(), output.channels};
}

}  // namespace

Convolution::Convolution(Shape input, std::int64_t output_channels, std::mt19937_64& random)
    : weight(taps(input) * output_channels),
      input_(input), output_{input.height, input.width, output_channels} {
  fill_normal(weight.value.span(), std::sqrt(2.0 / static_cast<double>(taps(input))), random);
}

std::int64_t Convolution::columns_numel() const {
  return patches_numel(input_) + (input_.height + 2) * padded_row(input_);
}

void Convolution::forward(std::span<const float> input, std::span<float> output,
                          std::span<float> columns) const {
  unfold(input_, input, columns);
  Matrix(output.data(), output_.pixels(), output_.channels).noalias() =
      patches(input_, columns) *
      ConstMatrix(weight.value.span().data(), taps(input_), output_.channels);
}

void Convolution::add_weight_gradient(std::span<const float> input,
                                      std::span<const float> output_gradient,
                                      std::span<float> weight_gradient,
                                      std::span<float> columns) const {
  unfold(input_, input, columns);
  Matrix(weight_gradient.data(), taps(input_), output_.channels).noalias() +=
      patches(input_, columns).transpose() * pixels(output_, output_gradient);
}

void Convolution::input_gradient(std::span<const float> output_gradient,
                                 std::span<float> input_gradient, std::span<float> columns) const {
  Matrix(columns.data(), output_.pixels(), taps(input_)).noalias() =
      pixels(output_, output_gradient) *
      ConstMatrix(weight.value.span().data(), taps(input_), output_.channels).transpose();
  fold(input_, columns, input_gradient);
}

}  // namespace trainer
