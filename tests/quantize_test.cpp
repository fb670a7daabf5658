// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares quantize and dequantize with the textbook reference, bit for bit, over the whole grid of
// widths, sizes, group sizes, data and types; pins the format by known answers; tries every misuse.
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
#include <vector>

#include <actpack/quantize.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"
#include "support/reference.hpp"

namespace {

using actpack::bfloat16;
using actpack::ConstPackedView;
using actpack::Decoding;
using actpack::float16;
using actpack::GroupParams;
using actpack::Layout;
using actpack::PackedView;
using actpack::Rounding;
using support::GuardedBuffer;
using support::GuardedPacked;
using support::make;
using support::RoundingPair;

// Quantizes and decodes plainly and subtractively, everything as the reference does it.
template <class T>
void check_against_reference(const Layout& layout, const std::vector<T>& x,
                             const RoundingPair& rounding,
                             const std::vector<std::uint8_t>& row_bits = {}, float alpha = 1) {
  GuardedPacked tensor(layout, row_bits);
  const reference::Packed expected =
      reference::quantize(support::floats(x), tensor.shape, rounding.reference);
  const GuardedBuffer<T> input(x);
  actpack::quantize(input.span(), tensor.view(), rounding.library);
  tensor.check_equals(expected);

  GuardedBuffer<T> decoded(x.size());
  actpack::dequantize(tensor.view(), decoded.span());
  const std::vector<T> plain = support::stored<T>(reference::dequantize(expected, tensor.shape));
  support::check_same_values<T>(decoded.span(), plain);

  GuardedBuffer<T> subtracted(x.size());
  actpack::dequantize(tensor.view(), subtracted.span(),
                      Decoding::subtractive(rounding.library, alpha));
  const std::vector<T> subtractive = support::stored<T>(
      reference::dequantize(expected, tensor.shape, {true, rounding.reference, alpha}));
  support::check_same_values<T>(subtracted.span(), subtractive);
}

template <class T>
void check_grid(std::span<const std::int64_t> sizes, std::span<const support::Data> data_sets) {
  std::uint64_t seed = 100;
  support::for_each_config(sizes, [&](const support::Config& config) {
    for (const support::Data data : data_sets) {
      if (support::is_left_out(++seed)) continue;
      const char* const name = support::name_of(data);
      CAPTURE(name);
      const std::vector<T> x = make<T>(data, config.size, seed);
      const Layout layout{1, config.size, config.group_size, config.bits};
      check_against_reference(layout, x, support::stochastic(seed * 0x9E3779B97F4A7C15, seed >> 3));
      check_against_reference(layout, x, support::nearest());
    }
  });
}

// Forty numbers exact in every type: with groups of 32 a full group and a short one.
std::vector<float> known_numbers() {
  std::vector<float> x;
  for (int i = 0; i < 40; ++i) x.push_back(static_cast<float>(i * 37 % 101 - 50) / 8);
  return x;
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE("quantize: words, params and values equal the reference's, float") {
  check_grid<float>(std::span(support::all_sizes).first(16), support::all_data);
  constexpr std::array some{support::Data::gaussian, support::Data::wide_exponents};
  check_grid<float>(std::span(support::all_sizes).last(1), some);
}

TEST_CASE_TEMPLATE("quantize: words, params and values equal the reference's", T, bfloat16,
                   float16) {
  check_grid<T>(std::span(support::all_sizes).first(16), support::all_data);
  constexpr std::array some{support::Data::offset_100};
  check_grid<T>(std::span(support::all_sizes).last(1), some);
}

TEST_CASE_TEMPLATE("quantize: rows are cut into groups each for itself", T, float, bfloat16,
                   float16) {
  std::uint64_t seed = 200;
  for (const int bits : support::all_widths) {
    for (const std::int64_t row_size : {1, 31, 33, 100, 256, 300}) {
      for (const std::int32_t group_size : {32, 96, 256}) {
        for (const std::int64_t last : {std::int64_t{0}, std::int64_t{1}, row_size / 2, row_size}) {
          CAPTURE(bits);
          CAPTURE(row_size);
          CAPTURE(group_size);
          CAPTURE(last);
          const Layout layout{5, row_size, group_size, bits, last};
          const std::vector<T> x = make<T>(support::Data::gaussian, layout.numel(), ++seed);
          check_against_reference(layout, x, support::stochastic(seed));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("quantize: rows with widths of their own", T, float, bfloat16, float16) {
  support::Generator generator(16);
  for (int trial = 0; trial < 60; ++trial) {
    CAPTURE(trial);
    const auto rows = static_cast<std::int64_t>(1 + generator.below(9));
    const auto row_size = static_cast<std::int64_t>(1 + generator.below(400));
    const std::int32_t group_size = support::all_group_sizes[generator.below(6)];
    const std::int64_t last =
        trial % 2 == 0 ? 0 : 1 + generator.below(static_cast<std::uint32_t>(row_size));
    const Layout layout{rows, row_size, group_size, 8, last};
    std::vector<std::uint8_t> row_bits;
    for (std::int64_t row = 0; row < rows; ++row) {
      row_bits.push_back(static_cast<std::uint8_t>(1 << generator.below(4)));
    }
    const support::Data data =
        trial % 3 == 0 ? support::Data::near_overflow : support::Data::gaussian;
    const std::vector<T> x = make<T>(data, layout.numel(), 300 + static_cast<std::uint64_t>(trial));
    check_against_reference(layout, x, support::stochastic(9, 2), row_bits);
    check_against_reference(layout, x, support::nearest(), row_bits);
  }
}

TEST_CASE("quantize: widths by group are rows of one group, the last one short") {
  const Layout layout{5, 64, 64, 8, 17};
  const std::vector<std::uint8_t> row_bits{2, 8, 1, 4, 2};
  check_against_reference(layout, make<float>(support::Data::offset_100, layout.numel(), 1),
                          support::stochastic(4), row_bits);
}

TEST_CASE("quantize: one range per tensor is one group of any size") {
  const std::vector<float> x = make<float>(support::Data::gaussian, 70001, 2);
  for (const std::int32_t group_size : {65536, 1 << 20}) {
    for (const int bits : support::all_widths) {
      CAPTURE(group_size);
      CAPTURE(bits);
      check_against_reference(Layout{1, 70001, group_size, bits}, x, support::stochastic(5));
    }
  }
}

TEST_CASE_TEMPLATE("dequantize: alpha scales the dither's share", T, float, bfloat16, float16) {
  for (const float alpha : {0.0F, 0.3F, 0.5F, 1.0F}) {
    for (const int bits : support::all_widths) {
      CAPTURE(static_cast<double>(alpha));
      CAPTURE(bits);
      const std::vector<T> x = make<T>(support::Data::offset_100, 1000, 3);
      check_against_reference(Layout{1, 1000, 96, bits}, x, support::stochastic(6, 1), {}, alpha);
      const std::vector<T> relu = make<T>(support::Data::relu, 1000, 3);
      check_against_reference(Layout{1, 1000, 256, bits}, relu, support::stochastic(6, 1), {},
                              alpha);
    }
  }
}

TEST_CASE("quantize: the words of a small tensor are these, for every width") {
  struct Known {
    int bits;
    std::vector<std::uint32_t> words;
    std::array<std::uint16_t, 4> params;  // scale, min; scale, min
    std::array<float, 4> decoded;         // elements 0, 1, 31 and 39
  };
  const std::array<Known, 4> known{{
      {1,
       {0x593C85A4, 0x000000C9},
       {0x4148, 0xC0C8, 0x4128, 0xC0A4},
       {-6.25F, -6.25F, -6.25F, 5.375F}},
      {2,
       {0x89279D24, 0x79D34DE2, 0x000074D3},
       {0x4086, 0xC0C8, 0x4060, 0xC0A4},
       {-6.25F, -2.0625F, -2.0625F, -1.625F}},
      {4,
       {0x93D72B60, 0x82B60A5E, 0x61B5F93D, 0x5F94E82C, 0x4F81D70C},
       {0x3F56, 0xC0C8, 0x3F34, 0xC0A4},
       {-6.25F, -1.234375F, -2.0703125F, -2.3125F}},
      {8,
       {0x1ABC5E00, 0x9233D677, 0x08AB4CEF, 0x8021C466, 0xF7993ADD, 0x6D0FB354, 0xE68729CC,
        0x5BFFA043, 0xE07000C2, 0x3DFF8E1E},
       {0x3D49, 0xC0C8, 0x3D29, 0xC0A4},
       {-6.25F, -1.63720703F, -1.78442383F, -2.6081543F}},
  }};
  for (const Known& answer : known) {
    CAPTURE(answer.bits);
    GuardedPacked tensor(Layout{1, 40, 32, answer.bits});
    actpack::quantize(known_numbers(), tensor.view(), Rounding::stochastic(42, 7));
    CHECK(tensor.words.values() == answer.words);
    for (std::size_t group = 0; group < 2; ++group) {
      CHECK(tensor.params.data()[group].scale.bits == answer.params[2 * group]);
      CHECK(tensor.params.data()[group].min.bits == answer.params[2 * group + 1]);
    }
    std::vector<float> decoded(40);
    actpack::dequantize(tensor.view(), decoded);
    CHECK(std::array{decoded[0], decoded[1], decoded[31], decoded[39]} == answer.decoded);
  }
}

TEST_CASE_TEMPLATE("dequantize: any range equals that slice of the whole", T, float, bfloat16,
                   float16) {
  support::Generator generator(17);
  for (const int bits : support::all_widths) {
    for (const bool mixed : {false, true}) {
      CAPTURE(bits);
      CAPTURE(mixed);
      const Layout layout{4, 205, 64, bits, 99};
      std::vector<std::uint8_t> row_bits;
      for (int row = 0; mixed && row < 4; ++row) {
        row_bits.push_back(static_cast<std::uint8_t>(std::min(bits, 1 << row)));
      }
      GuardedPacked tensor(layout, row_bits);
      const Rounding rounding = Rounding::stochastic(12, 34);
      actpack::quantize(make<T>(support::Data::gaussian, layout.numel(), 4), tensor.view(),
                        rounding);
      for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
        std::vector<T> whole(static_cast<std::size_t>(layout.numel()));
        actpack::dequantize(tensor.view(), whole, decoding);
        int different = 0;
        for (int trial = 0; trial < 400; ++trial) {
          const auto numel = static_cast<std::uint32_t>(layout.numel());
          // Odd starts and sizes, whole rows and groups, the empty range at either end.
          std::int64_t first = generator.below(numel + 1);
          if (trial % 4 == 0) first = first / 205 * 205;
          if (trial % 8 == 1) first = numel;
          const std::int64_t size = generator.below(numel + 1 - static_cast<std::uint32_t>(first));
          GuardedBuffer<T> slice(size);
          actpack::dequantize(tensor.view(), first, slice.span(), decoding);
          const std::span<const T> expected = std::span<const T>(whole).subspan(
              static_cast<std::size_t>(first), static_cast<std::size_t>(size));
          different += support::first_difference<T>(slice.span(), expected) >= 0 ? 1 : 0;
        }
        CHECK(different == 0);
      }
    }
  }
}

TEST_CASE_TEMPLATE("quantize: chunks of rows reproduce the whole and touch no other row", T, float,
                   bfloat16, float16) {
  for (const int bits : support::all_widths) {
    for (const bool mixed : {false, true}) {
      CAPTURE(bits);
      CAPTURE(mixed);
      const Layout layout{7, 150, 64, bits, 77};
      std::vector<std::uint8_t> row_bits;
      for (int row = 0; mixed && row < 7; ++row) {
        row_bits.push_back(static_cast<std::uint8_t>(std::min(bits, 1 << row % 4)));
      }
      const std::vector<T> x = make<T>(support::Data::gaussian, layout.numel(), 5);
      const RoundingPair rounding = support::stochastic(77, 3);
      GuardedPacked whole(layout, row_bits);
      actpack::quantize(x, whole.view(), rounding.library);
      whole.check_equals(reference::quantize(support::floats(x), whole.shape, rounding.reference));

      GuardedPacked pieces(layout, row_bits);
      const std::array<std::int64_t, 5> cuts{0, 2, 3, 6, 7};
      for (const std::size_t chunk : std::initializer_list<std::size_t>{2, 0, 3, 1}) {
        const std::int64_t first_row = cuts[chunk];
        const std::int64_t end_row = cuts[chunk + 1];
        const std::int64_t end = end_row == 7 ? layout.numel() : end_row * 150;
        const std::span<const T> rows =
            std::span<const T>(x).subspan(static_cast<std::size_t>(first_row * 150),
                                          static_cast<std::size_t>(end - first_row * 150));
        GuardedPacked alone(layout, row_bits);
        const std::vector<std::uint32_t> untouched_words = alone.words.values();
        actpack::quantize(rows, alone.view(), rounding.library, first_row);
        actpack::quantize(rows, pieces.view(), rounding.library, first_row);
        std::int64_t word = 0;
        int wrong = 0;
        for (std::int64_t row = 0; row < 7; ++row) {
          const std::int64_t next = word + reference::words_for(alone.shape.size_of_row(row),
                                                                alone.shape.bits_of_row(row));
          const bool inside = first_row <= row && row < end_row;
          for (; word < next; ++word) {
            const std::uint32_t expected =
                inside ? whole.words.data()[word] : untouched_words[static_cast<std::size_t>(word)];
            wrong += alone.words.data()[word] != expected ? 1 : 0;
          }
        }
        CHECK(wrong == 0);
        int touched_params = 0;
        for (std::int64_t group = 0; group < layout.num_groups(); ++group) {
          const bool inside = first_row * 3 <= group && group < end_row * 3;
          const bool untouched = alone.params.data()[group].scale.bits == 0x5C5C &&
                                 alone.params.data()[group].min.bits == 0x5C5C;
          touched_params += untouched == inside ? 1 : 0;
        }
        CHECK(touched_params == 0);
      }
      CHECK(pieces.words.values() == whole.words.values());
      for (std::int64_t group = 0; group < layout.num_groups(); ++group) {
        CHECK(pieces.params.data()[group].scale.bits == whole.params.data()[group].scale.bits);
        CHECK(pieces.params.data()[group].min.bits == whole.params.data()[group].min.bits);
      }
    }
  }
}

// min, scale, d and c all scale by the power of two exactly, so the codes cannot change. From
// 2^-100 to 2^100 no value meets the smallest scale 2^-111 or the largest number.
TEST_CASE("quantize: scaling by a power of two changes the params and no code") {
  const std::vector<float> x = make<float>(support::Data::gaussian, 1000, 6);
  for (const int bits : support::all_widths) {
    GuardedPacked unscaled(Layout{1, 1000, 64, bits});
    std::vector<float> decoded(1000);
    const Rounding rounding = Rounding::stochastic(8, 8);
    actpack::quantize(x, unscaled.view(), rounding);
    actpack::dequantize(unscaled.view(), decoded, Decoding::subtractive(rounding));
    for (int exponent = -100; exponent <= 100; exponent += 5) {
      CAPTURE(bits);
      CAPTURE(exponent);
      const float factor = std::ldexp(1.0F, exponent);
      std::vector<float> scaled_x = x;
      for (float& value : scaled_x) value *= factor;
      GuardedPacked scaled(Layout{1, 1000, 64, bits});
      actpack::quantize(scaled_x, scaled.view(), rounding);
      CHECK(scaled.words.values() == unscaled.words.values());
      std::vector<float> scaled_decoded(1000);
      actpack::dequantize(scaled.view(), scaled_decoded);
      actpack::dequantize(unscaled.view(), decoded);
      int different = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        different += scaled_decoded[i] != decoded[i] * factor ? 1 : 0;
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE_TEMPLATE("dequantize: only poisoned groups give anything but finite numbers", T, float,
                   bfloat16, float16) {
  for (const support::Data data : support::all_data) {
    for (const int bits : support::all_widths) {
      const char* const name = support::name_of(data);
      CAPTURE(name);
      CAPTURE(bits);
      // Three groups; the values of the middle one must not reach its neighbours.
      std::vector<T> x = make<T>(support::Data::gaussian, 192, 7);
      const std::vector<T> middle = make<T>(data, 64, 8);
      std::copy(middle.begin(), middle.end(), x.begin() + 64);
      GuardedPacked tensor(Layout{1, 192, 64, bits});
      const Rounding rounding = Rounding::stochastic(9, 9);
      actpack::quantize(x, tensor.view(), rounding);
      for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
        std::vector<T> decoded(192);
        actpack::dequantize(tensor.view(), decoded, decoding);
        for (std::size_t i = 0; i < 192; ++i) {
          const bool poisoned = tensor.params.data()[i / 64].scale.bits == 0x7FC0;
          const bool right = poisoned ? support::is_nan(decoded[i])
                                      : std::isfinite(static_cast<float>(decoded[i]));
          if (!right) CHECK(right);
        }
      }
      const bool hidden = data == support::Data::one_nan || data == support::Data::infinities;
      if (hidden) {
        CHECK(tensor.params.data()[1].scale.bits == 0x7FC0);
        CHECK(tensor.params.data()[1].min.bits == 0x7FC0);
        for (int word = 2 * bits; word < 4 * bits; ++word) CHECK(tensor.words.data()[word] == 0);
      }
      CHECK(tensor.params.data()[0].scale.bits != 0x7FC0);
      CHECK(tensor.params.data()[2].scale.bits != 0x7FC0);
    }
  }
}

TEST_CASE("quantize: one NaN or infinity anywhere poisons its group") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(),
                          std::bit_cast<float>(0x7F800001U), std::bit_cast<float>(0xFF800001U),
                          std::bit_cast<float>(0x7FFFFFFFU), std::bit_cast<float>(0xFFFFFFFFU)}) {
    for (const std::size_t size : std::initializer_list<std::size_t>{1, 5, 32, 64, 67}) {
      int wrong = 0;
      for (std::size_t place = 0; place < size; ++place) {
        std::vector<float> x(size, 1.0F);
        x[place] = bad;
        GuardedPacked tensor(Layout{1, static_cast<std::int64_t>(size), 32, 2});
        actpack::quantize(x, tensor.view(), Rounding::nearest());
        for (std::size_t group = 0; group < tensor.params.span().size(); ++group) {
          const reference::Params expected = group == place / 32 ? reference::Params{0x7FC0, 0x7FC0}
                                                                 : reference::Params{0, 0x3F80};
          wrong += support::same(tensor.params.data()[group], expected) ? 0 : 1;
        }
        for (const std::uint32_t word : tensor.words.values()) wrong += word != 0 ? 1 : 0;
      }
      CAPTURE(size);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE_TEMPLATE("quantize: every NaN pattern poisons", T, bfloat16, float16) {
  int missed = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const T bad = T::from_bits(static_cast<std::uint16_t>(bits));
    if (!support::is_nan(bad)) continue;
    for (const int width : support::all_widths) {
      GuardedPacked tensor(Layout{1, 3, 32, width});
      actpack::quantize(std::array{T(1.0F), bad, T(-2.0F)}, tensor.view(), Rounding::nearest());
      missed += support::same(tensor.params.data()[0], {0x7FC0, 0x7FC0}) ? 0 : 1;
    }
  }
  CHECK(missed == 0);
}

TEST_CASE("quantize: vectors, arrays and spans need no type spelled") {
  GuardedPacked tensor(Layout{1, 3, 32, 2});
  std::vector<float> vector{0, 1, 3};
  const std::vector<float> constant_vector = vector;
  std::array<float, 3> array{0, 1, 3};
  const std::array<float, 3> constant_array = array;
  float c_array[3] = {0, 1, 3};
  std::vector<bfloat16> narrow{bfloat16(0.0F), bfloat16(1.0F), bfloat16(3.0F)};
  const Rounding rounding = Rounding::nearest();
  const auto check = [&](const auto& x) {
    actpack::quantize(x, tensor.view(), rounding);
    CHECK(tensor.words.data()[0] == 0x34);
    actpack::quantize(x, tensor.view(), rounding, 0);
    CHECK(tensor.words.data()[0] == 0x34);
  };
  check(vector);
  check(constant_vector);
  check(array);
  check(constant_array);
  check(c_array);
  check(std::span(vector));
  check(std::span<const float>(vector));
  check(narrow);
  const ConstPackedView view = tensor.view();
  actpack::dequantize(view, vector);
  actpack::dequantize(view, 0, vector);
  actpack::dequantize(view, array);
  actpack::dequantize(view, std::span(vector), Decoding::plain());
  actpack::dequantize(view, 0, c_array, Decoding::subtractive(rounding));
  actpack::dequantize(view, narrow);
  CHECK(vector == constant_vector);
  CHECK(array == constant_array);
  CHECK(static_cast<float>(narrow[2]) == 3);
}

TEST_CASE("quantize: empty tensors are no special case") {
  for (const Layout& layout : {Layout{0, 100, 256, 2}, Layout{5, 0, 256, 2}, Layout{1, 0, 32, 8}}) {
    const PackedView view{layout, nullptr, nullptr};
    std::vector<float> none;
    CHECK_NOTHROW(actpack::quantize(none, view, Rounding::nearest()));
    CHECK_NOTHROW(actpack::dequantize(view, none));
    CHECK_NOTHROW(actpack::dequantize(view, 0, none));
    std::vector<float> one(1);
    support::check_refused([&] { actpack::quantize(one, view, Rounding::nearest()); },
                           {"x", "1", "0"});
    support::check_refused([&] { actpack::dequantize(view, one); }, {"x", "1", "0"});
  }
}

TEST_CASE("quantize: wrong arguments are named with their numbers, and nothing is written") {
  GuardedPacked tensor(Layout{3, 40, 32, 2, 13});
  const std::vector<float> x(200, 1.0F);
  const Rounding nearest = Rounding::nearest();
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(tensor.is_untouched());
  };
  const auto part = [&x](std::size_t size) { return std::span<const float>(x).first(size); };
  const PackedView good = tensor.view();

  refused([&] { actpack::quantize(part(92), good, nearest); }, {"x", "92", "93"});
  refused([&] { actpack::quantize(part(94), good, nearest); }, {"x", "94", "93"});
  refused([&] { actpack::quantize(part(120), good, nearest); }, {"x", "120", "93"});
  refused([&] { actpack::quantize(part(0), good, nearest); }, {"x", "0", "93"});

  refused([&] { actpack::quantize(part(40), good, nearest, -1); }, {"first_row", "-1"});
  refused([&] { actpack::quantize(part(13), good, nearest, 3); }, {"3"});
  refused([&] { actpack::quantize(part(40), good, nearest, 4); }, {"first_row", "4", "3"});
  refused([&] { actpack::quantize(part(40), good, nearest, INT64_MAX); }, {"first_row"});
  refused([&] { actpack::quantize(part(39), good, nearest, 0); }, {"x", "39"});
  refused([&] { actpack::quantize(part(41), good, nearest, 0); }, {"x", "41"});
  refused([&] { actpack::quantize(part(53), good, nearest, 0); },
          {"x", "53"});  // 40 + 13, not the last
  refused([&] { actpack::quantize(part(40), good, nearest, 2); }, {"x", "40"});
  refused([&] { actpack::quantize(part(80), good, nearest, 1); }, {"x", "80"});
  refused([&] { actpack::quantize(part(133), good, nearest, 0); }, {"x", "133"});

  const auto with = [&](auto change) {
    PackedView view = tensor.view();
    change(view);
    return view;
  };
  const auto quantize_into = [&](const PackedView& view) {
    return [&, view] { actpack::quantize(part(93), view, nearest); };
  };
  refused(quantize_into(with([](PackedView& view) { view.layout.bits = 3; })), {"bits", "3"});
  refused(quantize_into(with([](PackedView& view) { view.layout.group_size = 100; })),
          {"group_size", "100"});
  refused(quantize_into(with([](PackedView& view) { view.layout.group_size = 0; })),
          {"group_size", "0"});
  refused(quantize_into(with([](PackedView& view) { view.layout.rows = -3; })), {"rows", "-3"});
  refused(quantize_into(with([](PackedView& view) { view.layout.last_row_size = 41; })),
          {"last_row_size", "41", "40"});
  refused(quantize_into(with([](PackedView& view) {
            view.layout.rows = std::int64_t{1} << 40;
            view.layout.row_size = std::int64_t{1} << 40;
          })),
          {"rows", "row_size"});

  refused(quantize_into(with([](PackedView& view) { view.words = nullptr; })), {"words"});
  refused(quantize_into(with([](PackedView& view) { view.params = nullptr; })), {"params"});

  const std::array<std::uint8_t, 3> widths{1, 2, 2};
  const std::array<std::uint8_t, 3> too_wide{1, 4, 2};
  const std::array<std::uint8_t, 3> no_width{1, 2, 3};
  const std::array<std::int64_t, 4> offsets{0, 2, 5, 6};
  refused(quantize_into(with([&](PackedView& view) { view.row_bits = widths.data(); })),
          {"row_offsets"});
  refused(quantize_into(with([&](PackedView& view) { view.row_offsets = offsets.data(); })),
          {"row_bits"});
  refused(quantize_into(with([&](PackedView& view) {
            view.row_bits = too_wide.data();
            view.row_offsets = offsets.data();
          })),
          {"row_bits", "4", "2"});
  refused(quantize_into(with([&](PackedView& view) {
            view.layout.bits = 8;
            view.row_bits = no_width.data();
            view.row_offsets = offsets.data();
          })),
          {"row_bits", "3"});
  const std::array<std::int64_t, 4> wrong_offsets{0, 2, 4, 6};
  refused(quantize_into(with([&](PackedView& view) {
            view.row_bits = widths.data();
            view.row_offsets = wrong_offsets.data();
          })),
          {"row_offsets"});
}

// Offsets between what the rows before can take at the least and at the most, none beyond the
// total, which is none beyond the layout's: with these, all words lie in the view's array.
TEST_CASE(
    "row offsets: those that leave the tensor's words are refused, whole tensors and chunks") {
  const std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
  const std::int64_t highest = std::numeric_limits<std::int64_t>::max();
  const Layout layout{.rows = 3, .row_size = 40, .group_size = 32, .bits = 8};
  const std::array<std::uint8_t, 3> widths{2, 4, 2};  // 3, 5 and 3 words of at most 10, at least 2
  std::vector<std::array<std::int64_t, 4>> hostile{
      {1000000, 1000003, 1000008, 1000011},  // all shifted
      {1, 4, 9, 12},
      {-3, 0, 5, 8},
      {4, lowest, 8, 11},
      {highest, lowest, lowest + 5, 11},
      {0, 3, 8, 10},       // a total that is too small
      {0, 3, 8, highest},  // or too large
      {0, 3, 8, -1},
      {0, 1000000, 1000005, 1000008},  // seen by a chunk of row 1
      {0, 1, 6, 9},
      {0, 3, 8, 5},
      {0, 3, 21, 24},
  };
  const std::vector<float> x(120, 1.0F);
  for (const std::array<std::int64_t, 4>& offsets : hostile) {
    CAPTURE(std::vector<std::int64_t>(offsets.begin(), offsets.end()));
    // As long as the total says, or as the layout can need: sanitizers see what lies beyond.
    const std::vector<std::uint32_t> untouched(
        static_cast<std::size_t>(std::clamp<std::int64_t>(offsets[3], 1, layout.num_words())));
    std::vector<std::uint32_t> words = untouched;
    std::vector<actpack::GroupParams> params(6);
    std::vector<float> decoded(120);
    const PackedView view{layout, words.data(), params.data(), widths.data(), offsets.data()};
    support::check_refused([&] { actpack::quantize(x, view, Rounding::nearest()); },
                           {"row_offsets"});
    support::check_refused([&] { actpack::dequantize(view, decoded); }, {"row_offsets"});
    CHECK(words == untouched);
    // A chunk sees the total and the offsets of its own rows.
    for (std::int64_t row = 0; row < 3; ++row) {
      const auto at = static_cast<std::size_t>(row);
      const std::span<float> chunk = std::span(decoded).subspan(40 * at, 40);
      try {
        actpack::quantize(std::span<const float>(chunk), view, Rounding::nearest(), row);
        actpack::dequantize(view, 40 * row, chunk);
        CHECK(offsets[at] >= 0);
        CHECK(offsets[at + 1] <= std::min<std::int64_t>(offsets[3], 30));
      } catch (const std::invalid_argument&) {
      }
    }
  }
}

TEST_CASE("quantize, dequantize: a tensor without rows may have widths from an empty vector") {
  const std::vector<std::uint8_t> none;
  const std::array<std::int64_t, 1> total{0};
  const PackedView view{Layout{.rows = 0, .row_size = 8}, nullptr, nullptr, none.data(),
                        total.data()};
  CHECK_NOTHROW(actpack::quantize(std::vector<float>{}, view, Rounding::nearest()));
  CHECK_NOTHROW(actpack::dequantize(view, std::vector<float>{}));
}

TEST_CASE("quantize, dequantize: a rounding that lives on the device is refused on the host") {
  GuardedPacked tensor(Layout{1, 40, 32, 2});
  const std::array<std::uint64_t, 2> seed_and_offset{1, 2};
  const Rounding on_device = Rounding::stochastic(seed_and_offset.data());
  const std::vector<float> x(40, 1.0F);
  support::check_refused([&] { actpack::quantize(x, tensor.view(), on_device); }, {"device"});
  support::check_refused([&] { actpack::quantize(x, tensor.view(), on_device, 0); }, {"device"});
  CHECK(tensor.is_untouched());
  actpack::quantize(x, tensor.view(), Rounding::nearest());
  GuardedBuffer<float> decoded(std::int64_t{40});
  support::check_refused(
      [&] { actpack::dequantize(tensor.view(), decoded.span(), Decoding::subtractive(on_device)); },
      {"device"});
  CHECK(decoded.is_untouched());
}

TEST_CASE("dequantize: wrong arguments are named with their numbers, and nothing is written") {
  GuardedPacked tensor(Layout{3, 40, 32, 2, 13});
  const std::vector<float> x(93, 1.0F);
  actpack::quantize(x, tensor.view(), Rounding::nearest());
  GuardedBuffer<float> decoded(std::int64_t{120});
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(decoded.is_untouched());
  };
  const auto part = [&decoded](std::size_t size) { return decoded.span().first(size); };
  const ConstPackedView good = tensor.view();
  refused([&] { actpack::dequantize(good, part(92)); }, {"x", "92", "93"});
  refused([&] { actpack::dequantize(good, part(120)); }, {"x", "120", "93"});
  refused([&] { actpack::dequantize(good, -1, part(4)); }, {"first", "-1"});
  refused([&] { actpack::dequantize(good, 90, part(4)); }, {"90", "4", "93"});
  refused([&] { actpack::dequantize(good, 94, part(0)); }, {"first", "94", "93"});
  refused([&] { actpack::dequantize(good, INT64_MAX, part(4)); }, {"first"});
  ConstPackedView bad = good;
  bad.layout.bits = 5;
  refused([&] { actpack::dequantize(bad, part(93)); }, {"bits", "5"});
  refused([&] { actpack::dequantize(bad, 0, part(3)); }, {"bits", "5"});
  bad = good;
  const std::array<std::uint8_t, 3> widths{1, 2, 2};
  bad.row_bits = widths.data();
  refused([&] { actpack::dequantize(bad, part(93)); }, {"row_offsets"});
}
