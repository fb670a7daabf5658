// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the context that batch norm, ReLU and convolution share: bits against the reference, the
// exact mask, and the noise. Shows why a mask must never be read back from rounded values.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"
#include "support/reference.hpp"
#include "support/statistics.hpp"

namespace {

using actpack::bfloat16;
using actpack::ConstSignMagnitudeView;
using actpack::Decoding;
using actpack::float16;
using actpack::Layout;
using actpack::Rounding;
using actpack::SignMagnitudeBuffer;
using actpack::SignMagnitudeParams;
using actpack::SignMagnitudeView;
using reference::Consumer;
using support::GuardedBuffer;
using support::GuardedSignMagnitude;
using support::make;
using support::RoundingPair;

template <class T>
void check_against_reference(const Layout& layout, const std::vector<T>& y,
                             const RoundingPair& rounding, float alpha = 1) {
  GuardedSignMagnitude tensor(layout);
  const GuardedBuffer<T> input(y);
  actpack::encode(input.span(), tensor.view(), rounding.library);
  const reference::SignMagnitude expected =
      reference::encode_sign_magnitude(support::floats(y), tensor.shape, rounding.reference);
  tensor.check_equals(expected);

  for (const bool subtractive : {false, true}) {
    CAPTURE(subtractive);
    const Decoding decoding =
        subtractive ? Decoding::subtractive(rounding.library, alpha) : Decoding::plain();
    const reference::Decoding expected_decoding{subtractive, rounding.reference, alpha};
    GuardedBuffer<T> whole(y.size());
    actpack::decode(tensor.view(), whole.span(), decoding);
    support::check_same_values<T>(whole.span(),
                                  support::stored<T>(reference::decode_sign_magnitude(
                                      expected, tensor.shape, Consumer::whole, expected_decoding)));
    GuardedBuffer<T> relu(y.size());
    actpack::decode_relu(tensor.view(), relu.span(), decoding);
    support::check_same_values<T>(relu.span(),
                                  support::stored<T>(reference::decode_sign_magnitude(
                                      expected, tensor.shape, Consumer::relu, expected_decoding)));
  }

  const std::vector<T> dy =
      make<T>(support::Data::gaussian, static_cast<std::int64_t>(y.size()), 31);
  GuardedBuffer<T> dx(y.size());
  actpack::relu_backward(dy, tensor.view(), dx.span());
  support::check_same_values<T>(dx.span(), support::stored<T>(reference::relu_backward(
                                               support::floats(dy), expected, tensor.shape)));
}

template <class T>
void check_grid(std::span<const std::int64_t> sizes, std::span<const support::Data> data_sets) {
  std::uint64_t seed = 600;
  support::for_each_config(sizes, [&](const support::Config& config) {
    for (const support::Data data : data_sets) {
      if (support::is_left_out(++seed)) continue;
      const char* const name = support::name_of(data);
      CAPTURE(name);
      const std::vector<T> y = make<T>(data, config.size, seed);
      const Layout layout{1, config.size, config.group_size, config.bits};
      check_against_reference(layout, y, support::stochastic(seed * 0x9E3779B97F4A7C15, seed >> 3));
      check_against_reference(layout, y, support::nearest());
    }
  });
}

struct Noise {
  double whole;  // relative to the energy of y: what batch norm sees
  double relu;   // relative to the energy of max(y, 0): what the next convolution sees
};

Noise noise_on_gaussian(int bits, bool subtractive) {
  constexpr std::int64_t size = 1024 * 256;
  const std::vector<float> y = support::gaussian(size, 32);
  std::vector<float> relu_of_y = y;
  for (float& value : relu_of_y) value = std::max(value, 0.0F);
  SignMagnitudeBuffer buffer(Layout{1, size, 256, bits});
  const Rounding rounding = Rounding::stochastic(33, 0);
  actpack::encode(y, buffer.view(), rounding);
  const Decoding decoding = subtractive ? Decoding::subtractive(rounding) : Decoding::plain();
  std::vector<float> whole(size);
  actpack::decode(buffer.view(), whole, decoding);
  std::vector<float> relu(size);
  actpack::decode_relu(buffer.view(), relu, decoding);
  return {support::relative_energy(whole, y), support::relative_energy(relu, relu_of_y)};
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE("views: trivially copyable, the const one made from the other and not back") {
  static_assert(sizeof(SignMagnitudeParams) == 4);
  static_assert(std::is_trivially_copyable_v<SignMagnitudeView>);
  static_assert(std::is_trivially_copyable_v<ConstSignMagnitudeView>);
  static_assert(std::is_convertible_v<SignMagnitudeView, ConstSignMagnitudeView>);
  static_assert(!std::is_convertible_v<ConstSignMagnitudeView, SignMagnitudeView>);
  static_assert(std::is_move_constructible_v<SignMagnitudeBuffer>);
  GuardedSignMagnitude tensor(Layout{1, 3, 32, 2});
  const ConstSignMagnitudeView view = tensor.view();
  CHECK(view.sign_words == tensor.sign_words.data());
  CHECK(view.magnitude_words == tensor.magnitude_words.data());
  CHECK(view.params == tensor.params.data());
}

TEST_CASE("encode, decode: planes, params and values equal the reference's, float") {
  check_grid<float>(std::span(support::all_sizes).first(16), support::all_data);
  constexpr std::array some{support::Data::gaussian};
  check_grid<float>(std::span(support::all_sizes).last(1), some);
}

TEST_CASE_TEMPLATE("encode, decode: planes, params and values equal the reference's", T, bfloat16,
                   float16) {
  check_grid<T>(std::span(support::all_sizes).first(16), support::all_data);
}

TEST_CASE_TEMPLATE("encode: each row's planes start at a word of their own", T, float, bfloat16,
                   float16) {
  std::uint64_t seed = 700;
  for (const int bits : support::all_widths) {
    for (const std::int64_t row_size : {1, 31, 33, 100, 256, 300}) {
      for (const std::int32_t group_size : {32, 96, 256}) {
        for (const std::int64_t last : {std::int64_t{0}, std::int64_t{1}, row_size / 2}) {
          CAPTURE(bits);
          CAPTURE(row_size);
          CAPTURE(group_size);
          CAPTURE(last);
          const Layout layout{5, row_size, group_size, bits, last};
          const std::vector<T> y = make<T>(support::Data::gaussian, layout.numel(), ++seed);
          check_against_reference(layout, y, support::stochastic(seed),
                                  seed % 2 == 0 ? 1.0F : 0.4F);
        }
      }
    }
  }
}

TEST_CASE("encode: one group may hold the whole tensor") {
  const std::vector<float> y = make<float>(support::Data::gaussian, 70001, 34);
  check_against_reference(Layout{1, 70001, 1 << 17, 2}, y, support::stochastic(35, 1));
}

TEST_CASE("encode: the planes of a small tensor are these") {
  // By hand, at two bits: scales 2 and 171/512, the first bfloat16 above 1/3.
  const std::vector<float> y{3, -1, 0.0F, -0.0F, 6};
  GuardedSignMagnitude tensor(Layout{1, 5, 32, 2});
  actpack::encode(y, tensor.view(), Rounding::nearest());
  CHECK(tensor.sign_words.data()[0] == 0x11);
  // 3 is 1.5 steps of 2: up to code 2; -1 is 2.99 steps of 171/512: code 3; zeros 0; 6 is code 3.
  CHECK(tensor.magnitude_words.data()[0] == (2U | 3U << 2 | 3U << 8));
  CHECK(static_cast<float>(tensor.params.data()[0].positive) == 2);
  CHECK(static_cast<float>(tensor.params.data()[0].negative) == 0.333984375F);
  std::vector<float> decoded(5);
  actpack::decode(tensor.view(), decoded);
  CHECK(decoded == std::vector<float>{4, -1.001953125F, 0, 0, 6});
  actpack::decode_relu(tensor.view(), decoded);
  CHECK(decoded == std::vector<float>{4, 0, 0, 0, 6});
}

TEST_CASE_TEMPLATE("sign plane: the bit is y > 0, for every special value", T, float, bfloat16,
                   float16) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float smallest = support::smallest_positive<T>();
  const std::vector<float> specials{0.0F,
                                    -0.0F,
                                    smallest,
                                    -smallest,
                                    1.0F,
                                    -1.0F,
                                    support::largest_finite<T>(),
                                    -support::largest_finite<T>(),
                                    infinity,
                                    -infinity,
                                    std::numeric_limits<float>::quiet_NaN()};
  for (std::size_t size = 1; size <= specials.size(); ++size) {
    std::vector<T> y;
    for (std::size_t i = 0; i < size; ++i) y.push_back(T(specials[i]));
    GuardedSignMagnitude tensor(Layout{1, static_cast<std::int64_t>(size), 32, 4});
    actpack::encode(y, tensor.view(), Rounding::stochastic(1, 1));
    std::uint32_t expected = 0;
    for (std::size_t i = 0; i < size; ++i) expected |= (specials[i] > 0 ? 1U : 0U) << i;
    CAPTURE(size);
    CHECK(tensor.sign_words.data()[0] == expected);
  }
}

TEST_CASE("sign plane: every mask bit is exact although the values are rounded") {
  const std::vector<float> y = support::gaussian(100000, 36);
  std::vector<std::uint32_t> mask(100000 / 32);
  actpack::make_mask(y, mask, [](float value) { return value > 0; });
  const std::vector<float> dy = support::gaussian(100000, 37);
  std::vector<float> expected(100000);
  actpack::relu_backward(dy, mask, expected);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    SignMagnitudeBuffer buffer(Layout{1, 100000, 256, bits});
    actpack::encode(y, buffer.view(), Rounding::stochastic(38, 0));
    std::vector<float> dx(100000);
    actpack::relu_backward(dy, buffer.view(), dx);
    CHECK(dx == expected);
    CHECK(std::equal(mask.begin(), mask.end(), buffer.view().sign_words));
  }
}

