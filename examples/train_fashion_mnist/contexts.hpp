// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Where actpack plugs in: every call into the library is in this file. The layers see context.hpp alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "actpack/bit_pack.hpp"
#include "actpack/mask.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "codec.hpp"
#include "context.hpp"
#include "full_precision.hpp"

namespace trainer {

// How one tensor of one step is packed. Every image is a row; but one range for the whole tensor makes it a
// single group, which takes a single row.
struct Packing {
  const Codec& codec;
  actpack::Rounding rounding;
  CodecClock& clock;

  actpack::Layout layout(std::int64_t images, std::int64_t image_numel) const {
    actpack::Layout layout;
    layout.rows = codec.has_tensor_range ? 1 : images;
    layout.row_size = codec.has_tensor_range ? images * image_numel : image_numel;
    layout.group_size = codec.has_tensor_range
                            ? static_cast<std::int32_t>((layout.row_size + 31) / 32 * 32)
                            : codec.group_size;
    layout.bits = codec.bits;
    return layout;
  }

  actpack::Decoding decoding() const {
    return codec.is_subtractive ? actpack::Decoding::subtractive(rounding) : actpack::Decoding::plain();
  }
};

// The maximum's position in each pooling window: 2 bits.
class PackedArgmax {
 public:
  PackedArgmax(const BlockSetting& block, CodecClock& clock)
      : words_(block.images, actpack::words_for(block.pooling.argmax_numel(), 2)),
        image_numel_(static_cast<std::size_t>(block.pooling.argmax_numel())),
        clock_(clock) {}

  void save(std::int64_t first_image, std::span<const std::uint8_t> argmax) {
    for (std::int64_t image = first_image; !argmax.empty(); ++image) {
      clock_.time([&] { actpack::pack(argmax.first(image_numel_), 2, words_.image(image)); });
      argmax = argmax.subspan(image_numel_);
    }
  }
  void load(std::int64_t image, std::span<std::uint8_t> argmax) const {
    clock_.time([&] { actpack::unpack(words_.image(image), 2, argmax); });
  }

 private:
  Tensor<std::uint32_t> words_;
  std::size_t image_numel_;
  CodecClock& clock_;
};

// Sets every value whose bit is not set to zero; bit `first` is that of the image's first place.
inline void keep_where(const std::uint32_t* mask_words, std::int64_t first, const Pooling& pooling,
                       std::span<const std::uint8_t> argmax, std::span<float> values) {
  pooling.for_each_place(argmax, [=](std::int64_t at, std::int64_t place) {
    const bool is_kept = actpack::extract(mask_words, first + place, 1) != 0;
    values.data()[at] = is_kept ? values.data()[at] : 0.0f;
  });
}

// actpack's way. One context, the ReLU's input as exact signs and rounded magnitudes, serves batch norm, the
// ReLU and the next layer.
class SignMagnitudeContext final : public BlockContext {
 public:
  SignMagnitudeContext(const BlockSetting& block, const Packing& packing)
      : block_(block),
        packing_(packing),
        buffer_(packing.layout(block.images, block.pooling.input().numel())),
        argmax_(block, packing.clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    packing_.clock.time([&] {
      actpack::encode(values.relu_input, buffer_.view(), packing_.rounding, first_image);
    });
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {}

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }

  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax, std::span<float> output,
                   std::span<float> normalized, std::span<float> scratch) const override {
    packing_.clock.time([&] {
      actpack::decode_relu(buffer_.view(), first(image), scratch, packing_.decoding());
    });
    block_.pooling.gather(scratch, argmax, output);
    block_.batch_norm.invert()(output, normalized);
  }

  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    packing_.clock.time([&] {
      if (argmax.empty()) {
        actpack::relu_backward(gradient, buffer_.view(), first(image), gradient);
      } else {
        const std::int64_t first_sign =
            packing_.codec.has_tensor_range ? first(image) : image * 32 * words_per_image();
        keep_where(buffer_.view().sign_words, first_sign, block_.pooling, argmax, gradient);
      }
    });
  }

  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    packing_.clock.time([&] {
      actpack::decode(buffer_.view(), first(image), normalized, packing_.decoding());
    });
    block_.batch_norm.invert()(normalized, normalized);
  }

 private:
  std::int64_t first(std::int64_t image) const { return image * block_.pooling.input().numel(); }

  std::int64_t words_per_image() const {
    return actpack::words_for(block_.pooling.input().numel(), 1);
  }

  BlockSetting block_;
  Packing packing_;
  actpack::SignMagnitudeBuffer buffer_;
  PackedArgmax argmax_;
};

// One affine copy of a tensor.
class AffineCopy {
 public:
  AffineCopy(std::int64_t images, std::int64_t image_numel, const Packing& packing)
      : image_numel_(image_numel), packing_(packing), buffer_(packing.layout(images, image_numel)) {}

  void save(std::int64_t first_image, std::span<const float> values) {
    packing_.clock.time(
        [&] { actpack::quantize(values, buffer_.view(), packing_.rounding, first_image); });
  }
  void load(std::int64_t image, std::span<float> values) const {
    packing_.clock.time([&] {
      actpack::dequantize(buffer_.view(), image * image_numel_, values, packing_.decoding());
    });
  }

 private:
  std::int64_t image_numel_;
  Packing packing_;
  actpack::PackedBuffer buffer_;
};

// Where the ReLU's input was positive: 1 bit.
class ReluMask {
 public:
  ReluMask(const BlockSetting& block, CodecClock& clock)
      : words_(block.images, actpack::words_for(block.pooling.input().numel(), 1)),
        pooling_(block.pooling),
        clock_(clock) {}

