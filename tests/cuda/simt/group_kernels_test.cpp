// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the kernels that walk groups on threads of the CPU, with real shuffles, and compares words
// and values with those of the host's verbs, bit for bit.
#include <doctest/doctest.h>

#include "simt_tiles.hpp"  // before the kernels

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <actpack/quantize.hpp>
#include <actpack/sign_keeping.hpp>
#include <actpack/sign_magnitude.hpp>

#include "group_kernels.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace {

using namespace actpack;
using detail::NegativeSide;
using detail::RowWalk;
using support::GuardedBuffer;
using support::GuardedPacked;
using support::GuardedSignMagnitude;
using support::PlacedBuffer;

RowWalk all_groups(const Layout& layout) {
  return {layout.groups_per_row(), 0, layout.num_groups()};
}

template <class T>
std::vector<T> values_for(const Layout& layout, std::uint64_t seed) {
  return support::stored<T>(
      support::gaussian(static_cast<std::size_t>(layout.numel()), seed, 0.1, 2));
}

const Rounding rounding = Rounding::stochastic(5, 6);
const SeededNoise noise(5, 6);
const Decoding subtractive = Decoding::subtractive(rounding);

// Encodes and decodes every group of a tensor by the kernels for rows.
template <class T, class Tensor>
void check_rows(const Layout& layout, const std::vector<std::uint8_t>& row_bits = {},
                NegativeSide side = NegativeSide::kept) {
  GuardedBuffer<T> x(values_for<T>(layout, 3));
  Tensor expected(layout, row_bits);
  expected.encode(std::as_const(x).span(), rounding);
  Tensor got(layout, row_bits);
  simt::launch_tiles(
      detail::EncodeRows<T, typename Tensor::View, SeededNoise>{x.data(), got.view(), noise,
                                                                all_groups(layout)},
      layout.num_groups());
  const bool has_same_words = got.equals(expected);
  CHECK(has_same_words);

  GuardedBuffer<T> want(layout.numel());
  expected.decode(0, want.span(), subtractive, side);
  GuardedBuffer<T> y(layout.numel());
  simt::launch_tiles(
      detail::DecodeRows<T, typename Tensor::ConstView, SeededNoise, detail::NoEpilogue>{
          got.view(), y.data(), 0, layout.numel(), noise, {1, side}, {}, all_groups(layout)},
      layout.num_groups());
  support::check_same_values<T>(y.span(), want.span());
}

// The same by the flat kernels, for so many whole groups of 256.
template <class T, class Tensor, int Bits>
void check_flat(std::int64_t groups) {
  const Layout layout{.row_size = detail::flat_group_size * groups, .bits = Bits};
  PlacedBuffer<T> x(values_for<T>(layout, 4), true);
  Tensor expected(layout);
  expected.encode(std::span<const T>(x.span()), rounding);
  Tensor got(layout);
  simt::launch_tiles(
      detail::EncodeFlat<T, typename Tensor::View, SeededNoise, Bits>{x.data(), got.view(), noise},
      groups);
  const bool has_same_words = got.equals(expected);
  CHECK(has_same_words);

  GuardedBuffer<T> want(layout.numel());
  expected.decode(0, want.span(), subtractive, NegativeSide::kept);
  PlacedBuffer<T> y(layout.numel(), true);
  simt::launch_tiles(
      detail::DecodeFlat<T, typename Tensor::ConstView, SeededNoise, Bits>{
          got.view(), y.data(), noise, {1, NegativeSide::kept}},
      groups);
  support::check_same_values<T>(y.span(), want.span());
}

}  // namespace

TEST_CASE_TEMPLATE("simt: affine rows", T, float, bfloat16) {
  for (const std::int32_t group_size : {32, 96, 256}) {
    CAPTURE(group_size);
    check_rows<T, GuardedPacked>({.rows = 3, .row_size = 300, .group_size = group_size, .bits = 4});
  }
  check_rows<T, GuardedPacked>({.rows = 4, .row_size = 530, .bits = 8, .last_row_size = 33},
                               {8, 1, 4, 2});
}

TEST_CASE_TEMPLATE("simt: sign-magnitude rows", T, float, bfloat16) {
  const Layout layout{.rows = 3, .row_size = 300, .group_size = 96, .bits = 8};
  check_rows<T, GuardedSignMagnitude>(layout);
  check_rows<T, GuardedSignMagnitude>(layout.with_bits(2), {}, NegativeSide::zero);
}

TEST_CASE_TEMPLATE("simt: flat tensors", T, float, bfloat16) {
  check_flat<T, GuardedPacked, 2>(2 * detail::flat_multiple);
  check_flat<T, GuardedPacked, 8>(detail::flat_multiple);
  check_flat<T, GuardedSignMagnitude, 4>(detail::flat_multiple);
}

TEST_CASE("simt: the ReLU's backward pass from a sign plane") {
  const Layout layout{.rows = 3, .row_size = 333, .bits = 2};
  GuardedSignMagnitude context(layout);
  const std::vector<float> y = values_for<float>(layout, 5);
  context.encode(std::span<const float>(y), rounding);
  GuardedBuffer<float> dy(values_for<float>(layout, 6));
  GuardedBuffer<float> want(layout.numel()), dx(layout.numel());
  relu_backward(std::as_const(dy).span(), ConstSignMagnitudeView(context.view()), want.span());
  simt::launch_tiles(detail::ReluBackwardRows<float>{dy.data(), context.view(), dx.data(), 0,
                                                     layout.numel(), all_groups(layout)},
                     layout.num_groups());
  support::check_same_values<float>(dx.span(), want.span());
}

TEST_CASE_TEMPLATE("simt: decoding that keeps signs", T, float, bfloat16) {
  const Layout layout{.rows = 3, .row_size = 333, .bits = 2};
  GuardedSignMagnitude context(layout);
  std::vector<T> y = values_for<T>(layout, 7);
  for (std::size_t e = 0; e < y.size(); e += 256) y[e] = T(1e4F);  // beside which others are small
  context.encode(y, rounding);
  GuardedBuffer<T> want(layout.numel()), got(layout.numel());
  decode_keeping_signs(context.view(), want.span());
  simt::launch_tiles(detail::DecodeKeepingSigns<T>{context.view(), got.data(), all_groups(layout)},
                     layout.num_groups());
  support::check_same_values<T>(got.span(), want.span());
}