TEST_CASE_TEMPLATE("consumers: decode_relu is decode where the sign says so, zero elsewhere", T,
                   float, bfloat16, float16) {
  for (const int bits : support::all_widths) {
    const Layout layout{3, 500, 64, bits};
    const std::vector<T> y = make<T>(support::Data::gaussian, layout.numel(), 39);
    GuardedSignMagnitude tensor(layout);
    const Rounding rounding = Rounding::stochastic(40, 2);
    actpack::encode(y, tensor.view(), rounding);
    const std::vector<T> ones(y.size(), T(1.0F));
    std::vector<T> passed(y.size());
    actpack::relu_backward(ones, tensor.view(), passed);
    for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
      std::vector<T> whole(y.size());
      std::vector<T> relu(y.size());
      actpack::decode(tensor.view(), whole, decoding);
      actpack::decode_relu(tensor.view(), relu, decoding);
      int wrong = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const bool positive = static_cast<float>(y[i]) > 0;
        wrong += static_cast<float>(passed[i]) != (positive ? 1.0F : 0.0F) ? 1 : 0;
        wrong += support::bits_of(relu[i]) != (positive ? support::bits_of(whole[i]) : 0) ? 1 : 0;
      }
      CAPTURE(bits);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("decode: a ReLU's zeros come back as +0, subtractively too") {
  const std::vector<float> y = support::relu_of_gaussian(1000, 41);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    GuardedSignMagnitude tensor(Layout{1, 1000, 256, bits});
    const Rounding rounding = Rounding::stochastic(42, 0);
    actpack::encode(y, tensor.view(), rounding);
    for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
      std::vector<float> whole(1000);
      std::vector<float> relu(1000);
      actpack::decode(tensor.view(), whole, decoding);
      actpack::decode_relu(tensor.view(), relu, decoding);
      int wrong = 0;
      for (std::size_t i = 0; i < 1000; ++i) {
        if (y[i] == 0) wrong += support::bits_of(whole[i]) + support::bits_of(relu[i]) != 0 ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("decode: unbiased on both sides, like the affine code") {
  constexpr int seeds = 2000;
  constexpr std::size_t size = 256;
  const std::vector<float> y = support::gaussian(size, 43);
  for (const int bits : support::all_widths) {
    for (const float alpha : {0.0F, 1.0F}) {
      CAPTURE(bits);
      CAPTURE(static_cast<double>(alpha));
      SignMagnitudeBuffer buffer(Layout{1, size, 256, bits});
      std::vector<double> sum(size, 0.0);
      std::vector<float> decoded(size);
      for (int seed = 0; seed < seeds; ++seed) {
        const Rounding rounding = Rounding::stochastic(static_cast<std::uint64_t>(seed), 44);
        actpack::encode(y, buffer.view(), rounding);
        actpack::decode(buffer.view(), decoded, Decoding::subtractive(rounding, alpha));
        for (std::size_t i = 0; i < size; ++i) sum[i] += static_cast<double>(decoded[i]);
      }
      const SignMagnitudeParams params = buffer.view().params[0];
      int biased = 0;
      for (std::size_t i = 0; i < size; ++i) {
        const auto step =
            static_cast<double>(static_cast<float>(y[i] > 0 ? params.positive : params.negative));
        // A rounding's variance is at most step^2 / 4, its distance from the mean at most a step;
        // 2^-12: 2^-13 of bias by contract, and float's rounding of at most 255 steps.
        const double radius =
            support::bernstein_radius(0.25, 1, seeds, support::false_alarm / 2048) + 0x1p-12;
        biased += std::fabs(sum[i] / seeds - static_cast<double>(y[i])) > radius * step ? 1 : 0;
      }
      CHECK(biased == 0);
    }
  }
}

// 262144 elements in 1024 groups. The largest of 256 normal numbers, squared, varies by a fifth
// from group to group, so the mean of 1024 (of 2048 sides) by 0.6 %: 3 % is five deviations.
TEST_CASE("noise: on standard normal data what the design states") {
  const auto within = [](double got, double stated) {
    CAPTURE(got);
    CAPTURE(stated);
    CHECK(std::fabs(got / stated - 1) <= 0.03);
  };
  const Noise plain = noise_on_gaussian(2, false);
  within(plain.whole, 0.150);
  within(plain.relu, 0.150);
  const Noise subtractive = noise_on_gaussian(2, true);
  within(subtractive.whole, 0.076);
  within(subtractive.relu, 0.075);
  const Noise one_bit = noise_on_gaussian(1, false);
  within(one_bit.whole, 1.26);
  within(one_bit.relu, 1.26);
  const Noise one_bit_subtractive = noise_on_gaussian(1, true);
  within(one_bit_subtractive.whole, 0.68);
  within(one_bit_subtractive.relu, 0.68);
}

TEST_CASE_TEMPLATE("poison: NaN or infinity spoils its group alone, for every consumer", T, float,
                   bfloat16, float16) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<T> y = make<T>(support::Data::gaussian, 96, 45);
    y[37] = T(bad);
    GuardedSignMagnitude tensor(Layout{1, 96, 32, 2});
    const Rounding rounding = Rounding::stochastic(46, 0);
    actpack::encode(y, tensor.view(), rounding);
    CHECK(tensor.params.data()[1].positive.bits == 0x7FC0);
    CHECK(tensor.params.data()[1].negative.bits == 0x7FC0);
    CHECK(tensor.magnitude_words.data()[2] == 0);
    CHECK(tensor.magnitude_words.data()[3] == 0);
    std::uint32_t signs = 0;
    for (std::size_t i = 0; i < 32; ++i)
      signs |= (static_cast<float>(y[32 + i]) > 0 ? 1U : 0U) << i;
    CHECK(tensor.sign_words.data()[1] == signs);
    const auto check_poisoned = [](const std::vector<T>& values) {
      int wrong = 0;
      for (std::size_t i = 0; i < 96; ++i) {
        wrong += support::is_nan(values[i]) != (i / 32 == 1) ? 1 : 0;
      }
      CHECK(wrong == 0);
    };
    std::vector<T> decoded(96);
    actpack::decode(tensor.view(), decoded);
    check_poisoned(decoded);
    actpack::decode(tensor.view(), decoded, Decoding::subtractive(rounding));
    check_poisoned(decoded);
    actpack::decode_relu(tensor.view(), decoded);
    check_poisoned(decoded);
    actpack::decode_relu(tensor.view(), decoded, Decoding::subtractive(rounding));
    check_poisoned(decoded);
    actpack::relu_backward(std::vector<T>(96, T(0.0F)), tensor.view(), decoded);
    check_poisoned(decoded);
  }
}

TEST_CASE("poison: every pattern of NaN does it") {
  for (const std::uint32_t bits :
       {0x7FC00000U, 0xFFC00000U, 0x7F800001U, 0xFF800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    CAPTURE(bits);
    for (const int width : support::all_widths) {
      GuardedSignMagnitude tensor(Layout{1, 3, 32, width});
      actpack::encode(std::array{1.0F, std::bit_cast<float>(bits), -2.0F}, tensor.view(),
                      Rounding::nearest());
      CHECK(tensor.params.data()[0].positive.bits == 0x7FC0);
      CHECK(tensor.params.data()[0].negative.bits == 0x7FC0);
      CHECK(tensor.sign_words.data()[0] == 1);
      CHECK(tensor.magnitude_words.data()[0] == 0);
    }
  }
}

TEST_CASE("poison: a side too large for one bit poisons both") {
  const float above = std::nextafter(0x1.FEp127F, std::numeric_limits<float>::infinity());
  GuardedSignMagnitude tensor(Layout{1, 2, 32, 1});
  actpack::encode(std::vector<float>{above, -1.0F}, tensor.view(), Rounding::nearest());
  CHECK(tensor.params.data()[0].positive.bits == 0x7FC0);
  CHECK(tensor.params.data()[0].negative.bits == 0x7FC0);
  actpack::encode(std::vector<float>{1.0F, -above}, tensor.view(), Rounding::nearest());
  CHECK(tensor.params.data()[0].positive.bits == 0x7FC0);
  CHECK(tensor.params.data()[0].negative.bits == 0x7FC0);
  actpack::encode(std::vector<float>{0x1.FEp127F, -0x1.FEp127F}, tensor.view(),
                  Rounding::nearest());
  CHECK(tensor.params.data()[0].positive.bits == 0x7F7F);
  CHECK(tensor.params.data()[0].negative.bits == 0x7F7F);
}

TEST_CASE("decode: the largest magnitudes of either side stay finite") {
  constexpr float largest = std::numeric_limits<float>::max();
  const Rounding rounding = Rounding::stochastic(3);
  for (const int width : {2, 4, 8}) {
    for (const float sign : {1.0F, -1.0F}) {
      CAPTURE(width);
      CAPTURE(sign);
      const std::vector<float> y{sign * largest, -sign, sign * 0.97F * largest};
      GuardedSignMagnitude tensor(Layout{1, 3, 32, width});
      actpack::encode(y, tensor.view(), rounding);
      for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
        std::vector<float> decoded(3);
        actpack::decode(tensor.view(), decoded, decoding);
        for (std::size_t i = 0; i < 3; ++i) {
          CHECK(std::isfinite(decoded[i]));
          CHECK(std::signbit(decoded[i]) == std::signbit(y[i]));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("ranges: every consumer's slice equals that slice of the whole", T, float,
                   bfloat16, float16) {
  support::Generator generator(47);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    const Layout layout{4, 205, 64, bits, 99};
    std::vector<T> y = make<T>(support::Data::gaussian, layout.numel(), 48);
    y[300] = T(std::numeric_limits<float>::quiet_NaN());
    GuardedSignMagnitude tensor(layout);
    const Rounding rounding = Rounding::stochastic(49, 50);
    actpack::encode(y, tensor.view(), rounding);
    const std::vector<T> dy = make<T>(support::Data::gaussian, layout.numel(), 51);
    std::vector<T> dx(y.size());
    actpack::relu_backward(dy, tensor.view(), dx);
    for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
      std::vector<T> whole(y.size());
      std::vector<T> relu(y.size());
      actpack::decode(tensor.view(), whole, decoding);
      actpack::decode_relu(tensor.view(), relu, decoding);
      int different = 0;
      for (int trial = 0; trial < 300; ++trial) {
        const auto numel = static_cast<std::uint32_t>(layout.numel());
        std::int64_t first = generator.below(numel + 1);
        if (trial % 4 == 0) first = first / 205 * 205;
        if (trial % 8 == 1) first = numel;
        const std::int64_t size = generator.below(numel + 1 - static_cast<std::uint32_t>(first));
        const auto slice_of = [&](const std::vector<T>& values) {
          return std::span<const T>(values).subspan(static_cast<std::size_t>(first),
                                                    static_cast<std::size_t>(size));
        };
        GuardedBuffer<T> slice(size);
        actpack::decode(tensor.view(), first, slice.span(), decoding);
        different += support::first_difference<T>(slice.span(), slice_of(whole)) >= 0 ? 1 : 0;
        actpack::decode_relu(tensor.view(), first, slice.span(), decoding);
        different += support::first_difference<T>(slice.span(), slice_of(relu)) >= 0 ? 1 : 0;
        actpack::relu_backward(slice_of(dy), tensor.view(), first, slice.span());
        different += support::first_difference<T>(slice.span(), slice_of(dx)) >= 0 ? 1 : 0;
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE_TEMPLATE("relu_backward: in place gives the same", T, float, bfloat16, float16) {
  const std::vector<T> y = make<T>(support::Data::gaussian, 1000, 52);
  const std::vector<T> dy = make<T>(support::Data::gaussian, 1000, 53);
  GuardedSignMagnitude tensor(Layout{1, 1000, 64, 2});
  actpack::encode(y, tensor.view(), Rounding::nearest());
  std::vector<T> dx(1000);
  actpack::relu_backward(dy, tensor.view(), dx);
  std::vector<T> in_place = dy;
  actpack::relu_backward(std::span<const T>(in_place), tensor.view(), std::span<T>(in_place));
  support::check_same_values(in_place, dx);
}

TEST_CASE_TEMPLATE("encode: chunks of rows reproduce the whole and touch no other row", T, float,
                   bfloat16, float16) {
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    const Layout layout{7, 150, 64, bits, 77};
    const std::vector<T> y = make<T>(support::Data::gaussian, layout.numel(), 54);
    const RoundingPair rounding = support::stochastic(55, 56);
    const reference::SignMagnitude expected = reference::encode_sign_magnitude(
        support::floats(y), support::shape_of(layout), rounding.reference);
    GuardedSignMagnitude pieces(layout);
    const std::array<std::int64_t, 5> cuts{0, 2, 3, 6, 7};
    for (const std::size_t chunk : std::initializer_list<std::size_t>{2, 0, 3, 1}) {
      const std::int64_t first_row = cuts[chunk];
      const std::int64_t end = cuts[chunk + 1] == 7 ? layout.numel() : cuts[chunk + 1] * 150;
      const std::span<const T> rows =
          std::span<const T>(y).subspan(static_cast<std::size_t>(first_row * 150),
                                        static_cast<std::size_t>(end - first_row * 150));
      actpack::encode(rows, pieces.view(), rounding.library, first_row);
      GuardedSignMagnitude alone(layout);
      actpack::encode(rows, alone.view(), rounding.library, first_row);
      int wrong = 0;
      const auto compare = [&](const std::vector<std::uint32_t>& words,
                               const std::vector<std::uint32_t>& expected_words, int width) {
        const std::int64_t per_row = reference::words_for(150, width);
        for (std::int64_t word = 0; word < static_cast<std::int64_t>(words.size()); ++word) {
          const bool inside = first_row * per_row <= word && word < cuts[chunk + 1] * per_row;
          const auto index = static_cast<std::size_t>(word);
          wrong += words[index] != (inside ? expected_words[index] : 0x5C5C5C5C) ? 1 : 0;
        }
      };
      compare(alone.sign_words.values(), expected.sign_words, 1);
      compare(alone.magnitude_words.values(), expected.magnitude_words, bits);
      CHECK(wrong == 0);
    }
    pieces.check_equals(expected);
  }
}

TEST_CASE("SignMagnitudeBuffer: owns both planes and the params, and can be moved") {
  const Layout layout{3, 77, 32, 4, 40};
  SignMagnitudeBuffer buffer(layout);
  const reference::Shape shape = support::shape_of(layout);
  const auto words =
      static_cast<std::size_t>(reference::count_words(shape) + reference::count_sign_words(shape));
  CHECK(buffer.size_bytes() == 4 * words + 4 * reference::groups_of(shape).size());
  CHECK(buffer.layout().row_size == 77);
  CHECK(std::as_const(buffer).view().sign_words == buffer.view().sign_words);
  const std::vector<float> y = support::gaussian(194, 57);
  actpack::encode(y, buffer.view(), Rounding::nearest());
  std::vector<float> before(194);
  actpack::decode(std::as_const(buffer).view(), before);
  SignMagnitudeBuffer moved(std::move(buffer));
  std::vector<float> after(194);
  actpack::decode(moved.view(), after);
  CHECK(after == before);
  CHECK(moved.size_bytes() == 4 * words + 4 * reference::groups_of(shape).size());
  // 3.125 bits a value: the saving that the design states.
  CHECK(SignMagnitudeBuffer(Layout{64, 1024, 256, 2}).size_bytes() * 8 == 65536 * 25 / 8);
  support::check_refused([] { SignMagnitudeBuffer bad(Layout{1, 10, 256, 3}); }, {"bits", "3"});
  support::check_refused(
      [] {
        SignMagnitudeBuffer bad(Layout{1, 10, 100, 2});
      },
      {"group_size", "100"});
  support::check_refused(
      [] {
        SignMagnitudeBuffer bad(Layout{std::int64_t{1} << 40, std::int64_t{1} << 40, 256, 2});
      },
      {"rows", "row_size"});
}

TEST_CASE("sign-magnitude verbs: wrong arguments are named, and nothing is written") {
  GuardedSignMagnitude tensor(Layout{3, 40, 32, 2, 13});
  const std::vector<float> y(200, 1.0F);
  const auto part = [&y](std::size_t size) { return std::span<const float>(y).first(size); };
  const Rounding nearest = Rounding::nearest();
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(tensor.is_untouched());
  };
  refused([&] { actpack::encode(part(92), tensor.view(), nearest); }, {"y", "92", "93"});
  refused([&] { actpack::encode(part(120), tensor.view(), nearest); }, {"y", "120", "93"});
  refused([&] { actpack::encode(part(40), tensor.view(), nearest, -1); }, {"first_row", "-1"});
  refused([&] { actpack::encode(part(40), tensor.view(), nearest, 4); }, {"first_row", "4", "3"});
  refused([&] { actpack::encode(part(39), tensor.view(), nearest, 0); }, {"y", "39"});
  refused([&] { actpack::encode(part(40), tensor.view(), nearest, 2); }, {"y", "40"});
  const std::array<std::uint64_t, 2> seed_and_offset{1, 2};
  const Rounding on_device = Rounding::stochastic(seed_and_offset.data());
  refused([&] { actpack::encode(part(93), tensor.view(), on_device); }, {"device"});
  SignMagnitudeView bad = tensor.view();
  bad.layout.bits = 3;
  refused([&] { actpack::encode(part(93), bad, nearest); }, {"bits", "3"});
  bad = tensor.view();
  bad.layout.group_size = 48;
  refused([&] { actpack::encode(part(93), bad, nearest); }, {"group_size", "48"});

  actpack::encode(part(93), tensor.view(), nearest);
  const ConstSignMagnitudeView good = tensor.view();
  GuardedBuffer<float> out(std::int64_t{120});
  const auto out_refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(out.is_untouched());
  };
  const auto to = [&out](std::size_t size) { return out.span().first(size); };
  out_refused([&] { actpack::decode(good, to(92)); }, {"y", "92", "93"});
  out_refused([&] { actpack::decode_relu(good, to(92)); }, {"y", "92", "93"});
  out_refused([&] { actpack::decode(good, 90, to(4)); }, {"90", "4", "93"});
  out_refused([&] { actpack::decode_relu(good, 90, to(4)); }, {"90", "4", "93"});
  out_refused([&] { actpack::decode(good, -1, to(4)); }, {"first", "-1"});
  out_refused([&] { actpack::decode_relu(good, -1, to(4)); }, {"first", "-1"});
  out_refused([&] { actpack::decode(good, INT64_MAX, to(4)); }, {"first"});
  out_refused([&] { actpack::decode(good, to(93), Decoding::subtractive(on_device)); }, {"device"});
  out_refused([&] { actpack::decode_relu(good, to(93), Decoding::subtractive(on_device)); },
              {"device"});
  out_refused([&] { actpack::relu_backward(part(92), good, to(92)); }, {"92", "93"});
  out_refused([&] { actpack::relu_backward(part(93), good, to(92)); }, {"dx", "92", "93"});
  out_refused([&] { actpack::relu_backward(part(92), good, to(93)); }, {"dy", "92", "93"});
  out_refused([&] { actpack::relu_backward(part(4), good, 90, to(4)); }, {"90", "4", "93"});
  out_refused([&] { actpack::relu_backward(part(4), good, 10, to(5)); }, {"dx", "5", "4"});
  out_refused([&] { actpack::relu_backward(part(4), good, -1, to(4)); }, {"first", "-1"});
}

TEST_CASE("sign-magnitude verbs: empty tensors are no special case") {
  const SignMagnitudeView view{Layout{0, 100, 256, 2}, nullptr, nullptr, nullptr};
  std::vector<float> none;
  CHECK_NOTHROW(actpack::encode(none, view, Rounding::nearest()));
  CHECK_NOTHROW(actpack::decode(view, none));
  CHECK_NOTHROW(actpack::decode_relu(view, none));
  CHECK_NOTHROW(actpack::relu_backward(none, view, none));
}

// A toy of a layer's weight gradient: 256 sums of 64 products input * dy * mask, the input and the
// mask both from compressed contexts, averaged over many roundings. With the exact mask only the
// input is noisy and without bias, so the error of a mean of K shrinks like 1 / sqrt(K). A mask
// read back from a rounded ReLU output misses small positive values for good: its error sticks.
TEST_CASE("mask: exact, the mean gradient converges; read back from rounded values, it does not") {
  constexpr std::size_t sums = 256;
  constexpr std::size_t products = 64;
  constexpr std::size_t size = sums * products;
  constexpr int many = 256;
  const std::vector<float> input = support::gaussian(size, 58, 0.5);
  const std::vector<float> y = support::gaussian(size, 59);
  const std::vector<float> relu_of_y = [&y] {
    std::vector<float> result = y;
    for (float& value : result) value = std::max(value, 0.0F);
    return result;
  }();
  const std::vector<float> dy = support::gaussian(size, 60);
  const auto gradient = [](const std::vector<float>& x, const std::vector<float>& dx) {
    std::vector<double> result(sums, 0.0);
    for (std::size_t i = 0; i < size; ++i) {
      result[i / products] += static_cast<double>(x[i]) * static_cast<double>(dx[i]);
    }
    return result;
  };
  std::vector<float> exact_dx(size);
  for (std::size_t i = 0; i < size; ++i) exact_dx[i] = y[i] > 0 ? dy[i] : 0.0F;
  const std::vector<double> truth = gradient(input, exact_dx);

  const Layout layout{1, size, 256, 2};
  actpack::PackedBuffer packed_input(layout);
  actpack::PackedBuffer packed_relu(layout);
  SignMagnitudeBuffer context(layout);
  std::vector<float> decoded(size);
  std::vector<float> dx(size);
  std::vector<std::uint32_t> mask(size / 32);
  std::array<std::vector<double>, 2> mean{std::vector<double>(sums), std::vector<double>(sums)};
  std::array<double, 2> error_of_one{};
  for (int k = 0; k < many; ++k) {
    const auto seed = static_cast<std::uint64_t>(k);
    actpack::quantize(input, packed_input.view(), Rounding::stochastic(seed, 0));
    actpack::dequantize(packed_input.view(), decoded);

    actpack::encode(y, context.view(), Rounding::stochastic(seed, 1));
    actpack::relu_backward(dy, context.view(), dx);
    const std::vector<double> with_exact_mask = gradient(decoded, dx);

    std::vector<float> rounded(size);
    actpack::quantize(relu_of_y, packed_relu.view(), Rounding::stochastic(seed, 2));
    actpack::dequantize(packed_relu.view(), rounded);
    actpack::make_mask(rounded, mask, [](float value) { return value > 0; });
    actpack::relu_backward(dy, mask, dx);
    const std::vector<double> with_read_mask = gradient(decoded, dx);
    for (std::size_t i = 0; i < sums; ++i) {
      mean[0][i] += with_exact_mask[i] / many;
      mean[1][i] += with_read_mask[i] / many;
    }
    error_of_one[0] += support::relative_energy(with_exact_mask, truth) / many;
    error_of_one[1] += support::relative_energy(with_read_mask, truth) / many;
  }
  const double exact_ratio = support::relative_energy(mean[0], truth) / error_of_one[0];
  const double read_ratio = support::relative_energy(mean[1], truth) / error_of_one[1];
  CAPTURE(exact_ratio);
  CAPTURE(read_ratio);
  // The squared error of the mean is that of one rounding over K times a chi-square with 256
  // degrees over its degrees; the average of 256 squared errors itself moves by far less.
  const support::Interval spread = support::chi_square_ratio(sums, support::false_alarm);
  CHECK(exact_ratio * many <= 1.1 * spread.high);
  CHECK(exact_ratio * many >= 0.9 * spread.low);
  // A tenth of one rounding's squared error is bias: 25 times what noise would leave.
  CHECK(read_ratio >= 0.1);
}
