// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed activations: what each way of keeping them makes of the tensors in packed_tensors.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "codec.hpp"
#include "context.hpp"
#include "full_precision.hpp"
#include "packed_tensors.hpp"

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
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {}

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

// What stands in for it while x̂ cannot be had back from y, because some γ is nearly 0: an affine
// copy of the batch norm input, from which all else is computed, and the ReLU's mask. As small.
class AffineFallbackContext final : public BlockContext {
 public:
  AffineFallbackContext(const BlockSetting& block, const Packing& packing)
      : block_(block), batch_norm_input_(block.images, block.pooling.input().numel(), packing),
        mask_(block, packing.clock), argmax_(block, packing.clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    batch_norm_input_.save(first_image, values.batch_norm_input);
    mask_.save(first_image, values.relu_input);
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {}

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    batch_norm_input_.load(image, scratch);
    block_.pooling.gather(scratch, argmax, normalized);
    block_.batch_norm.apply()(normalized, output);
    mask_.apply_mask(image, argmax, output);
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    mask_.apply_mask(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    batch_norm_input_.load(image, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  AffineTensor batch_norm_input_;
  ReluMask mask_;
  PackedArgmax argmax_;
};

// Keeps the block's output once more, with bits of its own, and leaves all else to `context`.
class FinerOutputContext final : public BlockContext {
 public:
  FinerOutputContext(std::unique_ptr<BlockContext> context, const BlockSetting& block,
                     const Packing& packing)
      : context_(std::move(context)),
        output_(block.images, block.pooling.output().numel(), packing) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    context_->save(first_image, values);
    output_.save(first_image, values.output);
  }
  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    context_->finish(std::move(batch_norm_input), std::move(output));
  }

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    context_->load_argmax(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    context_->load_output(image, argmax, output, normalized, scratch);
    output_.load(image, output);
    context_->relu_backward(image, argmax, output);  // the ReLU's zeros, exactly
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    context_->relu_backward(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    context_->load_normalized(image, normalized);
  }

 private:
  std::unique_ptr<BlockContext> context_;
  AffineTensor output_;
};

// ActNN's way: affine copies of the batch norm input and of the next layer's input, the ReLU's
// mask, and a byte per pooling position.
class AffineContext final : public BlockContext {
 public:
  AffineContext(const BlockSetting& block, const Packing& input_packing,
                const Packing& output_packing)
      : block_(block),
        batch_norm_input_(block.images, block.pooling.input().numel(), input_packing),
        output_(block.images, block.pooling.output().numel(), output_packing),
        mask_(block, output_packing.clock), argmax_(block.images, block.pooling.argmax_numel()),
        is_subtractive_(output_packing.decoding.is_subtractive()) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    batch_norm_input_.save(first_image, values.batch_norm_input);
    output_.save(first_image, values.output);
    mask_.save(first_image, values.relu_input);
    std::ranges::copy(values.argmax, argmax_.from(first_image).begin());
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {}

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    std::ranges::copy(argmax_.image(image), argmax.begin());
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    output_.load(image, output);
    if (is_subtractive_) {  // would put noise on the ReLU's zeros; plainly they decode exactly
      mask_.apply_mask(image, argmax, output);
    }
    batch_norm_input_.load(image, scratch);
    block_.pooling.gather(scratch, argmax, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    mask_.apply_mask(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    batch_norm_input_.load(image, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  AffineTensor batch_norm_input_;
  AffineTensor output_;
  ReluMask mask_;
  Tensor<std::uint8_t> argmax_;
  bool is_subtractive_;
};

// Makes the contexts that a codec asks for.
class Contexts final : public ContextFactory {
 public:
  Contexts(const Codec& codec, PixelScale pixel_scale, std::uint64_t seed)
      : codec_(codec), pixel_scale_(pixel_scale), seed_(seed) {}

  double codec_seconds() const { return clock_.seconds(); }

  void begin_step() override {
    ++step_;
    tensor_ = 0;
  }

  bool saves_whole_batch() const override { return codec_.has_tensor_range; }

  std::unique_ptr<InputContext> keep_input(Tensor<std::uint8_t> pixels) override {
    if (codec_.form == Codec::Form::full_precision) {
      return std::make_unique<FloatInput>(pixels, pixel_scale_);
    }
    return std::make_unique<PixelInput>(std::move(pixels), pixel_scale_);
  }

  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override {
    if (codec_.form == Codec::Form::full_precision) {
      return std::make_unique<FullPrecisionContext>(block);
    }
    if (codec_.form == Codec::Form::lean) {
      return std::make_unique<LeanContext>(block, clock_);
    }
    // The classifier's input: few of the values, and much of the gradient's noise.
    const int output_bits = block.feeds_classifier ? std::max(codec_.bits, 4) : codec_.bits;
    const Packing packing = next_packing(codec_.bits);
    const Packing output_packing = next_packing(output_bits);
    if (codec_.form == Codec::Form::affine) {
      return std::make_unique<AffineContext>(block, packing, output_packing);
    }
    std::unique_ptr<BlockContext> context;
    if (block.batch_norm.is_invertible()) {
      context = std::make_unique<SignMagnitudeContext>(block, packing);
    } else {
      context = std::make_unique<AffineFallbackContext>(block, packing);
    }
    if (output_bits == codec_.bits) {
      return context;
    }
    return std::make_unique<FinerOutputContext>(std::move(context), block, output_packing);
  }

 private:
  Packing next_packing(int bits) { return {codec_, bits, seed_, step_ << 16 | tensor_++, clock_}; }

  Codec codec_;
  PixelScale pixel_scale_;
  std::uint64_t seed_;
  std::uint64_t step_ = 0;
  std::uint64_t tensor_ = 0;
  CodecClock clock_;
};

}  // namespace trainer
