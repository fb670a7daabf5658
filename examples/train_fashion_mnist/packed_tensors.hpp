// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Where actpack plugs in: every call into the library that training makes is in this file. Each
// class keeps one tensor of a batch and gives its images back one at a time; contexts.hpp puts them
// together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/bit_pack.hpp"
#include "actpack/mask.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "codec.hpp"
#include "context.hpp"
#include "width_control.hpp"
#include "width_plan.hpp"

namespace trainer {

// How one tensor of one step is packed. Every image is a row; but where one range serves the whole
// tensor it is a single group, which takes a single row.
struct Packing {
  int bits;
  std::int32_t group_size;
  bool has_tensor_range;
  actpack::Rounding rounding;
  actpack::Decoding decoding;
  CodecClock& clock;
  WidthControl* control;                 // null: the width is fixed
  std::size_t tensor;                    // its number within the step
  const TensorWidths* widths = nullptr;  // not null, instead: rows and widths were decided before

  // `stream` must differ for every tensor of every step: the noise is a function of it, of the seed
  // and of the element's index, and of nothing else.
  Packing(const Codec& codec, std::uint64_t seed, std::uint64_t stream, CodecClock& codec_clock,
          WidthControl* width_control = nullptr, std::size_t number = 0)
      : bits(codec.bits), group_size(codec.group_size), has_tensor_range(codec.has_tensor_range),
        rounding(codec.is_stochastic ? actpack::Rounding::stochastic(seed, stream)
                                     : actpack::Rounding::nearest()),
        decoding(codec.is_subtractive ? actpack::Decoding::subtractive(rounding)
                                      : actpack::Decoding::plain()),
        clock(codec_clock), control(width_control), tensor(number) {}

  actpack::Layout layout(std::int64_t images, std::int64_t image_numel) const {
    if (widths != nullptr) {
      return widths->layout;
    }
    actpack::Layout layout{.rows = images, .row_size = image_numel};
    layout.group_size = group_size;
    layout.bits = control == nullptr ? bits : control->bits(tensor, image_numel, group_size);
    if (has_tensor_range) {
      layout.rows = 1;
      layout.row_size = images * image_numel;
      layout.group_size = static_cast<std::int32_t>((layout.row_size + 31) / 32 * 32);
    }
    return layout;
  }

  actpack::PackedBuffer make_buffer(std::int64_t images, std::int64_t image_numel) const {
    return widths != nullptr ? widths->make_buffer()
                             : actpack::PackedBuffer(layout(images, image_numel));
  }

  // Once a tensor is packed: range_of(group's parameters) are its ranges. Those of steps are as
  // wide as what they cover, but for the rounding of the step.
  template <class Params, class RangeOf>
  void report_ranges(const actpack::Layout& layout, const Params* params,
                     const RangeOf& squared_range_of) const {
    if (control == nullptr) {
      return;
    }
    double sum = 0;
    for (std::int64_t group = 0; group < layout.num_groups(); ++group) {
      sum += squared_range_of(params[group]);
    }
    const double levels = actpack::max_code(layout.bits);
    control->observe_ranges(tensor, levels * levels * sum / static_cast<double>(layout.rows));
  }
};

// The ReLU's backward pass where `values` are pooled gradients: sets those to zero that a gradient
// of the input's size would lose. relu_backward(dx) does that to one.
template <class ReluBackward>
void pooled_relu_backward(const Pooling& pooling, std::span<const std::uint8_t> argmax,
                          std::span<float> values, const ReluBackward& relu_backward) {
  std::vector<float> kept(static_cast<std::size_t>(pooling.input().numel()), 1.0f);
  relu_backward(std::span<float>(kept));
  pooling.map_from_places(kept, argmax, values, [](std::size_t, float is_kept, float value) {
    return is_kept != 0 ? value : 0.0f;
  });
}

// A ReLU's input as exact signs and rounded magnitudes: all that batch norm before it, the ReLU
// itself and the layer behind it need.
class SignMagnitudeTensor {
 public:
  SignMagnitudeTensor(const BlockSetting& block, const Packing& packing)
      : pooling_(block.pooling), packing_(packing),
        buffer_(packing.layout(block.images, block.pooling.input().numel())) {}

