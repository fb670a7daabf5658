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

#include "codec.hpp"
#include "keeping.hpp"
#include "probe.hpp"
#include "saved_tensor.hpp"
#include "shape.hpp"
#include "tensor_widths.hpp"

namespace gpt {

class ActivationStore {
 public:
  // `rank` tells the processes of a data-parallel run apart: they must not round alike.
  ActivationStore(const ModelShape& shape, const Keeping& keeping, std::uint64_t seed, int rank = 0,
                  TensorWidths::AllReduce all_reduce = {})
      : shape_(shape), keeping_(keeping), seed_(seed), rank_(static_cast<std::uint64_t>(rank)) {
    if (keeping.average_bits > 0) {
      widths_.emplace(shape, keeping.average_bits, std::move(all_reduce));
    }
  }

  const Keeping& keeping() const { return keeping_; }
  double codec_seconds() const { return clock_.seconds(); }

  // Null where widths are fixed.
  TensorWidths* widths() { return widths_ ? &*widths_ : nullptr; }

  std::size_t num_tensors() const { return static_cast<std::size_t>(shape_.layers) * kinds; }

  // Of the last step's saved tensors, so far.
  std::int64_t stored_bytes() const { return stored_bytes_; }

  trainer::NoiseSteps& steps() { return steps_; }

  void begin_step() {
    steps_.begin_step();
    stored_bytes_ = 0;
  }

  SavedTensor make(std::int64_t layer, Kind kind, std::int64_t tokens) {
    const std::size_t tensor = number_of(layer, kind);
    return {tokens, channels_of(shape_, kind), shape_.tile(), packing_of(tensor, kind), clock_};
  }

  // Once a tensor is full.
  void finish(std::int64_t layer, Kind kind, const SavedTensor& tensor) {
    stored_bytes_ += tensor.size_bytes();
    if (widths_) {
      widths_->observe_ranges(number_of(layer, kind), tensor.squared_range_norm());
    }
  }

  // Of what is kept in float beside the tensors.
  void count_bytes(std::int64_t bytes) { stored_bytes_ += bytes; }

 private:
  static std::size_t number_of(std::int64_t layer, Kind kind) {
    return static_cast<std::size_t>(layer) * kinds + index_of(kind);
  }

  Packing packing_of(std::size_t tensor, Kind kind) const {
    const int bits = widths_ ? widths_->bits(tensor) : keeping_.bits_of(kind);
    const bool is_recomputed = kind == Kind::mlp_output && keeping_.recomputes_mlp_output();
    if (is_recomputed || bits == Keeping::nothing) {
      return {.form = Packing::Form::nothing};
    }
    if (bits == Keeping::full_precision) {
      return {.form = Packing::Form::floats};
    }
    const bool has_signs = kind == Kind::gelu && keeping_.gelu == Keeping::Gelu::input_with_sign;
    const actpack::Rounding rounding = keeping_.is_stochastic
                                           ? actpack::Rounding::stochastic(seed_, stream_of(tensor))
                                           : actpack::Rounding::nearest();
    return {.form = has_signs ? Packing::Form::sign_magnitude : Packing::Form::affine,
            .bits = bits,
            .rounding = rounding,
            .decoding = keeping_.is_subtractive ? actpack::Decoding::subtractive(rounding)
                                                : actpack::Decoding::plain()};
  }

  // The noise is a function of this, of the seed and of the element's index, and of nothing else:
  // it differs for every step, rank and tensor, and for a probe's other rounding of it.
  std::uint64_t stream_of(std::size_t tensor) const {
    return steps_.step() << 32 | rank_ << 16 | steps_.stream_of(tensor);
  }

  ModelShape shape_;
  Keeping keeping_;
  std::uint64_t seed_;
  std::uint64_t rank_;
  trainer::NoiseSteps steps_;
  std::int64_t stored_bytes_ = 0;
  trainer::CodecClock clock_;
  std::optional<TensorWidths> widths_;
};

}  // namespace gpt
