// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// 2×2 maximum pooling of one image, after a ReLU. An odd last row or column is left out.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "common/tensor.hpp"

namespace trainer {

// Where the values of a block's output come from: the maximum of each 2×2 window or, without
// pooling, simply every value. `argmax` holds the window position (0 to 3, row by row) of every
// output value and is empty without pooling.
class Pooling {
 public:
  Pooling(Shape input, bool is_pooled)
      : input_(input),
        output_(is_pooled ? Shape{input.height / 2, input.width / 2, input.channels} : input),
        is_pooled_(is_pooled) {}

  Shape input() const { return input_; }
  Shape output() const { return output_; }
  std::int64_t argmax_numel() const { return is_pooled_ ? output_.numel() : 0; }

  // output = the largest value of each window or 0; argmax = where it was.
  void forward(std::span<const float> input, std::span<float> output,
               std::span<std::uint8_t> argmax) const {
    if (!is_pooled_) {
      std::ranges::transform(input, output.begin(),
                             [](float value) { return std::max(value, 0.0f); });
      return;
    }
    for_each_window([&](const std::array<std::int64_t, 4>& corners, std::int64_t at) {
      const float* __restrict in = input.data();
      float* __restrict out = output.data() + at;
      std::uint8_t* __restrict positions = argmax.data() + at;
      for (std::int64_t c = 0; c < output_.channels; ++c) {
        float largest = in[corners[0] + c];
        int position = 0;
        for (int corner = 1; corner < 4; ++corner) {
          const float value = in[corners[static_cast<std::size_t>(corner)] + c];
          position = value > largest ? corner : position;
          largest = std::max(largest, value);
        }
        out[c] = std::max(largest, 0.0f);
        positions[c] = static_cast<std::uint8_t>(position);
      }
    });
  }

  // Replaces every output value by map(channel, the maximal input value, itself).
  template <class Map>
  void map_from_maxima(std::span<const float> input, std::span<const std::uint8_t> argmax,
                       std::span<float> output, const Map& map) const {
    for_each_window([&](const std::array<std::int64_t, 4>& corners, std::int64_t at) {
      const float* __restrict in = input.data();
      const std::uint8_t* __restrict positions = argmax.data() + at;
      float* __restrict out = output.data() + at;
      for (std::int64_t c = 0; c < output_.channels; ++c) {
        const int position = is_pooled_ ? positions[c] : 0;
        // All four, so that no branch depends on data.
        const float window[4] = {in[corners[0] + c], in[corners[1] + c], in[corners[2] + c],
                                 in[corners[3] + c]};
        const float top = position == 0 ? window[0] : window[1];
        const float bottom = position == 2 ? window[2] : window[3];
        const float value = position < 2 ? top : bottom;
        out[c] = map(static_cast<std::size_t>(c), value, out[c]);
      }
    });
  }

  // output = the values of `input` at the maxima `argmax`.
  void gather(std::span<const float> input, std::span<const std::uint8_t> argmax,
              std::span<float> output) const {
    map_from_maxima(input, argmax, output, [](std::size_t, float value, float) { return value; });
  }

  // Adds gain[channel] · output to `input` at the maxima `argmax`.
  void scatter_add(std::span<const float> output, std::span<const std::uint8_t> argmax,
                   std::span<const float> gain, std::span<float> input) const {
    for_each_maximum(argmax, [&](std::int64_t channel, std::int64_t at, std::int64_t from) {
      input.data()[from] += gain.data()[channel] * output.data()[at];
    });
  }

  // Calls visit(channel, index in the output, index in the input) for every maximum.
  template <class Visit>
  void for_each_maximum(std::span<const std::uint8_t> argmax, const Visit& visit) const {
    for_each_window([&](const std::array<std::int64_t, 4>& corners, std::int64_t at) {
      for (std::int64_t c = 0; c < output_.channels; ++c) {
        visit(c, at + c, corners[is_pooled_ ? argmax.data()[at + c] : 0] + c);
      }
    });
  }

 private:
  // Calls visit(where the window's four pixels start in the input, where its pixel starts in the
  // output). Without pooling a window is one pixel, four times.
  template <class Visit>
  void for_each_window(const Visit& visit) const {
    const std::int64_t stride = is_pooled_ ? 2 : 1;
    const std::int64_t right = is_pooled_ ? input_.channels : 0;
    const std::int64_t below = is_pooled_ ? input_.width * input_.channels : 0;
    std::int64_t at = 0;
    for (std::int64_t row = 0; row < output_.height; ++row) {
      for (std::int64_t column = 0; column < output_.width; ++column, at += output_.channels) {
        const std::int64_t corner = stride * (row * input_.width + column) * input_.channels;
        visit({corner, corner + right, corner + below, corner + below + right}, at);
      }
    }
  }

  Shape input_;
  Shape output_;
  bool is_pooled_;
};

}  // namespace trainer
