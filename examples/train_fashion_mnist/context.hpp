// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A context saves a block's activations between the forward and the backward pass: in full
// precision (full_precision.hpp) or packed (packed_contexts.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "common/data.hpp"
#include "common/tensor.hpp"
#include "layers/batch_norm.hpp"
#include "layers/pooling.hpp"

namespace trainer {

// Saves the network's input.
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
  std::span<const float> output;         // after ReLU and pooling: the next layer's input
  std::span<const std::uint8_t> argmax;  // as of Pooling
};

// The block whose activations are saved.
struct BlockSetting {
  std::int64_t images;
  const Pooling& pooling;
  const BatchNorm& batch_norm;
};

// Saves all that one block's backward pass needs. Calls for different images may overlap.
class BlockContext {
 public:
  virtual ~BlockContext() = default;

  // Forward: save() until all images are in, then finish(). A context that saves the
  // tensors themselves takes them there; all others leave them to be freed.
  virtual void save(std::int64_t first_image, const BlockValues& values) = 0;
  virtual void finish(Tensor<float> /*batch_norm_input*/,
                      // NOLINTNEXTLINE(performance-unnecessary-value-param): others keep it
                      std::shared_ptr<const Tensor<float>> /*output*/) {}

  // Backward: the position in each window that the output comes from.
  virtual void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const = 0;

  // The block's output and, at the same places, the normalised batch norm input x̂ (needed only
  // where the output is positive). `scratch` has room for one image before pooling.
  virtual void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                           std::span<float> output, std::span<float> normalized,
                           std::span<float> scratch) const = 0;

  // Sets the gradient with respect to the output to zero where the ReLU's input was not positive:
  // exactly, never read from a rounded value.
  virtual void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                             std::span<float> gradient) const = 0;

  // x̂ of the whole image, before pooling.
  virtual void load_normalized(std::int64_t image, std::span<float> normalized) const = 0;
};

// A way to save activations: makes the contexts of every step.
class ContextFactory {
 public:
  virtual ~ContextFactory() = default;

  // A new forward pass: everything random is drawn afresh.
  virtual void begin_step() = 0;

  // Whether save() must see the whole batch at once, at the price of a transient tensor.
  virtual bool saves_whole_batch() const { return false; }

  virtual std::unique_ptr<InputContext> save_input(Tensor<std::uint8_t> pixels,
                                                   PixelScale scale) = 0;
  virtual std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) = 0;
};

}  // namespace trainer
