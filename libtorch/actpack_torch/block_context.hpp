// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The context of one convolution – batch norm – ReLU block: written once, read piece by piece.
#pragma once

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "actpack/batch_norm.hpp"
#include "actpack/bit_pack.hpp"
#include "actpack/mask.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "actpack_torch/dense_tensor.hpp"
#include "actpack_torch/packed_tensor.hpp"

namespace actpack_torch {

namespace batch_norm = actpack::batch_norm;

// Some samples of a batch. Passes go through a batch piece by piece, so that no decoded tensor is
// larger than a piece.
struct Samples {
  std::int64_t first;
  std::int64_t count;
};

inline at::Tensor slice(const at::Tensor& tensor, Samples samples) {
  return tensor.narrow(0, samples.first, samples.count);
}

// Calls body(samples) for each eighth of a batch. Larger pieces would raise the peak; smaller ones
// cost as much per call of oneDNN.
template <class Body>
void for_each_piece_of(std::int64_t samples, const Body& body) {
  const std::int64_t piece = (samples + 7) / 8;
  for (std::int64_t first = 0; first < samples; first += piece) {
    body(Samples{first, std::min(piece, samples - first)});
  }
}

// 2×2 maximum pooling of planes. Like torch's, it leaves out an odd last row or column.
struct Pooling {
  std::int64_t height;  // of the input
  std::int64_t width;

  std::int64_t plane() const { return height * width; }
  std::int64_t pooled_plane() const { return height / 2 * (width / 2); }

  // The element of a window that a code, 0 to 3 row by row, stands for; `corner` is its first.
  std::int64_t element(std::int64_t corner, std::uint32_t code) const {
    return corner + static_cast<std::int64_t>(code >> 1) * width + (code & 1);
  }

  // Calls visit(pooled element, its window's first element) for all windows of the planes.
  template <class Visit>
  void for_each_window(std::int64_t planes, const Visit& visit) const {
    at::parallel_for(0, planes, 8, [&](std::int64_t first, std::int64_t last) {
      std::int64_t pooled = first * pooled_plane();
      for (std::int64_t i = first; i < last; ++i) {
        for (std::int64_t row = 0; row < height / 2; ++row) {
          for (std::int64_t column = 0; column < width / 2; ++column, ++pooled) {
            visit(pooled, i * plane() + 2 * (row * width + column));
          }
        }
      }
    });
  }
};

// The shape and packing of one block's context.
struct ContextFormat {
  std::vector<std::int64_t> sizes;  // of y: samples, channels, height, width
  actpack::Layout layout;           // of y
  actpack::Rounding rounding;
  batch_norm::SavedValue saved;  // see BlockContext
  bool is_pooled;

  bool is_affine() const { return saved == batch_norm::SavedValue::input; }

  std::int64_t samples() const { return sizes[0]; }
  std::int64_t sample_numel() const { return sizes[1] * sizes[2] * sizes[3]; }
  Pooling pooling() const { return {sizes[2], sizes[3]}; }
  batch_norm::Channels channels() const { return {sizes[1], pooling().plane()}; }

  at::Tensor make_values(std::int64_t samples) const {
    return at::empty({samples, sizes[1], sizes[2], sizes[3]});
  }
  at::Tensor make_outputs(std::int64_t samples) const {
    return at::empty({samples, sizes[1], sizes[2] / 2, sizes[3] / 2});
  }
};

// Keeps y, the ReLU's input, as exact signs and rounded magnitudes. They serve three backward
// passes: batch norm's as x̂ = (y − β) / γ, the ReLU's by the signs, and the next block's
// convolution, which saves no input of its own, as max(y, 0). If some γ is nearly 0, x̂ cannot be
// recovered from y; the block then keeps an affine copy of batch norm's input z beside the signs,
// at the same size.
class BlockContext {
 public:
  struct Tensors {
    at::Tensor bytes;     // as Words
    at::Tensor argmax;    // the windows' maxima, 2 bits each; undefined without pooling
    at::Tensor channels;  // batch norm's, [channels, 4]: one Channel per row
  };

  BlockContext(ContextFormat format, Tensors tensors)
      : format_(std::move(format)), tensors_(std::move(tensors)) {}

  const ContextFormat& format() const { return format_; }
  const Tensors& tensors() const { return tensors_; }
  const batch_norm::Channel* channels() const {
    return static_cast<const batch_norm::Channel*>(tensors_.channels.data_ptr());
  }

  // Packs the convolution's output `z`, overwrites it, and returns the block's output. For the
  // forward pass, in which tensors() has channels alone before the call.
  at::Tensor keep(const at::Tensor& z) {
    const actpack::Layout& layout = format_.layout;
    tensors_.bytes = Words::make(layout);
    if (format_.is_affine()) {
      actpack::quantize(values_of<const float>(z), affine(), format_.rounding, torch_threads);
    }
    normalize(z);
    if (format_.is_affine()) {
      const std::size_t words = static_cast<std::size_t>(layout.with_bits(1).num_words());
      actpack::make_mask(
          values_of<const float>(z), {signs(), words}, [](float value) { return value > 0; },
          torch_threads);
    } else {
      actpack::encode(values_of<const float>(z), sign_magnitude(), format_.rounding, torch_threads);
    }
    return format_.is_pooled ? pool(z) : z.relu_();
  }

