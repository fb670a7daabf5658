// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation of one channel on packed contexts: the arithmetic that host and device share.
//
// The forward pass is y = gain · (x − mean) + beta. It saves x, or y and with it the sign that the
// ReLU after it needs. Call the saved value v: the normalised input is x̂ = (v − centre) · inverse.
// Let dy be the gradient with respect to y. Over the M elements of a channel,
//   dx = gain · (dy − Σdy / M − x̂ · Σdy · x̂ / M).
// In each channel this is of_dy · dy + of_v · v + constant, so the backward pass takes two passes
// over the data: one for the sums, one that writes dx.
#pragma once

#include <cmath>
#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::batch_norm {

/// Which channel an element has: element e of memory belongs to channel ⌊e / inner⌋ mod count.
/// Every dense tensor has such an `inner`, whatever the order of its dimensions: the stride of the
/// channels' dimension.
struct Channels {
  std::int64_t count;
  std::int64_t inner;

  ACTPACK_CORE std::int64_t of(std::int64_t element) const { return element / inner % count; }
  /// Elements after which channels repeat.
  ACTPACK_CORE std::int64_t period() const { return count * inner; }
};

/// The tensor that the forward pass packs for the backward pass: v above.
enum class SavedValue : std::int32_t { input, output };

/// Statistics and weights of one channel: four numbers, which a device reads at once.
struct alignas(16) Channel {
  float gain;  // gamma / deviation
  float mean;
  float beta;
  float inverse;

  ACTPACK_CORE float centre(SavedValue saved) const {
    return saved == SavedValue::output ? beta : mean;
  }
  ACTPACK_CORE float normalize(float x) const { return gain * (x - mean) + beta; }
};

/// Returns one channel. Below `smallest_gamma`, |gamma| is too small for a rounded y to give x̂ with
/// the precision of other channels; gamma / smallest_gamma² then stands for 1 / gamma, which makes
/// x̂ smaller than it is.
ACTPACK_CORE inline Channel make_channel(float mean, float variance, float epsilon, float gamma,
                                         float beta, SavedValue saved, float smallest_gamma) {
  const float inverse_deviation = 1 / std::sqrt(variance + epsilon);
  const float square = gamma * gamma;
  const float least_square = smallest_gamma * smallest_gamma;
  const float bound = square < least_square ? least_square : square;
  const float inverse_gamma = bound == 0 ? 0 : gamma / bound;
  return {gamma * inverse_deviation, mean, beta,
          saved == SavedValue::output ? inverse_gamma : inverse_deviation};
}

/// One batch normalisation of at least one element. The forward pass reads statistics and weights
/// and writes `by_channel`; the backward pass reads only that. All pointers name memory of the
/// machine that runs the operation, [channels.count] each.
struct Operation {
  Channels channels;
  SavedValue saved;
  float epsilon = 0;
  float smallest_gamma = 0;  // see make_channel
  const float* mean = nullptr;
  const float* variance = nullptr;
  const float* gamma = nullptr;  // null: 1
  const float* beta = nullptr;   // null: 0
  Channel* by_channel = nullptr;
};

/// Returns channel `c` of an operation.
ACTPACK_CORE inline Channel make_channel(const Operation& operation, std::int64_t c) {
  return make_channel(operation.mean[c], operation.variance[c], operation.epsilon,
                      operation.gamma == nullptr ? 1 : operation.gamma[c],
                      operation.beta == nullptr ? 0 : operation.beta[c], operation.saved,
                      operation.smallest_gamma);
}

/// Computes dx = of_dy · dy + of_v · v + constant in one channel.
struct alignas(16) InputGradient {
  float of_dy, of_v, constant, unused;

  ACTPACK_CORE float operator()(float dy, float v) const {
    return of_dy * dy + of_v * v + constant;
  }
};

/// The gradients of one channel's weights, and the coefficients of its input gradient.
struct ChannelGradients {
  float gamma, beta;
  InputGradient input;
};

/// Returns the gradients of a channel, given Σdy and Σdy · v over its `count` elements. Pass a
/// `count` of 0 if the statistics do not depend on x, as in evaluation: dx is gain · dy then.
ACTPACK_CORE inline ChannelGradients finish_gradients(const Channel& channel, SavedValue saved,
                                                      double sum, double product_sum,
                                                      std::int64_t count) {
  const double inverse = static_cast<double>(channel.inverse);
  const double centre = static_cast<double>(channel.centre(saved));
  const double of_gamma = (product_sum - centre * sum) * inverse;
  InputGradient input{channel.gain, 0, 0, 0};
  if (count != 0) {
    const double share = -static_cast<double>(channel.gain) / static_cast<double>(count);
    const double of_v = share * of_gamma * inverse;
    input.of_v = static_cast<float>(of_v);
    input.constant = static_cast<float>(share * sum - of_v * centre);
  }
  return {static_cast<float>(of_gamma), static_cast<float>(sum), input};
}

}  // namespace actpack::batch_norm
