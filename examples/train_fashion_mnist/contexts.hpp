// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed activations: what each way of keeping them makes of the tensors in packed_tensors.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "codec.hpp"
#include "context.hpp"
#include "full_precision.hpp"
#include "packed_tensors.hpp"
#include "probe.hpp"
#include "width_control.hpp"
#include "width_plan.hpp"

namespace trainer {

// actpack's way: one context serves batch norm, the ReLU and the next layer.
class SignMagnitudeContext final : public BlockContext {
 public:
  SignMagnitudeContext(const BlockSetting& block, const Packing& packing)
      : block_(block), relu_input_(block, packing), argmax_(block, packing.clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    relu_input_.save(first_image, values.relu_input);
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {
    relu_input_.report_ranges();
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
    relu_input_.apply_mask(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    relu_input_.load(image, normalized);
    block_.batch_norm.invert()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  SignMagnitudeTensor relu_input_;
  PackedArgmax argmax_;
};

// An affine copy of the batch norm input, and the ReLU's mask: what both contexts below build on.
class MaskedAffineContext : public BlockContext {
 public:
  MaskedAffineContext(const BlockSetting& block, const Packing& packing)
      : block_(block), batch_norm_input_(block.images, block.pooling.input().numel(), packing),
        mask_(block, packing.clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    batch_norm_input_.save(first_image, values.batch_norm_input);
    mask_.save(first_image, values.relu_input);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {
    batch_norm_input_.report_ranges();
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    mask_.apply_mask(image, argmax, gradient);
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
  AffineTensor batch_norm_input_;
  ReluMask mask_;
};

// What stands in for actpack's way while x̂ cannot be had back from y, because some γ is nearly 0:
// the output, too, is computed from the batch norm input. As small.
class AffineFallbackContext final : public MaskedAffineContext {
 public:
  AffineFallbackContext(const BlockSetting& block, const Packing& packing)
      : MaskedAffineContext(block, packing), argmax_(block, packing.clock) {}

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
  PackedArgmax argmax_;
};

// ActNN's way: beside these an affine copy of the next layer's input, and a byte per pooling
// position.
class AffineContext final : public MaskedAffineContext {
 public:
  AffineContext(const BlockSetting& block, const Packing& input_packing,
                const Packing& output_packing)
      : MaskedAffineContext(block, input_packing),
        output_(block.images, block.pooling.output().numel(), output_packing),
        argmax_(block.images, block.pooling.argmax_numel()),
        is_subtractive_(output_packing.decoding.is_subtractive()) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    MaskedAffineContext::save(first_image, values);
    output_.save(first_image, values.output);
    std::ranges::copy(values.argmax, argmax_.from(first_image).begin());
  }
  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    MaskedAffineContext::finish(std::move(batch_norm_input), std::move(output));
    output_.report_ranges();
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
  AffineTensor output_;
  Tensor<std::uint8_t> argmax_;
  bool is_subtractive_;
};

// The network's input in affine codes, as ActNN keeps the input of every convolution.
class AffineInput final : public InputContext {
 public:
  AffineInput(const Tensor<std::uint8_t>& pixels, PixelScale scale, const Packing& packing)
      : values_(pixels.images(), pixels.row_size(), packing) {
    Tensor<float> values(pixels.images(), pixels.row_size());
    scale(pixels.span(), values.span());
    values_.save(0, values.span());
    values_.report_ranges();
  }

  void load(std::int64_t image, std::span<float> values) const override {
    values_.load(image, values);
  }

 private:
  AffineTensor values_;
};

// Makes the contexts that a codec asks for.
class Contexts final : public ContextFactory {
 public:
  Contexts(const Codec& codec, std::uint64_t seed) : codec_(codec), seed_(seed) {
    if (codec.average_bits > 0) {
      control_.emplace(codec.average_bits);
    }
  }

  double codec_seconds() const { return clock_.seconds(); }

  // Null where widths are fixed.
  WidthControl* width_control() { return control_ ? &*control_ : nullptr; }

  // From the next step on, tensors are packed as `plan` says, which must outlive them.
  void use_plan(const WidthPlan& plan) { plan_ = &plan; }

  // That the last step kept.
  std::size_t num_tensors() const { return tensor_; }

  NoiseSteps& steps() { return steps_; }

  void begin_step() override {
    steps_.begin_step();
    tensor_ = 0;
  }

  bool saves_whole_batch() const override { return codec_.has_tensor_range || plan_ != nullptr; }

  std::unique_ptr<InputContext> keep_input(Tensor<std::uint8_t> pixels, PixelScale scale) override {
    switch (codec_.form) {
      case Codec::Form::full_precision: return std::make_unique<FloatInput>(pixels, scale);
      case Codec::Form::affine: return std::make_unique<AffineInput>(pixels, scale, next_packing());
      default: return std::make_unique<PixelInput>(std::move(pixels), scale);
    }
  }

  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override {
    if (codec_.form == Codec::Form::full_precision) {
      return std::make_unique<FullPrecisionContext>(block);
    }
    if (codec_.form == Codec::Form::lean) {
      return std::make_unique<LeanContext>(block, clock_);
    }
    const Packing packing = next_packing();
    if (codec_.form == Codec::Form::affine) {
      return std::make_unique<AffineContext>(block, packing, next_packing());
    }
    if (block.batch_norm.is_invertible()) {
      return std::make_unique<SignMagnitudeContext>(block, packing);
    }
    return std::make_unique<AffineFallbackContext>(block, packing);
  }

 private:
  Packing next_packing() {
    const std::size_t tensor = tensor_++;
    Packing packing(codec_, seed_, steps_.step() << 16 | steps_.stream_of(tensor), clock_,
                    width_control(), tensor);
    packing.widths = plan_ == nullptr ? nullptr : &plan_->at(tensor);
    return packing;
  }

  Codec codec_;
  std::uint64_t seed_;
  NoiseSteps steps_;
  std::size_t tensor_ = 0;
  CodecClock clock_;
  std::optional<WidthControl> control_;
  const WidthPlan* plan_ = nullptr;
};

}  // namespace trainer