  // Decodes the block's output.
  at::Tensor output(Samples samples) const {
    at::Tensor values = format_.make_values(samples.count);
    const std::span<float> span = values_of<float>(values);
    if (format_.is_affine()) {
      actpack::dequantize(affine(), first(samples), span, decoding(), torch_threads);
      normalize(values);
      rectify(first(samples), std::span<const float>(span), span);
    } else {
      actpack::decode_relu(sign_magnitude(), first(samples), span, decoding(), torch_threads);
    }
    return format_.is_pooled ? gather(samples, values) : values;
  }

  // Turns the gradient of the block's output into that of the ReLU's output.
  at::Tensor relu_output_gradient(Samples samples, const at::Tensor& output_gradient) const {
    return format_.is_pooled ? scatter(samples, output_gradient) : output_gradient;
  }
  std::int64_t first(Samples samples) const { return samples.first * format_.sample_numel(); }

  // For batch_norm: y or z.
  void decode(std::int64_t first, std::span<float> values) const {
    if (format_.is_affine()) {
      actpack::dequantize(affine(), first, values, decoding());
    } else {
      actpack::decode(sign_magnitude(), first, values, decoding());
    }
  }
  // For batch_norm: the gradients behind the ReLU's mask.
  std::span<const float> rectify(std::int64_t first, std::span<const float> from,
                                 std::span<float> to) const {
    if (format_.is_affine()) {
      const std::uint32_t* const is_positive = signs();
      for (std::size_t e = 0; e < from.size(); ++e) {
        const bool is_kept =
            actpack::extract(is_positive, first + static_cast<std::int64_t>(e), 1) != 0;
        to.data()[e] = is_kept ? from.data()[e] : 0.0f;
      }
    } else {
      actpack::relu_backward(from, sign_magnitude(), first, to);
    }
    return to;
  }

 private:
  std::uint32_t* signs() const { return Words(format_.layout, tensors_.bytes).signs; }
  actpack::SignMagnitudeView sign_magnitude() const {
    return sign_magnitude_view(format_.layout, tensors_.bytes);
  }
  actpack::PackedView affine() const {
    const Words words(format_.layout, tensors_.bytes);
    return {format_.layout, words.codes, reinterpret_cast<actpack::GroupParams*>(words.params)};
  }
  actpack::Decoding decoding() const { return actpack::Decoding::subtractive(format_.rounding); }

  // Turns z into y, in place.
  void normalize(const at::Tensor& z) const {
    batch_norm::normalize(values_of<const float>(z), format_.channels(), channels(),
                          values_of<float>(z), torch_threads);
  }

  // Pools the ReLU's output and keeps the code of each maximum.
  at::Tensor pool(const at::Tensor& y) {
    at::Tensor pooled = format_.make_outputs(format_.samples());
    at::Tensor codes = at::empty({pooled.numel()}, at::kByte);
    const Pooling pooling = format_.pooling();
    const float* const values = y.data_ptr<float>();
    float* const outputs = pooled.data_ptr<float>();
    std::uint8_t* const winners = codes.data_ptr<std::uint8_t>();
    pooling.for_each_window(planes(format_.samples()), [&](std::int64_t i, std::int64_t corner) {
      std::uint8_t code = 0;
      float largest = values[corner];
      for (std::uint8_t other = 1; other < 4; ++other) {
        const float value = values[pooling.element(corner, other)];
        code = value > largest ? other : code;
        largest = std::max(largest, value);
      }
      outputs[i] = std::max(largest, 0.0f);
      winners[i] = code;
    });
    const std::int64_t words = actpack::words_for(pooled.numel(), 2);
    tensors_.argmax = at::empty({4 * words}, at::kByte);
    actpack::pack(values_of<const std::uint8_t>(codes), 2,
                  {argmax(), static_cast<std::size_t>(words)}, torch_threads);
    return pooled;
  }

  at::Tensor gather(Samples samples, const at::Tensor& values) const {
    at::Tensor pooled = format_.make_outputs(samples.count);
    const float* const from = values.data_ptr<float>();
    float* const to = pooled.data_ptr<float>();
    for_each_maximum(samples, [&](std::int64_t i, std::int64_t maximum) { to[i] = from[maximum]; });
    return pooled;
  }

  at::Tensor scatter(Samples samples, const at::Tensor& pooled) const {
    at::Tensor values = format_.make_values(samples.count).zero_();
    const float* const from = pooled.data_ptr<float>();
    float* const to = values.data_ptr<float>();
    for_each_maximum(samples, [&](std::int64_t i, std::int64_t maximum) { to[maximum] = from[i]; });
    return values;
  }

  // Calls visit(pooled element, the element that was its window's maximum).
  template <class Visit>
  void for_each_maximum(Samples samples, const Visit& visit) const {
    const Pooling pooling = format_.pooling();
    const std::int64_t start = planes(samples.first) * pooling.pooled_plane();
    const std::uint32_t* const codes = argmax();
    pooling.for_each_window(planes(samples.count), [&](std::int64_t i, std::int64_t corner) {
      visit(i, pooling.element(corner, actpack::extract(codes, start + i, 2)));
    });
  }

  std::int64_t planes(std::int64_t samples) const { return samples * format_.sizes[1]; }
  std::uint32_t* argmax() const { return static_cast<std::uint32_t*>(tensors_.argmax.data_ptr()); }

  ContextFormat format_;
  Tensors tensors_;
};

}  // namespace actpack_torch
