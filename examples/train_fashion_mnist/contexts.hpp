// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The ways to save activations that the trainer compares, and the factory that makes their
// contexts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/codec_clock.hpp"
#include "common/probe.hpp"
#include "common/saved_tensor.hpp"
#include "common/width_control.hpp"
#include "train_fashion_mnist/context.hpp"
#include "train_fashion_mnist/packed_contexts.hpp"

namespace trainer {

// How a training run saves its activations, as the command line says it.
struct Codec {
  enum class Context {
    full_precision,  // every tensor that an autograd framework saves, in float
    lean,            // the least that full precision can do with: one float copy per block
    sign_magnitude,  // actpack's one context for batch norm, ReLU and the next layer
    affine,          // ActNN's way: two affine copies and a ReLU mask
  };

  Context context = Context::sign_magnitude;
  int bits = 2;
  double average_bits = 0;  // if not 0, instead: widths by tensor, found during training
  bool is_subtractive = true;
  bool is_stochastic = true;
  bool has_tensor_range = false;  // one range for the whole tensor, not one per group
  std::int32_t group_size = 256;

  static Codec full_precision() { return {.context = Context::full_precision}; }
};

std::string name_of(Codec::Context context);
std::string describe(const Codec& codec);

class Contexts final : public ContextFactory {
 public:
  Contexts(const Codec& codec, std::uint64_t seed);

  double codec_seconds() const { return clock_.seconds(); }

  // Null where widths are fixed.
  WidthControl* width_control() { return control_ ? &*control_ : nullptr; }

  // From the next step on, `adapt` may change every tensor's layout and the widths of its rows.
  using Plan = std::function<void(std::size_t tensor, SavedFormat& format)>;
  void use_plan(Plan adapt) { plan_ = std::move(adapt); }

  // Of the last step.
  std::size_t num_tensors() const { return tensor_; }

  NoiseSteps& steps() { return steps_; }

  void begin_step() override;
  bool saves_whole_batch() const override { return codec_.has_tensor_range || plan_ != nullptr; }
  std::unique_ptr<InputContext> save_input(Tensor<std::uint8_t> pixels, PixelScale scale) override;
  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override;

 private:
  ControlledTensor next_tensor(SavedFormat::Form form, std::int64_t images,
                               std::int64_t image_numel);

  Codec codec_;
  std::uint64_t seed_;
  NoiseSteps steps_;
  std::size_t tensor_ = 0;
  CodecClock clock_;
  std::optional<WidthControl> control_;
  Plan plan_;
};

}  // namespace trainer