  void save(std::int64_t first_image, std::span<const float> relu_input) {
    packing_.clock.time(
        [&] { actpack::encode(relu_input, buffer_.view(), packing_.rounding, first_image); });
  }
  // Half of the values are on either side.
  void report_ranges() const {
    packing_.report_ranges(buffer_.layout(), buffer_.view().params,
                           [](const actpack::SignMagnitudeParams& params) {
                             const double positive = float{params.positive};
                             const double negative = float{params.negative};
                             return (positive * positive + negative * negative) / 2;
                           });
  }
  void load(std::int64_t image, std::span<float> relu_input) const {
    packing_.clock.time(
        [&] { actpack::decode(buffer_.view(), first(image), relu_input, packing_.decoding); });
  }
  void load_relu(std::int64_t image, std::span<float> relu_output) const {
    packing_.clock.time([&] {
      actpack::decode_relu(buffer_.view(), first(image), relu_output, packing_.decoding);
    });
  }

  // Sets to zero what belongs to places where the ReLU's input was not positive.
  void apply_mask(std::int64_t image, std::span<const std::uint8_t> argmax,
                  std::span<float> values) const {
    const auto relu_backward = [&](std::span<float> dx) {
      actpack::relu_backward(dx, buffer_.view(), first(image), dx);
    };
    packing_.clock.time([&] {
      if (argmax.empty()) {
        relu_backward(values);
      } else {
        pooled_relu_backward(pooling_, argmax, values, relu_backward);
      }
    });
  }

 private:
  std::int64_t first(std::int64_t image) const { return image * pooling_.input().numel(); }

  const Pooling& pooling_;
  Packing packing_;
  actpack::SignMagnitudeBuffer buffer_;
};

// A tensor's values in affine codes.
class AffineTensor {
 public:
  AffineTensor(std::int64_t images, std::int64_t image_numel, const Packing& packing)
      : image_numel_(image_numel), packing_(packing),
        buffer_(packing.make_buffer(images, image_numel)) {}

  void save(std::int64_t first_image, std::span<const float> values) {
    packing_.clock.time(
        [&] { actpack::quantize(values, buffer_.view(), packing_.rounding, first_image); });
  }
  void report_ranges() const {
    packing_.report_ranges(buffer_.layout(), buffer_.view().params,
                           [](const actpack::GroupParams& params) {
                             const double scale = float{params.scale};
                             return scale * scale;
                           });
  }
  void load(std::int64_t image, std::span<float> values) const {
    packing_.clock.time([&] {
      actpack::dequantize(buffer_.view(), image * image_numel_, values, packing_.decoding);
    });
  }

 private:
  std::int64_t image_numel_;
  Packing packing_;
  actpack::PackedBuffer buffer_;
};

// Where a ReLU's input was positive: 1 bit.
class ReluMask {
 public:
  ReluMask(const BlockSetting& block, CodecClock& clock)
      : words_(block.images, actpack::words_for(block.pooling.input().numel(), 1)),
        pooling_(block.pooling), clock_(clock) {}

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

  // As SignMagnitudeTensor's.
  void apply_mask(std::int64_t image, std::span<const std::uint8_t> argmax,
                  std::span<float> values) const {
    const auto relu_backward = [&](std::span<float> dx) {
      actpack::relu_backward(dx, words_.image(image), dx);
    };
    clock_.time([&] {
      if (argmax.empty()) {
        relu_backward(values);
      } else {
        pooled_relu_backward(pooling_, argmax, values, relu_backward);
      }
    });
  }

 private:
  Tensor<std::uint32_t> words_;
  const Pooling& pooling_;
  CodecClock& clock_;
};

// The maximum's position in each pooling window: 2 bits.
class PackedArgmax {
 public:
  PackedArgmax(const BlockSetting& block, CodecClock& clock)
      : words_(block.images, actpack::words_for(block.pooling.argmax_numel(), 2)),
        image_numel_(static_cast<std::size_t>(block.pooling.argmax_numel())), clock_(clock) {}

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

}  // namespace trainer
