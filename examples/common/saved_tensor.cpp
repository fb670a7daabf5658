// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Every call that rounds or decodes a trainer's saved tensors.

#include "common/saved_tensor.hpp"

#include <algorithm>
#include <cstddef>

namespace trainer {
namespace {

double squared_range(const actpack::GroupParams& params) {
  const double scale = float{params.scale};
  return scale * scale;
}
double squared_range(const actpack::SignMagnitudeParams& params) {
  const double positive = float{params.positive};
  const double negative = float{params.negative};
  return (positive * positive + negative * negative) / 2;
}

template <class View>
double mean_squared_range_norm(const View& view) {
  double sum = 0;
  for (std::int64_t group = 0; group < view.layout.num_groups(); ++group) {
    sum += squared_range(view.params[group]);
  }
  const double levels = actpack::max_code(view.layout.bits);
  return levels * levels * sum / static_cast<double>(view.layout.rows);
}

}  // namespace

void SavedFormat::set_rounding(const actpack::Rounding& noise, bool is_subtractive) {
  rounding = noise;
  decoding = is_subtractive ? actpack::Decoding::subtractive(noise) : actpack::Decoding::plain();
}

SavedTensor::SavedTensor(const SavedFormat& format, std::int64_t item_numel, CodecClock& clock)
    : item_numel_(item_numel), row_size_(format.layout.row_size), rounding_(format.rounding),
      decoding_(format.decoding), clock_(&clock) {
  const actpack::Layout& layout = format.layout;
  switch (format.form) {
    case SavedFormat::Form::nothing: break;
    case SavedFormat::Form::floats: memory_ = Array<float>(layout.numel()); break;
    case SavedFormat::Form::affine:
      memory_ = format.row_bits.empty() ? actpack::PackedBuffer(layout)
                                        : actpack::PackedBuffer(layout, format.row_bits);
      break;
    case SavedFormat::Form::sign_magnitude: memory_ = actpack::SignMagnitudeBuffer(layout); break;
  }
}

void SavedTensor::save(std::int64_t first, std::span<const float> values) {
  const std::int64_t first_element = first * item_numel_;
  if (auto* floats = std::get_if<Array<float>>(&memory_)) {
    std::ranges::copy(values, floats->span().begin() + first_element);
    return;
  }
  if (auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
    clock_->time(
        [&] { actpack::quantize(values, codes->view(), rounding_, first_element / row_size_); });
  } else if (auto* sides = std::get_if<actpack::SignMagnitudeBuffer>(&memory_)) {
    clock_->time(
        [&] { actpack::encode(values, sides->view(), rounding_, first_element / row_size_); });
  }
}

std::span<const float> SavedTensor::load(std::int64_t first, std::span<float> scratch) const {
  const std::int64_t first_element = first * item_numel_;
  if (const auto* floats = std::get_if<Array<float>>(&memory_)) {
    return floats->span().subspan(static_cast<std::size_t>(first_element), scratch.size());
  }
  if (const auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
    clock_->time([&] { actpack::dequantize(codes->view(), first_element, scratch, decoding_); });
  } else {
    const auto& sides = std::get<actpack::SignMagnitudeBuffer>(memory_);
    clock_->time([&] { actpack::decode(sides.view(), first_element, scratch, decoding_); });
  }
  return scratch;
}

void SavedTensor::load_relu(std::int64_t first, std::span<float> output) const {
  const auto& sides = std::get<actpack::SignMagnitudeBuffer>(memory_);
  clock_->time([&] { actpack::decode_relu(sides.view(), first * item_numel_, output, decoding_); });
}

void SavedTensor::relu_backward(std::int64_t first, std::span<float> dx) const {
  const auto& sides = std::get<actpack::SignMagnitudeBuffer>(memory_);
  clock_->time([&] { actpack::relu_backward(dx, sides.view(), first * item_numel_, dx); });
}

std::int64_t SavedTensor::size_bytes() const {
  if (const auto* floats = std::get_if<Array<float>>(&memory_)) {
    return floats->numel() * static_cast<std::int64_t>(sizeof(float));
  }
  if (const auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
    return static_cast<std::int64_t>(codes->size_bytes());
  }
  const auto* sides = std::get_if<actpack::SignMagnitudeBuffer>(&memory_);
  return sides == nullptr ? 0 : static_cast<std::int64_t>(sides->size_bytes());
}

double SavedTensor::squared_range_norm() const {
  if (const auto* codes = std::get_if<actpack::PackedBuffer>(&memory_)) {
    return mean_squared_range_norm(codes->view());
  }
  return mean_squared_range_norm(std::get<actpack::SignMagnitudeBuffer>(memory_).view());
}

}  // namespace trainer
