// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed tensors of both forms, each of their arrays between guard bytes, and as long as the
// reference says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include <doctest/doctest.h>

#include "support/compare.hpp"
#include "support/guarded_buffer.hpp"
#include "support/reference.hpp"

namespace support {

inline bool same(actpack::GroupParams got, reference::Params expected) {
  return got.scale.bits == expected.scale && got.min.bits == expected.min;
}
inline bool same(actpack::SignMagnitudeParams got, reference::SignMagnitudeParams expected) {
  return got.positive.bits == expected.positive && got.negative.bits == expected.negative;
}

inline void check_same_words(std::span<const std::uint32_t> got,
                             const std::vector<std::uint32_t>& expected) {
  REQUIRE(got.size() == expected.size());
  std::size_t word = 0;
  while (word < got.size() && got[word] == expected[word]) ++word;
  CAPTURE(word);
  CHECK(word == got.size());
}

template <class Params, class Expected>
void check_same_params(std::span<const Params> got, const std::vector<Expected>& expected) {
  REQUIRE(got.size() == expected.size());
  std::size_t group = 0;
  while (group < got.size() && same(got[group], expected[group])) ++group;
  CAPTURE(group);
  CHECK(group == got.size());
}

// Codes between a group's minimum and maximum, of one width or of one for each row.
struct GuardedPacked {
  using View = actpack::PackedView;
  using ConstView = actpack::ConstPackedView;

  explicit GuardedPacked(const actpack::Layout& layout_, std::vector<std::uint8_t> row_bits_ = {})
      : layout(layout_), shape(shape_of(layout_, row_bits_)), row_bits(std::move(row_bits_)),
        words(reference::count_words(shape)), params(reference::groups_of(shape).size()) {
    if (row_bits.empty()) return;
    row_offsets.push_back(0);
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      row_offsets.push_back(row_offsets.back() +
                            reference::words_for(shape.size_of_row(row), shape.bits_of_row(row)));
    }
  }

  View view() {
    return {layout, words.data(), params.data(), row_bits.empty() ? nullptr : row_bits.data(),
            row_offsets.empty() ? nullptr : row_offsets.data()};
  }
  template <class Values>
  void encode(const Values& x, const actpack::Rounding& rounding) {
    actpack::quantize(x, view(), rounding);
  }
  template <class T>
  void decode(std::int64_t first, std::span<T> x, const actpack::Decoding& decoding,
              actpack::detail::NegativeSide = actpack::detail::NegativeSide::kept) {
    actpack::dequantize(view(), first, x, decoding);
  }
  bool is_untouched() const { return words.is_untouched() && params.is_untouched(); }
  bool equals(const GuardedPacked& other) const {
    return have_same_bytes(words, other.words) && have_same_bytes(params, other.params);
  }
  void check_equals(const reference::Packed& expected) const {
    check_same_words(words.span(), expected.words);
    check_same_params(params.span(), expected.params);
  }

  actpack::Layout layout;
  reference::Shape shape;
  std::vector<std::uint8_t> row_bits;
  std::vector<std::int64_t> row_offsets;
  GuardedBuffer<std::uint32_t> words;
  GuardedBuffer<actpack::GroupParams> params;
};

// Signs and magnitudes, of one width. (The constructor's second argument is GuardedPacked's.)
struct GuardedSignMagnitude {
  using View = actpack::SignMagnitudeView;
  using ConstView = actpack::ConstSignMagnitudeView;

  explicit GuardedSignMagnitude(const actpack::Layout& layout_,
                                const std::vector<std::uint8_t>& = {})
      : layout(layout_), shape(shape_of(layout_)), sign_words(reference::count_sign_words(shape)),
        magnitude_words(reference::count_words(shape)), params(reference::groups_of(shape).size()) {
  }

  View view() { return {layout, sign_words.data(), magnitude_words.data(), params.data()}; }
  template <class Values>
  void encode(const Values& y, const actpack::Rounding& rounding) {
    actpack::encode(y, view(), rounding);
  }
  template <class T>
  void decode(std::int64_t first, std::span<T> y, const actpack::Decoding& decoding,
              actpack::detail::NegativeSide side = actpack::detail::NegativeSide::kept) {
    if (side == actpack::detail::NegativeSide::zero) {
      actpack::decode_relu(view(), first, y, decoding);
    } else {
      actpack::decode(view(), first, y, decoding);
    }
  }
  bool is_untouched() const {
    return sign_words.is_untouched() && magnitude_words.is_untouched() && params.is_untouched();
  }
  bool equals(const GuardedSignMagnitude& other) const {
    return have_same_bytes(sign_words, other.sign_words) &&
           have_same_bytes(magnitude_words, other.magnitude_words) &&
           have_same_bytes(params, other.params);
  }
  void check_equals(const reference::SignMagnitude& expected) const {
    check_same_words(sign_words.span(), expected.sign_words);
    check_same_words(magnitude_words.span(), expected.magnitude_words);
    check_same_params(params.span(), expected.params);
  }

  actpack::Layout layout;
  reference::Shape shape;
  GuardedBuffer<std::uint32_t> sign_words;
  GuardedBuffer<std::uint32_t> magnitude_words;
  GuardedBuffer<actpack::SignMagnitudeParams> params;
};

}  // namespace support
