// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation: y = γ · x̂ + β with x̂ = (x − mean) / deviation, each channel over the batch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/parallel.hpp"
#include "common/parameter.hpp"
#include "common/tensor.hpp"

namespace trainer {

// scale · x + shift, by channel.
struct ChannelMap {
  std::vector<float> scale;
  std::vector<float> shift;

  explicit ChannelMap(std::int64_t channels)
      : scale(static_cast<std::size_t>(channels)), shift(static_cast<std::size_t>(channels)) {}

  // The multiply-add is explicit: the same value gives the same bits wherever this is inlined, so
  // that a ReLU's mask may be computed again.
  float at(std::size_t channel, float value) const {
#ifdef FP_FAST_FMAF
    return std::fma(scale[channel], value, shift[channel]);
#else
    return scale[channel] * value + shift[channel];
#endif
  }

  // `out` may be `in`.
  void operator()(std::span<const float> in, std::span<float> out) const {
    for (std::size_t pixel = 0; pixel < in.size(); pixel += scale.size()) {
      for (std::size_t channel = 0; channel < scale.size(); ++channel) {
        out[pixel + channel] = at(channel, in[pixel + channel]);
      }
    }
  }
};

// Two sums per channel over the pixels of a batch: of `first`, and of first · second.
class ChannelSums {
 public:
  ChannelSums() = default;
  ChannelSums(std::int64_t images, std::int64_t channels)
      : partial_(chunks_for(images), 2 * channels) {
    std::ranges::fill(partial_.span(), 0.0);
  }

  void add(const Chunk& chunk, std::span<const float> first, std::span<const float> second) {
    const std::span<double> sums = partial_.image(chunk.index);
    const std::size_t channels = sums.size() / 2;
    for (std::size_t pixel = 0; pixel < first.size(); pixel += channels) {
      for (std::size_t c = 0; c < channels; ++c) {
        sums[c] += double{first[pixel + c]};
        sums[channels + c] += double{first[pixel + c]} * double{second[pixel + c]};
      }
    }
  }

  // All channels' sums of `first`, then all channels' sums of first · second.
  std::vector<double> totals() const { return sum_chunks(partial_); }

 private:
  Tensor<double> partial_;
};

class BatchNorm {
 public:
  explicit BatchNorm(std::int64_t channels)
      : gamma(channels, 1), beta(channels, 0),
        running_mean_(static_cast<std::size_t>(channels), 0.0),
        running_variance_(static_cast<std::size_t>(channels), 1.0), normalize_(channels),
        apply_(channels), invert_(channels), backward_(channels) {}

  Parameter gamma;
  Parameter beta;

  // x -> x̂ and x -> y, under the statistics last set.
  const ChannelMap& normalize() const { return normalize_; }
  const ChannelMap& apply() const { return apply_; }

  // y -> x̂ = (y − β) / γ, where is_invertible().
  const ChannelMap& invert() const { return invert_; }

  // Whether a rounded y still tells x̂ in every channel: where |γ| is far below the others', the
  // rounding of y is far larger than x̂ itself, and with γ = 0 nothing of x̂ is left.
  bool is_invertible() const {
    float smallest = std::abs(gamma.value.span()[0]);
    float largest = smallest;
    for (const float value : gamma.value.span()) {
      smallest = std::min(smallest, std::abs(value));
      largest = std::max(largest, std::abs(value));
    }
    return smallest > 0 && smallest >= 0x1p-6f * largest;
  }

  // Sets this batch's statistics from Σx and Σx² over `count` pixels, and moves the running ones
  // towards them.
  void use_batch_statistics(std::span<const double> totals, double count) {
    const std::size_t channels = running_mean_.size();
    for (std::size_t c = 0; c < channels; ++c) {
      const double mean = totals[c] / count;
      const double variance = std::max(0.0, totals[channels + c] / count - mean * mean);
      set_statistics(c, mean, variance);
      const double unbiased = variance * count / std::max(1.0, count - 1);
      running_mean_[c] += momentum * (mean - running_mean_[c]);
      running_variance_[c] += momentum * (unbiased - running_variance_[c]);
    }
  }

  void use_running_statistics() {
    for (std::size_t c = 0; c < running_mean_.size(); ++c) {
      set_statistics(c, running_mean_[c], running_variance_[c]);
    }
  }

  // Takes Σdy and Σdy · x̂ over `count` pixels: they are the gradients of β and γ, and with them
  //   dx = γ / deviation · (dy − Σdy / count − x̂ · Σdy · x̂ / count) = gain() · dy + backward()(x̂).
  void begin_backward(std::span<const double> totals, double count) {
    const std::size_t channels = running_mean_.size();
    for (std::size_t c = 0; c < channels; ++c) {
      beta.gradient.span()[c] = static_cast<float>(totals[c]);
      gamma.gradient.span()[c] = static_cast<float>(totals[channels + c]);
      backward_.scale[c] = static_cast<float>(-totals[channels + c] / count * gain()[c]);
      backward_.shift[c] = static_cast<float>(-totals[c] / count * gain()[c]);
    }
  }
  const ChannelMap& backward() const { return backward_; }
  std::span<const float> gain() const { return apply_.scale; }

  // What is left of earlier steps.
  void visit(Checkpoint& checkpoint) {
    checkpoint.visit("running mean", std::span(running_mean_));
    checkpoint.visit("running variance", std::span(running_variance_));
  }

 private:
  static constexpr double momentum = 0.1;
  static constexpr double epsilon = 1e-5;

  void set_statistics(std::size_t c, double mean, double variance) {
    const double inverse_deviation = 1 / std::sqrt(variance + epsilon);
    const double g = gamma.value.span()[c];
    const double b = beta.value.span()[c];
    normalize_.scale[c] = static_cast<float>(inverse_deviation);
    normalize_.shift[c] = static_cast<float>(-mean * inverse_deviation);
    apply_.scale[c] = static_cast<float>(g * inverse_deviation);
    apply_.shift[c] = static_cast<float>(b - g * mean * inverse_deviation);
    invert_.scale[c] = static_cast<float>(1 / g);
    invert_.shift[c] = static_cast<float>(-b / g);
  }

  std::vector<double> running_mean_;
  std::vector<double> running_variance_;
  ChannelMap normalize_;
  ChannelMap apply_;
  ChannelMap invert_;
  ChannelMap backward_;
};

}  // namespace trainer
