// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The place where actpack plugs in: a tensor that waits for the backward pass, in float or packed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "actpack/packed.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "common/codec_clock.hpp"
#include "common/tensor.hpp"

namespace trainer {

// The way that one tensor of one step is saved.
struct SavedFormat {
  enum class Form {
    nothing,         // no backward pass follows, or the values are computed again
    floats,          // as they are
    affine,          // codes between each group's minimum and maximum
    sign_magnitude,  // exact signs, and magnitudes in codes
  };

  Form form = Form::floats;
  actpack::Layout layout = {};              // of the whole batch
  std::vector<std::uint8_t> row_bits = {};  // of affine codes; empty: all rows have layout.bits
  actpack::Rounding rounding = {};
  actpack::Decoding decoding = {};

  // Rounds as `noise` says and decodes without bias: subtractively or plainly.
  void set_rounding(const actpack::Rounding& noise, bool is_subtractive);
};

// A tensor of a batch, written and read by items: images or tokens. Threads may save different rows
// of its layout at a time, and load anything once all are saved.
class SavedTensor {
 public:
  // `format.layout` holds whole items of `item_numel` values.
  SavedTensor(const SavedFormat& format, std::int64_t item_numel, CodecClock& clock);

  // The items from `first` on, which starts a row: as many as `values` has, in whole rows.
  void save(std::int64_t first, std::span<const float> values);

  // As many values as `scratch` has room for. Packed ones are decoded there; floats stay where they
  // are, and so does the result.
  std::span<const float> load(std::int64_t first, std::span<float> scratch) const;

  // Of sign-magnitude tensors: max(value, 0), whose zeros are exact; and the ReLU's backward pass,
  // which sets to zero every dx whose value is not positive.
  void load_relu(std::int64_t first, std::span<float> output) const;
  void relu_backward(std::int64_t first, std::span<float> dx) const;

  std::int64_t size_bytes() const;

  // For packed tensors: the sum of squared group ranges of a row, averaged over all rows. Ranges
  // are recovered from the stored steps, up to the rounding of those. Half of a sign-magnitude
  // tensor's values count for either side.
  double squared_range_norm() const;

 private:
  std::int64_t item_numel_;
  std::int64_t row_size_;
  actpack::Rounding rounding_;
  actpack::Decoding decoding_;
  CodecClock* clock_;
  std::variant<std::monostate, Array<float>, actpack::PackedBuffer, actpack::SignMagnitudeBuffer>
      memory_;
};

}  // namespace trainer
