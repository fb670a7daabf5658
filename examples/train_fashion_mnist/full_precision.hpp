// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Activations in full precision: as autograd frameworks save them, and as lean as can be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "common/codec_clock.hpp"
#include "common/exact_tensors.hpp"
#include "train_fashion_mnist/context.hpp"

namespace trainer {

// The network's input as floats.
class FloatInput final : public InputContext {
 public:
  FloatInput(const Tensor<std::uint8_t>& pixels, PixelScale scale)
      : values_(pixels.images(), pixels.row_size()) {
    scale(pixels.span(), values_.span());
  }

  void load(std::int64_t image, std::span<float> values) const override {
    std::ranges::copy(values_.image(image), values.begin());
  }

 private:
  Tensor<float> values_;
};

// The same as its source bytes.
class PixelInput final : public InputContext {
 public:
  PixelInput(Tensor<std::uint8_t> pixels, PixelScale scale)
      : pixels_(std::move(pixels)), scale_(scale) {}

  void load(std::int64_t image, std::span<float> values) const override {
    scale_(pixels_.image(image), values);
  }

 private:
  Tensor<std::uint8_t> pixels_;
  PixelScale scale_;
};

// As autograd frameworks do: the batch norm input and the ReLU's output in float, the block's
// output (shared with the layer that reads it), and a byte per pooling position.
class FullPrecisionContext final : public BlockContext {
 public:
  explicit FullPrecisionContext(const BlockSetting& block)
      : block_(block), argmax_(block.images, block.pooling.argmax_numel()) {
    if (block.pooling.argmax_numel() > 0) {
      relu_output_ = Tensor<float>(block.images, block.pooling.input().numel());
    }
  }

  void save(std::int64_t first_image, const BlockValues& values) override {
    std::ranges::copy(values.argmax, argmax_.from(first_image).begin());
    if (relu_output_.images() > 0) {
      std::ranges::transform(values.relu_input, relu_output_.from(first_image).begin(),
                             [](float value) { return std::max(value, 0.0f); });
    }
  }

  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    batch_norm_input_ = std::move(batch_norm_input);
    output_ = std::move(output);
  }

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    std::ranges::copy(argmax_.image(image), argmax.begin());
  }

  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float>) const override {
    std::ranges::copy(output_->image(image), output.begin());
    block_.pooling.gather(batch_norm_input_.image(image), argmax, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    // Without pooling the ReLU's output is the block's, stored once for both.
    const std::span<const float> relu_output =
        relu_output_.images() > 0 ? relu_output_.image(image) : output_->image(image);
    block_.pooling.map_from_maxima(
        relu_output, argmax, gradient,
        [](std::size_t, float output, float value) { return output > 0 ? value : 0.0f; });
  }

  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    block_.batch_norm.normalize()(batch_norm_input_.image(image), normalized);
  }

 private:
  BlockSetting block_;
  Tensor<std::uint8_t> argmax_;
  Tensor<float> batch_norm_input_;
  Tensor<float> relu_output_;
  std::shared_ptr<const Tensor<float>> output_;
};

// The leanest full precision: the batch norm input, from which all else is computed again (the same
// value gives the same bits: the ReLU's mask stays exact), and 2 bits per pooling position.
class LeanContext final : public BlockContext {
 public:
  LeanContext(const BlockSetting& block, CodecClock& clock)
      : block_(block), argmax_(block.images, block.pooling.argmax_numel(), clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float> batch_norm_input, std::shared_ptr<const Tensor<float>>) override {
    batch_norm_input_ = std::move(batch_norm_input);
  }

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float>) const override {
    block_.pooling.gather(batch_norm_input_.image(image), argmax, normalized);
    block_.batch_norm.apply()(normalized, output);
    std::ranges::transform(output, output.begin(),
                           [](float value) { return std::max(value, 0.0f); });
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    block_.pooling.map_from_maxima(batch_norm_input_.image(image), argmax, gradient,
                                   [&](std::size_t channel, float input, float value) {
                                     return block_.batch_norm.apply().at(channel, input) > 0 ? value
                                                                                             : 0.0f;
                                   });
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    block_.batch_norm.normalize()(batch_norm_input_.image(image), normalized);
  }

 private:
  BlockSetting block_;
  SavedCodes argmax_;
  Tensor<float> batch_norm_input_;
};

}  // namespace trainer
