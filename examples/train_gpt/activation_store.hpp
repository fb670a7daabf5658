// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Makes the saved tensors of every step: numbers them, so that each is rounded with random bits of
// its own, gives them their widths, and counts their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "common/codec_clock.hpp"
#include "common/probe.hpp"
#include "common/saved_tensor.hpp"
#include "common/width_control.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

using trainer::SavedFormat;
using trainer::SavedTensor;

class ActivationStore {
 public:
  // `rank` tells the processes of data-parallel training apart: they must not round alike.
  ActivationStore(const ModelShape& shape, const SavePolicy& policy, std::uint64_t seed,
                  int rank = 0, trainer::WidthControl::AllReduce all_reduce = {})
      : shape_(shape), policy_(policy), seed_(seed), rank_(static_cast<std::uint64_t>(rank)) {
    if (policy.average_bits > 0) {
      widths_.emplace(policy.average_bits, std::move(all_reduce));
      for (std::size_t tensor = 0; tensor < num_tensors(); ++tensor) {
        const Kind kind = static_cast<Kind>(tensor % kinds);
        widths_->add_tensor({.rows = 1, .row_size = shape.tile() * channels_of(shape, kind)});
      }
    }
  }

  const SavePolicy& policy() const { return policy_; }
  double codec_seconds() const { return clock_.seconds(); }

  // Null where widths are fixed.
  trainer::WidthControl* widths() { return widths_ ? &*widths_ : nullptr; }

  std::size_t num_tensors() const { return static_cast<std::size_t>(shape_.layers) * kinds; }

  // Of the last step's saved tensors, so far.
  std::int64_t saved_bytes() const { return saved_bytes_; }

  trainer::NoiseSteps& steps() { return steps_; }

  void begin_step() {
    steps_.begin_step();
    saved_bytes_ = 0;
  }

  // A [tokens][channels] tensor of a batch. A tile is a row of its layout, so that threads may save
  // different ones at a time.
  SavedTensor make(std::int64_t layer, Kind kind, std::int64_t tokens) {
    const std::int64_t channels = channels_of(shape_, kind);
    SavedFormat format = format_of(number_of(layer, kind), kind);
    format.layout.rows = tokens / shape_.tile();
    format.layout.row_size = shape_.tile() * channels;
    return {format, channels, clock_};
  }

  // Once a tensor is full.
  void finish(std::int64_t layer, Kind kind, const SavedTensor& tensor) {
    saved_bytes_ += tensor.size_bytes();
    if (widths_) {
      widths_->observe_ranges(number_of(layer, kind), tensor.squared_range_norm());
    }
  }

  // Of values that are saved in float beside the tensors.
  void count_bytes(std::int64_t bytes) { saved_bytes_ += bytes; }

 private:
  static std::size_t number_of(std::int64_t layer, Kind kind) {
    return static_cast<std::size_t>(layer) * kinds + index_of(kind);
  }

  // All but the layout's rows.
  SavedFormat format_of(std::size_t tensor, Kind kind) const {
    const int bits = widths_ ? widths_->bits(tensor) : policy_.bits_of(kind);
    const bool is_recomputed = kind == Kind::mlp_output && policy_.recomputes_mlp_output();
    if (is_recomputed || bits == SavePolicy::nothing) {
      return {.form = SavedFormat::Form::nothing};
    }
    if (bits == SavePolicy::full_precision) {
      return {.form = SavedFormat::Form::floats};
    }
    const bool has_signs = kind == Kind::gelu && policy_.gelu == SavePolicy::Gelu::input_with_sign;
    SavedFormat format{.form = has_signs ? SavedFormat::Form::sign_magnitude
                                         : SavedFormat::Form::affine};
    format.layout.bits = bits;
    format.set_rounding(policy_.is_stochastic
                            ? actpack::Rounding::stochastic(seed_, stream_of(tensor))
                            : actpack::Rounding::nearest(),
                        policy_.is_subtractive);
    return format;
  }

  // The noise is a function of this, of the seed and of the element's index, and of nothing else:
  // it differs for every step, rank and tensor, and for a probe's other rounding of it.
  std::uint64_t stream_of(std::size_t tensor) const {
    return steps_.step() << 32 | rank_ << 16 | steps_.stream_of(tensor);
  }

  ModelShape shape_;
  SavePolicy policy_;
  std::uint64_t seed_;
  std::uint64_t rank_;
  trainer::NoiseSteps steps_;
  std::int64_t saved_bytes_ = 0;
  trainer::CodecClock clock_;
  std::optional<trainer::WidthControl> widths_;
};

}  // namespace gpt
