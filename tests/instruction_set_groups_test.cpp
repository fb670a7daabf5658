// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares every instruction set of this processor with the portable path, byte for byte: words,
// parameters and decoded values of affine and sign-magnitude groups, over all shapes, offsets and
// data that a vector could treat differently.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/config_grid.hpp"
#include "support/same_everywhere.hpp"

namespace {

using namespace same_everywhere;
using actpack::ConstPackedView;
using actpack::ConstSignMagnitudeView;
using actpack::Decoding;
using actpack::GroupParams;
using actpack::PackedView;
using actpack::SignMagnitudeParams;
using actpack::SignMagnitudeView;

// ---- Verbs ------------------------------------------------------------------------------------

constexpr std::array alphas{1.0F, 0.3F, 0.0F, 1e-40F, 0.77F};

// Calls decode(type, decoding, name) for plain decoding to every type and subtractive decoding with
// every alpha to one.
template <class Decode>
void for_each_decoding(const Case& c, Decode decode) {
  decode(float{}, Decoding::plain());
  decode(bfloat16{}, Decoding::plain());
  decode(float16{}, Decoding::plain());
  if (!c.rounding.is_stochastic) return;
  for (std::size_t i = 0; i < alphas.size(); ++i) {
    const Decoding decoding = Decoding::subtractive(c.rounding, alphas[i]);
    switch ((c.seed + i) % 3) {
      case 0: decode(float{}, decoding); break;
      case 1: decode(bfloat16{}, decoding); break;
      default: decode(float16{}, decoding); break;
    }
  }
}

template <class T>
void check_affine(const Case& c, const std::vector<T>& x) {
  const std::vector<std::int64_t> row_offsets = c.row_offsets();
  const std::int64_t words_size = c.row_bits.empty() ? c.layout.num_words() : row_offsets.back();
  const Array<T> input(x, c.shift());
  check_same_everywhere([&] {
    Outcome outcome;
    Array<std::uint32_t> words(words_size, c.shift());
    Array<GroupParams> params(c.layout.num_groups(), c.shift() / 2);
    const PackedView view{c.layout, words.data(), params.data(),
                          c.row_bits.empty() ? nullptr : c.row_bits.data(),
                          c.row_bits.empty() ? nullptr : row_offsets.data()};
    for (const Range& rows : c.chunks) {
      actpack::quantize(
          input.span().subspan(static_cast<std::size_t>(rows.first * c.layout.row_size),
                               static_cast<std::size_t>(
                                   std::min(rows.count * c.layout.row_size,
                                            c.layout.numel() - rows.first * c.layout.row_size))),
          view, c.rounding, rows.first);
      outcome.add("words of a chunk", words);
      outcome.add("params of a chunk", params);
    }
    actpack::quantize(input.span(), view, c.rounding);
    outcome.add("words", words);
    outcome.add("params", params);
    for_each_decoding(c, [&](auto type, const Decoding& decoding) {
      Array<decltype(type)> decoded(c.layout.numel(), c.shift());
      actpack::dequantize(view, decoded.span(), decoding);
      outcome.add("dequantize", decoded, static_cast<double>(decoding.alpha));
      for (const Range& range : c.ranges) {
        Array<decltype(type)> part(range.count, c.shift());
        actpack::dequantize(view, range.first, part.span(), decoding);
        outcome.add("dequantize a range", part, static_cast<double>(decoding.alpha), range.first);
      }
    });
    return outcome;
  });
}

template <class T>
void check_sign_magnitude(const Case& c, const std::vector<T>& y) {
  const Array<T> input(y, c.shift());
  check_same_everywhere([&] {
    Outcome outcome;
    Array<std::uint32_t> signs(c.layout.with_bits(1).num_words(), c.shift() / 2);
    Array<std::uint32_t> magnitudes(c.layout.num_words(), c.shift());
    Array<SignMagnitudeParams> params(c.layout.num_groups(), c.shift() / 3);
    const SignMagnitudeView view{c.layout, signs.data(), magnitudes.data(), params.data()};
    for (const Range& rows : c.chunks) {
      actpack::encode(input.span().subspan(static_cast<std::size_t>(rows.first * c.layout.row_size),
                                           static_cast<std::size_t>(std::min(
                                               rows.count * c.layout.row_size,
                                               c.layout.numel() - rows.first * c.layout.row_size))),
                      view, c.rounding, rows.first);
      outcome.add("signs of a chunk", signs);
      outcome.add("magnitudes of a chunk", magnitudes);
      outcome.add("params of a chunk", params);
    }
    actpack::encode(input.span(), view, c.rounding);
    outcome.add("signs", signs);
    outcome.add("magnitudes", magnitudes);
    outcome.add("params", params);
    for_each_decoding(c, [&](auto type, const Decoding& decoding) {
      const auto alpha = static_cast<double>(decoding.alpha);
      Array<decltype(type)> whole(c.layout.numel(), c.shift());
      actpack::decode(view, whole.span(), decoding);
      outcome.add("decode", whole, alpha);
      Array<decltype(type)> relu(c.layout.numel(), c.shift());
      actpack::decode_relu(view, relu.span(), decoding);
      outcome.add("decode_relu", relu, alpha);
      for (const Range& range : c.ranges) {
        Array<decltype(type)> part(range.count, c.shift());
        actpack::decode(view, range.first, part.span(), decoding);
        outcome.add("decode a range", part, alpha, range.first);
        actpack::decode_relu(view, range.first, part.span(), decoding);
        outcome.add("decode_relu a range", part, alpha, range.first);
      }
    });
    // The values themselves are as good a gradient as any.
    Array<T> dx(c.layout.numel(), c.shift());
    actpack::relu_backward(input.span(), view, dx.span());
    outcome.add("relu_backward", dx);
    Array<T> in_place(y, c.shift());
    actpack::relu_backward(std::as_const(in_place).span(), view, in_place.span());
    outcome.add("relu_backward in place", in_place);
    for (const Range& range : c.ranges) {
      Array<T> part(range.count, c.shift());
      actpack::relu_backward(input.span().subspan(static_cast<std::size_t>(range.first),
                                                  static_cast<std::size_t>(range.count)),
                             view, range.first, part.span());
      outcome.add("relu_backward of a range", part, 0, range.first);
    }
    return outcome;
  });
}

// ---- Grids ------------------------------------------------------------------------------------

// 160: its half is no multiple of 32; the last: one range for all.
constexpr std::array<std::int32_t, 9> group_sizes{32, 64, 96, 128, 160, 256, 512, 1024, 1 << 20};

// check(case, kind of data) for three kinds of data for each shape of one row.
template <class Check>
void for_each_shape(Check check) {
  Generator generator(1);
  std::uint64_t seed = 0;
  for (const int bits : support::all_widths) {
    for (const std::int32_t group_size : group_sizes) {
      for (const std::int64_t size : sizes()) {
        for (int repetition = 0; repetition < 3; ++repetition) {
          const Case c{Layout{1, size, group_size, bits}, random_rounding(generator), ++seed};
          const std::uint32_t kind = generator.below(all_kinds);
          if (support::is_left_out(seed)) continue;
          CAPTURE(bits);
          CAPTURE(group_size);
          CAPTURE(size);
          CAPTURE(kind);
          CAPTURE(seed);
          CAPTURE(c.rounding.is_stochastic);
          check(c, kind);
        }
      }
    }
  }
}

// check(case, kind of data) for every kind of data, in groups of few sizes and one row.
template <class Check>
void for_each_kind(Check check) {
  std::uint64_t seed = 20000;
  for (std::uint32_t kind = 0; kind < all_kinds; ++kind) {
    for (const int bits : support::all_widths) {
      for (const std::int32_t group_size : {32, 96, 256, 1 << 20}) {
        for (const std::int64_t size : {61, 300, 1003}) {
          for (const bool is_stochastic : {false, true}) {
            if (support::is_left_out(++seed)) continue;
            CAPTURE(kind);
            CAPTURE(bits);
            CAPTURE(group_size);
            CAPTURE(size);
            CAPTURE(seed);
            CAPTURE(is_stochastic);
            check(Case{Layout{1, size, group_size, bits},
                       is_stochastic ? Rounding::stochastic(seed, seed << 40) : Rounding::nearest(),
                       seed},
                  kind);
          }
        }
      }
    }
  }
}

// check(case, kind of data) for several rows, of one width or, if wanted, of their own, with
// ranges that start and end anywhere.
template <class Check>
void for_each_table(bool has_row_bits, Check check) {
  Generator generator(2);
  for (std::uint64_t trial = 0; trial < 400; ++trial) {
    const auto rows = static_cast<std::int64_t>(1 + generator.below(9));
    const auto row_size =
        static_cast<std::int64_t>(1 + generator.below(trial % 4 == 0 ? 1200 : 200));
    const auto last = static_cast<std::int64_t>(
        generator.below(2) == 0 ? 0 : 1 + generator.below(static_cast<std::uint32_t>(row_size)));
    const std::int32_t group_size = group_sizes[generator.below(9)];
    const int bits = has_row_bits ? 8 : support::all_widths[generator.below(4)];
    Case c{Layout{rows, row_size, group_size, bits, last}, random_rounding(generator), trial};
    for (std::int64_t row = 0; has_row_bits && row < rows; ++row) {
      c.row_bits.push_back(static_cast<std::uint8_t>(1 << generator.below(4)));
    }
    c.ranges =
        random_ranges(c.layout.numel(), trial % 2 == 0 ? group_size : row_size, 3, generator);
    const std::int64_t first_row = generator.below(static_cast<std::uint32_t>(rows));
    const std::int64_t row_count =
        1 + generator.below(static_cast<std::uint32_t>(rows - first_row));
    c.chunks = {{first_row, row_count}};
    const std::uint32_t kind = generator.below(all_kinds);
    if (support::is_left_out(trial)) continue;
    CAPTURE(trial);
    CAPTURE(rows);
    CAPTURE(row_size);
    CAPTURE(last);
    CAPTURE(group_size);
    CAPTURE(bits);
    CAPTURE(kind);
    CAPTURE(c.rounding.is_stochastic);
    check(c, kind);
  }
}

template <class Check>
void for_each_large_shape(Check check) {
  std::uint64_t seed = 30000;
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : {4097, 65537}) {
      for (const std::int32_t group_size : {32, 256, 1 << 20}) {
        if (support::is_left_out(++seed)) continue;
        CAPTURE(bits);
        CAPTURE(size);
        CAPTURE(group_size);
        Case c{Layout{1, size, group_size, bits}, Rounding::stochastic(seed, 5), seed};
        c.ranges = {{size / 3, size / 2}};
        for (const Kind kind : {Kind::ties, Kind::relu_minus_zeros, Kind::boundaries}) {
          const std::uint32_t number = number_of(kind);
          CAPTURE(number);
          check(c, number);
        }
      }
    }
  }
}