  void save(std::int64_t first_image, std::span<const float> relu_input) {
    const std::size_t image_numel = static_cast<std::size_t>(pooling_.input().numel());
    for (std::int64_t image = first_image; !relu_input.empty(); ++image) {
      clock_.time([&] {
        actpack::make_mask(relu_input.first(image_numel), words_.image(image),
                           [](float value) { return value > 0; });
      });
      relu_input = relu_input.subspan(image_numel);
    }
  }
  void apply(std::int64_t image, std::span<const std::uint8_t> argmax, std::span<float> values) const {
    clock_.time([&] {
      if (argmax.empty()) {
        actpack::relu_backward(values, words_.image(image), values);
      } else {
        keep_where(words_.image(image).data(), 0, pooling_, argmax, values);
      }
    });
  }

 private:
  Tensor<std::uint32_t> words_;
  const Pooling& pooling_;
  CodecClock& clock_;
};

// What stands in for the sign-magnitude context while x̂ cannot be had back from y (a γ of nearly 0): an affine
// copy of the batch norm input, from which all else is computed, and the ReLU's mask. As small.
class AffineFallbackContext final : public BlockContext {
 public:
  AffineFallbackContext(const BlockSetting& block, const Packing& packing)
      : block_(block),
        batch_norm_input_(block.images, block.pooling.input().numel(), packing),
        mask_(block, packing.clock),
        argmax_(block, packing.clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    batch_norm_input_.save(first_image, values.batch_norm_input);
    mask_.save(first_image, values.relu_input);
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float>, std::shared_ptr<const Tensor<float>>) override {}

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax, std::span<float> output,
                   std::span<float> normalized, std::span<float> scratch) const override {
    batch_norm_input_.load(image, scratch);
    block_.pooling.gather(scratch, argmax, normalized);
    block_.batch_norm.apply()(normalized, output);
    mask_.apply(image, argmax, output);
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    mask_.apply(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    batch_norm_input_.load(image, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  AffineCopy batch_norm_input_;
  ReluMask mask_;
  PackedArgmax argmax_;
};

// ActNN's way: affine copies of the batch norm input and of the next layer's input, the ReLU's mask, and a byte
// per pooling position.
class AffineContext final : public BlockContext {
 public:
  AffineContext(const BlockSetting& block, const Packing& batch_norm_packing,
                const Packing& output_packing)
      : block_(block),
        is_subtractive_(output_packing.codec.is_subtractive),
        batch_norm_input_(block.images, block.pooling.input().numel(), batch_norm_packing),
        output_(block.images, block.pooling.output().numel(), output_packing),
        mask_(block, output_packing.clock),
        argmax_(block.images, block.pooling.argmax_numel()) {}

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
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax, std::span<float> output,
                   std::span<float> normalized, std::span<float> scratch) const override {
    output_.load(image, output);
    if (is_subtractive_) {  // a ReLU's zeros decode plainly without noise, subtractively they need the mask
      mask_.apply(image, argmax, output);
    }
    batch_norm_input_.load(image, scratch);
    block_.pooling.gather(scratch, argmax, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    mask_.apply(image, argmax, gradient);
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    batch_norm_input_.load(image, normalized);
    block_.batch_norm.normalize()(normalized, normalized);
  }

 private:
  BlockSetting block_;
  bool is_subtractive_;
  AffineCopy batch_norm_input_;
  AffineCopy output_;
  ReluMask mask_;
  Tensor<std::uint8_t> argmax_;
};

// The leanest full precision: the batch norm input in float, from which all else is computed again (the same
// value gives the same bits, so the ReLU's mask stays exact), and 2 bits per pooling position.
class LeanContext final : public BlockContext {
 public:
  LeanContext(const BlockSetting& block, CodecClock& clock) : block_(block), argmax_(block, clock) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    argmax_.save(first_image, values.argmax);
  }
  void finish(Tensor<float> batch_norm_input, std::shared_ptr<const Tensor<float>>) override {
    batch_norm_input_ = std::move(batch_norm_input);
  }

  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    argmax_.load(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax, std::span<float> output,
                   std::span<float> normalized, std::span<float>) const override {
    block_.pooling.gather(batch_norm_input_.image(image), argmax, normalized);
    block_.batch_norm.apply()(normalized, output);
    std::ranges::transform(output, output.begin(), [](float value) { return std::max(value, 0.0f); });
    block_.batch_norm.normalize()(normalized, normalized);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    block_.pooling.map_from_places(
        batch_norm_input_.image(image), argmax, gradient,
        [&](std::size_t channel, float input, float value) {
          return block_.batch_norm.apply().at(channel, input) > 0 ? value : 0.0f;
        });
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    block_.batch_norm.normalize()(batch_norm_input_.image(image), normalized);
  }

 private:
  BlockSetting block_;
  PackedArgmax argmax_;
  Tensor<float> batch_norm_input_;
};

// The network's input as its source bytes.
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
    const Packing packing = next_packing();
    if (codec_.form == Codec::Form::affine) {
      return std::make_unique<AffineContext>(block, packing, next_packing());
    }
    if (!block.batch_norm.is_invertible()) {
      return std::make_unique<AffineFallbackContext>(block, packing);
    }
    return std::make_unique<SignMagnitudeContext>(block, packing);
  }

 private:
  // The random bits of every tensor of every step are a stream of their own: (seed, offset) never repeats.
  Packing next_packing() {
    const std::uint64_t offset = step_ << 16 | tensor_++;
    return {codec_,
            codec_.is_stochastic ? actpack::Rounding::stochastic(seed_, offset)
                                 : actpack::Rounding::nearest(),
            clock_};
  }

  Codec codec_;
  PixelScale pixel_scale_;
  std::uint64_t seed_;
  std::uint64_t step_ = 0;
  std::uint64_t tensor_ = 0;
  CodecClock clock_;
};

}  // namespace trainer
