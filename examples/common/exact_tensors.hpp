// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Saved tensors that must come back exactly: masks and small codes, packed to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/bit_pack.hpp"
#include "actpack/mask.hpp"
#include "common/codec_clock.hpp"
#include "common/tensor.hpp"

namespace trainer {

// Where the input of a ReLU is positive: 1 bit a value.
class SavedMask {
 public:
  SavedMask(std::int64_t images, std::int64_t image_numel, CodecClock& clock)
      : words_(images, actpack::words_for(image_numel, 1)),
        image_numel_(static_cast<std::size_t>(image_numel)), clock_(clock) {}

  void save(std::int64_t first_image, std::span<const float> relu_input) {
    for (std::int64_t image = first_image; !relu_input.empty(); ++image) {
      clock_.time([&] {
        actpack::make_mask(relu_input.first(image_numel_), words_.image(image),
                           [](float value) { return value > 0; });
      });
      relu_input = relu_input.subspan(image_numel_);
    }
  }
  void relu_backward(std::int64_t image, std::span<float> dx) const {
    clock_.time([&] { actpack::relu_backward(dx, words_.image(image), dx); });
  }

 private:
  Tensor<std::uint32_t> words_;
  std::size_t image_numel_;
  CodecClock& clock_;
};

// Numbers from 0 to 3: 2 bits each.
class SavedCodes {
 public:
  SavedCodes(std::int64_t images, std::int64_t image_numel, CodecClock& clock)
      : words_(images, actpack::words_for(image_numel, 2)),
        image_numel_(static_cast<std::size_t>(image_numel)), clock_(clock) {}

  void save(std::int64_t first_image, std::span<const std::uint8_t> codes) {
    for (std::int64_t image = first_image; !codes.empty(); ++image) {
      clock_.time([&] { actpack::pack(codes.first(image_numel_), 2, words_.image(image)); });
      codes = codes.subspan(image_numel_);
    }
  }
  void load(std::int64_t image, std::span<std::uint8_t> codes) const {
    clock_.time([&] { actpack::unpack(words_.image(image), 2, codes); });
  }

 private:
  Tensor<std::uint32_t> words_;
  std::size_t image_numel_;
  CodecClock& clock_;
};

}  // namespace trainer
