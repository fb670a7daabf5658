// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Tensors to pack, and packed tensors in memory fit for measuring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude.hpp"
#include "support/buffer.hpp"
#include "tests/support/data.hpp"

namespace bench {

enum class Data {
  normal,  // N(0, 1): what enters a ReLU
  relu,    // max(0, N(0, 1)): what leaves it
};

/// `numel` values: 2^18 different ones again and again, more than any predictor remembers.
template <class T>
Buffer<T> make_tensor(Data data, std::int64_t numel) {
  constexpr std::size_t period = std::size_t{1} << 18;
  static const std::vector<float> normal = support::gaussian(period, 1);
  static const std::vector<float> relu = support::relu_of_gaussian(period, 1);
  const std::vector<float>& values = data == Data::normal ? normal : relu;
  Buffer<T> tensor(numel);
  const std::span<T> out = tensor.span();
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = T(values[i % period]);
  }
  return tensor;
}

inline actpack::Layout layout_of(std::int64_t numel, int bits) {
  constexpr std::int64_t row_size = 1 << 14;
  return {.rows = numel / row_size, .row_size = row_size, .bits = bits};
}

class Packed {
 public:
  Packed(std::int64_t numel, int bits)
      : layout_(layout_of(numel, bits)), words_(layout_.num_words()),
        params_(layout_.num_groups()) {}

  actpack::PackedView view() { return {layout_, words_.data(), params_.data()}; }

 private:
  actpack::Layout layout_;
  Buffer<std::uint32_t> words_;
  Buffer<actpack::GroupParams> params_;
};

class SignMagnitude {
 public:
  SignMagnitude(std::int64_t numel, int bits)
      : layout_(layout_of(numel, bits)), sign_words_(layout_.with_bits(1).num_words()),
        magnitude_words_(layout_.num_words()), params_(layout_.num_groups()) {}

  actpack::SignMagnitudeView view() {
    return {layout_, sign_words_.data(), magnitude_words_.data(), params_.data()};
  }
  double bits_per_value() const { return 1 + layout_.bits_per_value(); }

 private:
  actpack::Layout layout_;
  Buffer<std::uint32_t> sign_words_, magnitude_words_;
  Buffer<actpack::SignMagnitudeParams> params_;
};

}  // namespace bench
