// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the layers ask of whoever keeps their activations between the forward and the backward pass.
// full_precision.hpp keeps them as frameworks do, contexts.hpp keeps them with actpack.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "common/data.hpp"
#include "common/tensor.hpp"
#include "layers/batch_norm.hpp"
#include "layers/pooling.hpp"

namespace trainer {

// Keeps the network's input.
class InputContext {
 public:
  virtual ~InputContext() = default;
  virtual void load(std::int64_t image, std::span<float> values) const = 0;
};

// The values of one image, or of several in a row, on their way through a block:
// convolution -> batch_norm_input -> relu_input -> output.
struct BlockValues {
  std::span<const float> batch_norm_input;
  std::span<const float> relu_input;
  std::span<const float> output;         // behind ReLU and pooling: the next layer's input
  std::span<const std::uint8_t> argmax;  // as of Pooling
};

// The block whose activations are kept.
struct BlockSetting {
  std::int64_t images;
  const Pooling& pooling;
  const BatchNorm& batch_norm;
};

// Keeps what one block's backward pass needs. Calls for different images may run at the same time.
class BlockContext {
 public:
  virtual ~BlockContext() = default;

  // Forward: save() until all images are in, then finish(). Whoever keeps the tensors themselves
  // takes them there; all others leave them to be freed.
  virtual void save(std::int64_t first_image, const BlockValues& values) = 0;
  virtual void finish(Tensor<float> /*batch_norm_input*/,
                      std::shared_ptr<const Tensor<float>> /*output*/) {}

  // Backward: which value of each window is the output.
  virtual void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const = 0;

  // The block's output and, at the same places, the normalised batch norm input x̂ (needed only
  // where the output is positive). `scratch` has room for one image before pooling.
  virtual void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                           std::span<float> output, std::span<float> normalized,
                           std::span<float> scratch) const = 0;

  // Sets the gradient with respect to the output to zero where the ReLU's input was not positive:
  // exactly, never by what a rounded value looks like.
  virtual void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                             std::span<float> gradient) const = 0;

  // x̂ of the whole image, before pooling.
  virtual void load_normalized(std::int64_t image, std::span<float> normalized) const = 0;
};

// How activations are kept: makes the contexts of every step.
class ContextFactory {
 public:
  virtual ~ContextFactory() = default;

  // A new forward pass: whatever is random is drawn afresh.
  virtual void begin_step() = 0;

  // Whether save() must see the whole batch at once, at the price of a transient tensor.
  virtual bool saves_whole_batch() const { return false; }

  virtual std::unique_ptr<InputContext> save_input(Tensor<std::uint8_t> pixels,
                                                   PixelScale scale) = 0;
  virtual std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) = 0;
};

}  // namespace trainer
