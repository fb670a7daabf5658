// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Makes contexts: numbers the tensors of a step, so that each is rounded with noise of its own, and
// gives them their layouts and widths.

#include "train_fashion_mnist/contexts.hpp"

#include <utility>

#include "common/json.hpp"
#include "train_fashion_mnist/full_precision.hpp"
#include "train_fashion_mnist/packed_contexts.hpp"

namespace trainer {

std::string name_of(Codec::Context context) {
  switch (context) {
    case Codec::Context::full_precision: return "full-precision";
    case Codec::Context::lean: return "lean";
    case Codec::Context::affine: return "affine";
    case Codec::Context::sign_magnitude: return "sign-magnitude";
  }
  return "";
}

std::string describe(const Codec& codec) {
  if (codec.context == Codec::Context::full_precision) {
    return "full precision";
  }
  return name_of(codec.context) +
         (codec.average_bits > 0 ? format(" %g-bit on average", codec.average_bits)
                                 : format(" %d-bit", codec.bits)) +
         (codec.is_stochastic ? (codec.is_subtractive ? " subtractive" : " plain") : " nearest") +
         (codec.has_tensor_range ? ", one range" : format(", group %d", codec.group_size));
}

Contexts::Contexts(const Codec& codec, std::uint64_t seed) : codec_(codec), seed_(seed) {
  if (codec.average_bits > 0) {
    control_.emplace(codec.average_bits);
  }
}

void Contexts::begin_step() {
  steps_.begin_step();
  tensor_ = 0;
}

std::unique_ptr<InputContext> Contexts::save_input(Tensor<std::uint8_t> pixels, PixelScale scale) {
  if (codec_.context == Codec::Context::full_precision) {
    return std::make_unique<FloatInput>(pixels, scale);
  }
  if (codec_.context == Codec::Context::affine) {
    return std::make_unique<AffineInput>(
        pixels, scale, next_tensor(SavedFormat::Form::affine, pixels.images(), pixels.row_size()));
  }
  return std::make_unique<PixelInput>(std::move(pixels), scale);
}

std::unique_ptr<BlockContext> Contexts::make_block_context(const BlockSetting& block) {
  const auto next_affine = [&](const Shape& shape) {
    return next_tensor(SavedFormat::Form::affine, block.images, shape.numel());
  };
  const Shape input = block.pooling.input();
  switch (codec_.context) {
    case Codec::Context::full_precision: return std::make_unique<FullPrecisionContext>(block);
    case Codec::Context::lean: return std::make_unique<LeanContext>(block, clock_);
    case Codec::Context::affine: {
      ControlledTensor batch_norm_input = next_affine(input);
      ControlledTensor output = next_affine(block.pooling.output());
      return std::make_unique<AffineContext>(block, std::move(batch_norm_input), std::move(output),
                                             codec_.is_subtractive, clock_);
    }
    case Codec::Context::sign_magnitude: break;
  }
  if (block.batch_norm.is_invertible()) {
    return std::make_unique<SignMagnitudeContext>(
        block, next_tensor(SavedFormat::Form::sign_magnitude, block.images, input.numel()), clock_);
  }
  return std::make_unique<AffineFallbackContext>(block, next_affine(input), clock_);
}

// Every image is a row; but where one range serves the whole tensor, that is a single group, which
// takes a single row. The noise is a function of the seed, of the stream and of the element's
// index, and of nothing else: the stream differs for every tensor of every step.
ControlledTensor Contexts::next_tensor(SavedFormat::Form form, std::int64_t images,
                                       std::int64_t image_numel) {
  const std::size_t tensor = tensor_++;
  const std::uint64_t stream = steps_.step() << 16 | steps_.stream_of(tensor);
  SavedFormat format{.form = form};
  format.set_rounding(codec_.is_stochastic ? actpack::Rounding::stochastic(seed_, stream)
                                           : actpack::Rounding::nearest(),
                      codec_.is_subtractive);
  actpack::Layout& layout = format.layout;
  layout = {.rows = images, .row_size = image_numel};
  layout.group_size = codec_.group_size;
  layout.bits = codec_.bits;
  if (codec_.has_tensor_range) {
    layout.rows = 1;
    layout.row_size = images * image_numel;
    layout.group_size = static_cast<std::int32_t>((layout.row_size + 31) / 32 * 32);
  }
  if (plan_ != nullptr) {
    plan_(tensor, format);
  } else if (control_) {
    if (tensor == control_->num_tensors()) {
      control_->add_tensor({.rows = 1, .row_size = image_numel, .group_size = codec_.group_size});
    }
    layout.bits = control_->bits(tensor);
  }
  return {format, image_numel, clock_, width_control(), tensor};
}

}  // namespace trainer