// Noise is named by 64 bits: here a group's calls to the generator pass 2^32, and that within a
// vector. Rows are short beside their groups, so that it takes little memory.
template <class Check>
void for_each_far_group(Check check) {
  constexpr std::int64_t calls_of_group = 66076418;  // 65 times as many: 2^32 - 126
  constexpr std::int64_t row_size = 3100;
  for (const int bits : support::all_widths) {
    Case c{Layout{67, row_size, static_cast<std::int32_t>(16 * calls_of_group), bits},
           Rounding::stochastic(7, ~std::uint64_t{0}), 40000};
    c.ranges = {{66 * row_size - 49, 49}, {65 * row_size + 7, row_size - 7}};
    c.chunks = {{65, 1}};
    CAPTURE(bits);
    check(c, 0);
  }
}

// Short ranges from every element of two large groups and a part of a third.
template <class Check>
void for_each_start(Check check) {
  for (const int bits : support::all_widths) {
    constexpr std::int64_t size = 2100;
    Case c{Layout{1, size, 1024, bits}, Rounding::stochastic(8), 45000};
    for (std::int64_t first = 0; first < size; ++first) {
      if (support::is_left_out(static_cast<std::uint64_t>(first))) continue;
      c.ranges.push_back({first, std::min(1 + first % 150, size - first)});
    }
    CAPTURE(bits);
    check(c, 0);
  }
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE_TEMPLATE("affine: one row of any size", T, float, bfloat16, float16) {
  for_each_shape([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: any data", T, float, bfloat16, float16) {
  for_each_kind([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: rows, ranges and chunks", T, float, bfloat16, float16) {
  for (const bool has_row_bits : {false, true}) {
    for_each_table(has_row_bits,
                   [](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
  }
}

TEST_CASE_TEMPLATE("affine: large tensors", T, float, bfloat16, float16) {
  for_each_large_shape(
      [](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: ranges from every element", T, float, bfloat16) {
  for_each_start([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: noise of far groups", T, float) {
  for_each_far_group([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: one row of any size", T, float, bfloat16, float16) {
  for_each_shape(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: any data", T, float, bfloat16, float16) {
  for_each_kind(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: rows, ranges and chunks", T, float, bfloat16, float16) {
  for_each_table(
      false, [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: large tensors", T, float, bfloat16, float16) {
  for_each_large_shape(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: ranges from every element", T, float, bfloat16) {
  for_each_start(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: noise of far groups", T, float) {
  for_each_far_group(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}
