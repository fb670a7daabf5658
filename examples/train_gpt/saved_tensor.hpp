// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Where actpack plugs in: every tensor that waits for the backward pass is one of these, and every
// call that packs or unpacks one is in this file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <variant>

#include "actpack/codes.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "codec.hpp"
#include "shape.hpp"
#include "tensor.hpp"

namespace gpt {

// How one tensor of one step is kept.
struct Packing {
  enum class Form {
    nothing,         // where no backward pass follows, or the values are computed again
    floats,          // as they are
    affine,          // codes of `bits` between each group's minimum and maximum
    sign_magnitude,  // exact signs, and magnitudes in codes of `bits`
  };

  Form form = Form::floats;
  int bits = 0;
  actpack::Rounding rounding = {};
  actpack::Decoding decoding = {};
};

// A [tokens][channels] tensor of a batch, written and read by tiles. A tile is a row of the packed
// layout, so that threads may save different ones at a time.
class SavedTensor {
 public:
  SavedTensor(std::int64_t tokens, std::int64_t channels, std::int64_t tile, const Packing& packing,
              trainer::CodecClock& clock)
      : channels_(channels), tile_(tile), packing_(packing), clock_(&clock) {
    const actpack::Layout layout{
        .rows = tokens / tile, .row_size = tile * channels, .bits = packing.bits};
    switch (packing.form) {
      case Packing::Form::nothing: break;
      case Packing::Form::floats: memory_ = trainer::Array<float>(tokens * channels); break;
      case Packing::Form::affine: memory_ = actpack::PackedBuffer(layout); break;
      case Packing::Form::sign_magnitude: memory_ = actpack::SignMagnitudeBuffer(layout); break;
    }
  }

  // Whole tiles, from a token on that starts one.
  void save(std::int64_t first_token, std::span<const float> values) {
    if (auto* floats = std::get_if<trainer::Array<float>>(&memory_)) {
      std::ranges::copy(values, floats->span().begin() + first_token * channels_);
    } else if (auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
      clock_->time([&] {
        actpack::quantize(values, codes->view(), packing_.rounding, first_token / tile_);
      });
    } else if (auto* sides = std::get_if<actpack::SignMagnitudeBuffer>(&memory_)) {
      clock_->time(
          [&] { actpack::encode(values, sides->view(), packing_.rounding, first_token / tile_); });
    }
  }

  // The values of as many tokens as `scratch` has room for. Packed ones are decoded there; floats
  // stay where they are.
  std::span<const float> load(std::int64_t first_token, std::span<float> scratch) const {
    const std::int64_t first = first_token * channels_;
    if (const auto* floats = std::get_if<trainer::Array<float>>(&memory_)) {
      return part(floats->span(), first, static_cast<std::int64_t>(scratch.size()));
    }
    if (const auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
      clock_->time([&] { actpack::dequantize(codes->view(), first, scratch, packing_.decoding); });
    } else {
      const auto& sides = std::get<actpack::SignMagnitudeBuffer>(memory_);
      clock_->time([&] { actpack::decode(sides.view(), first, scratch, packing_.decoding); });
    }
    return scratch;
  }

  std::int64_t size_bytes() const {
    if (const auto* floats = std::get_if<trainer::Array<float>>(&memory_)) {
      return floats->numel() * static_cast<std::int64_t>(sizeof(float));
    }
    if (const auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
      return static_cast<std::int64_t>(codes->size_bytes());
    }
    const auto* sides = std::get_if<actpack::SignMagnitudeBuffer>(&memory_);
    return sides == nullptr ? 0 : static_cast<std::int64_t>(sides->size_bytes());
  }

  // Of affine codes: the squared ranges of a tile's groups, summed up, in the mean over all tiles.
  // Steps are as wide as the range they cover needs, but for the rounding of the step.
  double squared_range_norm() const {
    const auto& codes = std::get<actpack::PackedBuffer>(memory_);
    const actpack::ConstPackedView view = codes.view();
    double sum = 0;
    for (std::int64_t group = 0; group < view.layout.num_groups(); ++group) {
      const double scale = float{view.params[group].scale};
      sum += scale * scale;
    }
    const double levels = actpack::max_code(view.layout.bits);
    return levels * levels * sum / static_cast<double>(view.layout.rows);
  }

 private:
  std::int64_t channels_;
  std::int64_t tile_;
  Packing packing_;
  trainer::CodecClock* clock_;
  std::variant<std::monostate, trainer::Array<float>, actpack::PackedBuffer,
               actpack::SignMagnitudeBuffer>
      memory_;
};

}  // namespace gpt
