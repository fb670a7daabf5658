// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that actpack/variance.hpp predicts the variance that rounding gives real gradients: one
// layer's activations are rounded many times over while all else stays exact, and the variance of
// its gradient is compared with the closed forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "research/drawn_gradients.hpp"
#include "research/recorded_step.hpp"

namespace research {

using namespace trainer;

// The variance of one layer's gradient, and what the formulas make of it.
struct VarianceReport : DrawnVariance {
  enum class Quantity {
    weight_gradient,        // the layer's input is rounded
    gradient_one_rounding,  // batch norm's input gradient: x̂ is rounded once, as in the trainer
    gradient_two_roundings  // the same, with x̂ rounded anew for each of its two uses
  };

  std::string layer;
  Quantity quantity = Quantity::weight_gradient;
  Codec codec;
  double from_ranges = 0;     // ActNN's model: mean gain · noise as the groups' ranges have it
  double from_mean_gain = 0;  // mean gain · measured noise, sample by sample
  double from_values = 0;     // gain · measured noise, value by value, and no term left out
};

// The variance that rounding gives the values of one stored row.
struct RowNoise {
  std::vector<double> from_ranges;  // by value, as if it lay anywhere between two codes
  std::vector<double> by_value;     // by value, from where it lies
  double total = 0;                 // of all values, as the library measures it
};

// The reader of a row of a sign-magnitude context: of the ReLU's output only the positive values
// carry noise.
enum class Reader { relu, whole };

RowNoise measure_row_noise(std::span<const float> row, const Codec& codec, Reader reader);

// The stored row of one image that a layer reads its input from.
class StoredInput {
 public:
  StoredInput(const StepRecord& record, std::size_t layer, const Codec& codec)
      : record_(record), layer_(layer), codec_(codec) {}

  RowNoise row_noise(std::int64_t image) const {
    return measure_row_noise(row(image), codec_, Reader::relu);
  }

  // The noise of each input value, from that of the stored row. An affine copy is of the input
  // itself. If its decoding is subtractive, the ReLU's mask takes the noise from its zeros, which
  // the model of ranges does not know. A sign-magnitude context lies before pooling. Only the
  // maxima are read, so only their noise counts.
  RowNoise input_noise(const RowNoise& row, std::int64_t image) const {
    if (codec_.context == Codec::Context::affine) {
      RowNoise noise = row;
      const std::span<const float> input = record_.input(layer_).image(image);
      for (std::size_t i = 0; codec_.is_subtractive && layer_ > 0 && i < input.size(); ++i) {
        noise.by_value[i] = input[i] > 0 ? noise.by_value[i] : 0;
      }
      return noise;
    }
    const BlockRecord& block = record_.blocks()[layer_ - 1];
    RowNoise noise;
    noise.from_ranges.resize(block.output.image(image).size());
    noise.by_value.resize(noise.from_ranges.size());
    block.setting.pooling.for_each_maximum(
        block.argmax.image(image), [&](std::int64_t, std::int64_t at, std::int64_t maximum) {
          const std::size_t to = static_cast<std::size_t>(at);
          const std::size_t from = static_cast<std::size_t>(maximum);
          noise.from_ranges[to] = row.from_ranges[from];
          noise.by_value[to] = row.by_value[from];
        });
    return noise;
  }

 private:
  std::span<const float> row(std::int64_t image) const {
    return codec_.context == Codec::Context::affine
               ? record_.input(layer_).image(image)
               : record_.blocks()[layer_ - 1].relu_input.image(image);
  }

  const StepRecord& record_;
  std::size_t layer_;
  const Codec& codec_;
};

// Both contexts, each plainly and subtractively decoded, at one width and group size.
std::vector<Codec> codecs_to_check(int bits, std::int32_t group_size);

// Every layer of the network under every codec, in one step; calls progress(draws done, all draws).
// Skips tensors that are not rounded in the predicted form: the network's input, which stays exact
// beside sign-magnitude contexts, and blocks that cannot have such a context.
std::vector<VarianceReport> check_variance(
    Network& network, Batch batch, ContextFactory& exact_contexts, const std::vector<Codec>& codecs,
    std::uint64_t seed, std::int64_t draws,
    const std::function<void(std::int64_t, std::int64_t)>& progress);

}  // namespace research
