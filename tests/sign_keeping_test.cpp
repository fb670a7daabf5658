// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares decoding that keeps signs with the reference's decoding and with the values that were
// encoded.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <actpack/float16.hpp>
#include <actpack/layout.hpp>
#include <actpack/rounding.hpp>
#include <actpack/sign_keeping.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"
#include "support/reference.hpp"

namespace {

using actpack::bfloat16, actpack::float16;
using actpack::Layout;
using support::GuardedBuffer;
using support::GuardedSignMagnitude;

template <class T>
struct Smallest;
template <>
struct Smallest<float> {
  static constexpr float value = 0x1p-126F;
};
template <>
struct Smallest<bfloat16> {
  static constexpr float value = 0x1p-126F;
};
template <>
struct Smallest<float16> {
  static constexpr float value = 0x1p-24F;
};

// The reference's values, but the smallest where a positive one has become 0.
template <class T>
std::vector<T> expected_values(const std::vector<T>& y, const reference::SignMagnitude& packed,
                               const reference::Shape& shape) {
  std::vector<T> values = support::stored<T>(
      reference::decode_sign_magnitude(packed, shape, reference::Consumer::whole));
  for (std::size_t e = 0; e < y.size(); ++e) {
    if (float{y[e]} > 0 && float{values[e]} == 0) values[e] = T(Smallest<T>::value);
  }
  return values;
}

template <class T>
void check_signs(const std::vector<T>& y, const std::vector<T>& values) {
  int wrong = 0;
  for (std::size_t e = 0; e < y.size(); ++e) {
    const bool is_right = float{y[e]} > 0    ? float{values[e]} > 0
                          : float{y[e]} == 0 ? float{values[e]} == 0
                                             : float{values[e]} <= 0;
    wrong += is_right || support::is_nan(values[e]) ? 0 : 1;
  }
  CHECK(wrong == 0);
}

template <class T>
void check(const std::vector<T>& y, int bits) {
  CAPTURE(y.size());
  CAPTURE(bits);
  const support::RoundingPair rounding = support::stochastic(3, 4);
  GuardedSignMagnitude context({.row_size = static_cast<std::int64_t>(y.size()), .bits = bits});
  context.encode(y, rounding.library);
  const std::vector<T> expected = expected_values(
      y, reference::encode_sign_magnitude(support::floats(y), context.shape, rounding.reference),
      context.shape);
  check_signs(y, expected);

  GuardedBuffer<T> forwards(y.size()), backwards(y.size());
  actpack::decode_keeping_signs(context.view(), forwards.span());
  actpack::decode_keeping_signs(context.view(), backwards.span(),
                                [](std::int64_t count, const auto& body) {
                                  while (count-- > 0) body(count);
                                });
  support::check_same_values<T>(forwards.span(), expected);
  support::check_same_values<T>(backwards.span(), expected);
}

}  // namespace

TEST_CASE_TEMPLATE("decode_keeping_signs: every kind of data", T, float, bfloat16, float16) {
  for (const support::Data data : support::all_data) {
    CAPTURE(static_cast<int>(data));
    for (const int bits : support::all_widths) check(support::make<T>(data, 700, 7), bits);
  }
}

TEST_CASE("decode_keeping_signs: sizes around groups, blocks and segments") {
  for (const int size : {1, 7, 9, 255, 256, 257, 1001, 2047, 2048, 2049, 4095, 4096, 4097, 9000}) {
    check(support::make<float>(support::Data::gaussian, size, 7), 2);
  }
}

// One group of values that are small beside its largest, with a scale of 1 at two bits.
TEST_CASE_TEMPLATE("decode_keeping_signs: small values keep their signs", T, float, bfloat16,
                   float16) {
  std::vector<T> y;
  for (const float value : support::gaussian(256, 11)) y.push_back(T(value * 1e-4F));
  y[10] = T(3.0F);
  y[20] = T(-3.0F);
  for (const int bits : support::all_widths) check(y, bits);

  GuardedSignMagnitude context(Layout{.row_size = 256, .bits = 2});
  context.encode(y, actpack::Rounding::nearest());
  GuardedBuffer<T> values(y.size());
  actpack::decode_keeping_signs(context.view(), values.span());
  for (std::size_t e = 0; e < y.size(); ++e) {
    CAPTURE(e);
    const float expected = float{y[e]} > 0 ? Smallest<T>::value : 0;
    CHECK(float{values.data()[e]} == (e == 10 ? 3.0F : e == 20 ? -3.0F : expected));
  }
}

TEST_CASE("decode_keeping_signs: no elements, nothing written") {
  GuardedSignMagnitude context(Layout{.rows = 1, .row_size = 0, .bits = 2});
  GuardedBuffer<float> values(std::size_t{0});
  actpack::decode_keeping_signs(context.view(), values.span());
}
