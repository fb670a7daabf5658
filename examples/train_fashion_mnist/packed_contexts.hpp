// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed activations: the tensors of a block that each way to save them stores, and how it reads
// them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/codec_clock.hpp"
#include "common/exact_tensors.hpp"
#include "common/saved_tensor.hpp"
#include "common/width_control.hpp"
#include "train_fashion_mnist/context.hpp"

namespace trainer {

// A saved tensor that tells the controller of widths, if there is one, its ranges once it is full.
class ControlledTensor : public SavedTensor {
 public:
  ControlledTensor(const SavedFormat& format, std::int64_t item_numel, CodecClock& clock,
                   WidthControl* control, std::size_t number)
      : SavedTensor(format, item_numel, clock), control_(control), number_(number) {}

  void finish() const {
    if (control_ != nullptr) {
      control_->observe_ranges(number_, squared_range_norm());
    }
  }

 private:
  WidthControl* control_;
  std::size_t number_;  // within the step
};

// The backward pass of a ReLU and the pooling after it: sets to zero every pooled gradient whose
// place mask_gradient(dx) sets to zero in a gradient of the ReLU's input.
template <class MaskGradient>
void pooled_relu_backward(const Pooling& pooling, std::span<const std::uint8_t> argmax,
                          std::span<float> gradient, const MaskGradient& mask_gradient) {
  if (argmax.empty()) {
    mask_gradient(gradient);
    return;
  }
  std::vector<float> passes(static_cast<std::size_t>(pooling.input().numel()), 1.0f);
  mask_gradient(std::span<float>(passes));
  pooling.map_from_maxima(passes, argmax, gradient, [](std::size_t, float is_passed, float value) {
    return is_passed != 0 ? value : 0.0f;
  });
}

// actpack's way: one context serves batch norm, the ReLU and the next layer.
class SignMagnitudeContext final : public BlockContext {
 public:
  SignMagnitudeContext(const BlockSetting& block, ControlledTensor relu_input, CodecClock& clock)
      : block_(block), relu_input_(std::move(relu_input)),
        argmax_(block.images, block.pooling.argmax_numel(), clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    relu_input_.save(first_image, values.relu_input);
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {
    relu_input_.finish();
  }

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    relu_input_.load_relu(image, scratch);
    block_.pooling.gather(scratch, argmax, output);
    block_.batch_norm.invert()(output, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    pooled_relu_backward(block_.pooling, argmax, gradient,
                         [&](std::span<float> dx) { relu_input_.relu_backward(image, dx); });
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    relu_input_.load(image, normalized);
    block_.batch_norm.invert()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  ControlledTensor relu_input_;
  SavedCodes argmax_;
};

// An affine copy of the batch norm input, and the ReLU's mask: both contexts below build on it.
class MaskedAffineContext : public BlockContext {
 public:
  MaskedAffineContext(const BlockSetting& block, ControlledTensor batch_norm_input,
                      CodecClock& clock)
      : block_(block), batch_norm_input_(std::move(batch_norm_input)),
        mask_(block.images, block.pooling.input().numel(), clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    batch_norm_input_.save(first_image, values.batch_norm_input);
    mask_.save(first_image, values.relu_input);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {
    batch_norm_input_.finish();
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    pooled_relu_backward(block_.pooling, argmax, gradient,
                         [&](std::span<float> dx) { mask_.relu_backward(image, dx); });
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    batch_norm_input_.load(image, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

 protected:
  const BlockSetting& block() const { return block_; }

  // The batch norm input at the places that the block's output comes from.
  void load_pooled_input(std::int64_t image, std::span<const std::uint8_t> argmax,
                         std::span<float> pooled, std::span<float> scratch) const {
    batch_norm_input_.load(image, scratch);
    block_.pooling.gather(scratch, argmax, pooled);
  }

 private:
  BlockSetting block_;
  ControlledTensor batch_norm_input_;
  SavedMask mask_;
};

// Stands in for actpack's way while some γ is nearly 0, so that y no longer tells x̂: the output,
// too, is computed from the batch norm input. As small.
class AffineFallbackContext final : public MaskedAffineContext {
 public:
  AffineFallbackContext(const BlockSetting& block, ControlledTensor batch_norm_input,
                        CodecClock& clock)
      : MaskedAffineContext(block, std::move(batch_norm_input), clock),
        argmax_(block.images, block.pooling.argmax_numel(), clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    MaskedAffineContext::save(first_image, values);
    argmax_.save(first_image, values.argmax);
  }
  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    load_pooled_input(image, argmax, normalized, scratch);
    block().batch_norm.apply()(normalized, output);
    relu_backward(image, argmax, output);  // the mask makes it the ReLU's output
    block().batch_norm.normalize()(normalized, normalized);
  }

 private:
  SavedCodes argmax_;
};

// ActNN's way: beside these an affine copy of the next layer's input, and a byte per pooling
// position.
class AffineContext final : public MaskedAffineContext {
 public:
  AffineContext(const BlockSetting& block, ControlledTensor batch_norm_input,
                ControlledTensor output, bool is_subtractive, CodecClock& clock)
      : MaskedAffineContext(block, std::move(batch_norm_input), clock), output_(std::move(output)),
        argmax_(block.images, block.pooling.argmax_numel()), is_subtractive_(is_subtractive) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    MaskedAffineContext::save(first_image, values);
    output_.save(first_image, values.output);
    std::ranges::copy(values.argmax, argmax_.from(first_image).begin());
  }
  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    MaskedAffineContext::finish(std::move(batch_norm_input), std::move(output));
    output_.finish();
  }
  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    std::ranges::copy(argmax_.image(image), argmax.begin());
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    output_.load(image, output);
    if (is_subtractive_) {  // would put noise on the ReLU's zeros; plainly they decode exactly
      relu_backward(image, argmax, output);
    }
    load_pooled_input(image, argmax, normalized, scratch);
    block().batch_norm.normalize()(normalized, normalized);
  }

 private:
  ControlledTensor output_;
  Tensor<std::uint8_t> argmax_;
  bool is_subtractive_;
};

// The network's input in affine codes, as ActNN saves the input of every convolution.
class AffineInput final : public InputContext {
 public:
  AffineInput(const Tensor<std::uint8_t>& pixels, PixelScale scale, ControlledTensor packed)
      : values_(std::move(packed)) {
    Tensor<float> values(pixels.images(), pixels.row_size());
    scale(pixels.span(), values.span());
    values_.save(0, values.span());
    values_.finish();
  }

  void load(std::int64_t image, std::span<float> values) const override {
    values_.load(image, values);
  }

 private:
  ControlledTensor values_;
};

}  // namespace trainer
