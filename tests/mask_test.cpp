// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the exact one-bit contexts: ReLU, dropout and any predicate, forward and backward.
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

#include <actpack/bit_pack.hpp>
#include <actpack/codes.hpp>
#include <actpack/layout.hpp>
#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/reference.hpp"
#include "support/statistics.hpp"

namespace {

using actpack::bfloat16;
using actpack::float16;
using actpack::Rounding;
using support::GuardedBuffer;

// Bit e of the linear tensor, least significant first, unused bits 0.
template <class Keep>
std::vector<std::uint32_t> expected_mask(std::int64_t size, Keep keep) {
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(reference::words_for(size, 1)), 0);
  for (std::int64_t e = 0; e < size; ++e) {
    if (keep(e)) mask[static_cast<std::size_t>(e / 32)] += std::uint32_t{1} << (e % 32);
  }
  return mask;
}

bool bit(const std::vector<std::uint32_t>& mask, std::size_t e) {
  return (mask[e / 32] >> (e % 32) & 1) == 1;
}

// Ordinary values and, among them, every special one: both zeros, the smallest, infinities, NaN.
template <class T>
std::vector<T> values(std::int64_t size, std::uint64_t seed) {
  std::vector<T> x;
  for (const float value : support::gaussian(static_cast<std::size_t>(size), seed)) {
    x.push_back(T(value));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const float smallest = support::smallest_positive<T>();
  const std::array specials{0.0F,
                            -0.0F,
                            smallest,
                            -smallest,
                            infinity,
                            -infinity,
                            std::numeric_limits<float>::quiet_NaN()};
  for (std::size_t i = 0; i < specials.size() && 5 * i + 3 < x.size(); ++i) {
    x[5 * i + 3] = T(specials[i]);
  }
  return x;
}

// The rule of dropout: element e is kept if word e % 4 of call e / 4 is below (1 - p) 2^32, rounded
// to an integer that is not 0.
std::int64_t dropout_threshold(double drop_probability) {
  return std::max(std::llround((1 - drop_probability) * 0x1p32), 1LL);
}
std::vector<std::uint32_t> expected_dropout(std::int64_t size, double drop_probability,
                                            const reference::Rounding& rounding,
                                            std::int64_t first = 0) {
  return expected_mask(size, [&](std::int64_t e) {
    const std::int64_t element = first + e;
    return reference::random_block(reference::Domain::dropout, element / 4, rounding)
               .word[element % 4] < dropout_threshold(drop_probability);
  });
}

template <class T>
std::vector<T> kept_and_scaled(const std::vector<T>& x, const std::vector<std::uint32_t>& mask,
                               double drop_probability) {
  const auto scale =
      static_cast<float>(0x1p32 / static_cast<double>(dropout_threshold(drop_probability)));
  std::vector<float> y;
  for (std::size_t e = 0; e < x.size(); ++e) {
    y.push_back(bit(mask, e) ? static_cast<float>(x[e]) * scale : 0.0F);
  }
  return support::stored<T>(y);
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE_TEMPLATE("make_mask: bit e tells whether element e satisfies the predicate", T, float,
                   bfloat16, float16) {
  for (const std::int64_t size : support::all_sizes) {
    CAPTURE(size);
    const GuardedBuffer<T> x(values<T>(size, 18));
    GuardedBuffer<std::uint32_t> mask(reference::words_for(size, 1));
    actpack::make_mask(x.span(), mask.span(),
                       [](auto value) { return static_cast<float>(value) > 0.5F; });
    CHECK(mask.values() == expected_mask(size, [&](std::int64_t e) {
            return static_cast<float>(x.data()[e]) > 0.5F;
          }));
    actpack::make_mask(x.span(), mask.span(), [](auto) { return true; });
    CHECK(mask.values() == expected_mask(size, [](std::int64_t) { return true; }));
  }
}

TEST_CASE_TEMPLATE("relu: y and the mask are exact, zeros, NaN and infinities included", T, float,
                   bfloat16, float16) {
  for (const std::int64_t size : support::all_sizes) {
    CAPTURE(size);
    const std::vector<T> x = values<T>(size, 19);
    std::vector<T> expected;
    for (const T value : x) {
      const auto number = static_cast<float>(value);
      expected.push_back(number > 0 || std::isnan(number) ? value : T(0.0F));
    }
    GuardedBuffer<T> y(size);
    GuardedBuffer<std::uint32_t> mask(reference::words_for(size, 1));
    actpack::relu(x, y.span(), mask.span());
    support::check_same_values<T>(y.span(), expected);
    CHECK(mask.values() == expected_mask(size, [&](std::int64_t e) {
            return static_cast<float>(x[static_cast<std::size_t>(e)]) > 0;
          }));

    GuardedBuffer<T> in_place(x);
    GuardedBuffer<std::uint32_t> mask_in_place(reference::words_for(size, 1));
    actpack::relu(std::span<const T>(in_place.span()), in_place.span(), mask_in_place.span());
    support::check_same_values<T>(in_place.span(), expected);
    CHECK(mask_in_place.values() == mask.values());
  }
}

TEST_CASE_TEMPLATE("relu_backward: the gradient passes where the bit is set, unchanged", T, float,
                   bfloat16, float16) {
  for (const std::int64_t size : support::all_sizes) {
    CAPTURE(size);
    const std::vector<T> dy = values<T>(size, 20);
    support::Generator generator(21);
    const std::vector<std::uint32_t> mask =
        expected_mask(size, [&](std::int64_t) { return generator.below(2) == 1; });
    std::vector<T> expected;
    for (std::size_t e = 0; e < dy.size(); ++e) expected.push_back(bit(mask, e) ? dy[e] : T(0.0F));
    GuardedBuffer<T> dx(size);
    actpack::relu_backward(dy, mask, dx.span());
    support::check_same_values<T>(dx.span(), expected);
    GuardedBuffer<T> in_place(dy);
    actpack::relu_backward(std::span<const T>(in_place.span()), mask, in_place.span());
    support::check_same_values<T>(in_place.span(), expected);
  }
}

TEST_CASE_TEMPLATE("dropout: element e is kept by word e % 4 of call e / 4, and scaled", T, float,
                   bfloat16, float16) {
  std::uint64_t seed = 500;
  for (const double probability : {0.0, 0.1, 0.25, 0.5, 0.9, 0.999}) {
    for (const std::int64_t size : support::all_sizes) {
      CAPTURE(probability);
      CAPTURE(size);
      ++seed;
      const support::RoundingPair rounding = support::stochastic(seed << 31, seed);
      std::vector<T> x;
      for (const float value : support::gaussian(static_cast<std::size_t>(size), 22))
        x.push_back(T(value));
      GuardedBuffer<T> y(size);
      GuardedBuffer<std::uint32_t> mask(reference::words_for(size, 1));
      actpack::dropout(x, y.span(), mask.span(), probability, rounding.library);
      const std::vector<std::uint32_t> expected =
          expected_dropout(size, probability, rounding.reference);
      CHECK(mask.values() == expected);
      support::check_same_values<T>(y.span(), kept_and_scaled(x, expected, probability));
      GuardedBuffer<T> dx(size);
      actpack::dropout_backward(x, mask.values(), dx.span(), probability);
      support::check_same_values<T>(dx.span(), kept_and_scaled(x, expected, probability));
    }
  }
}

TEST_CASE("dropout: a word equal to (1 - p) 2^32 drops, the next smaller one keeps") {
  const std::vector<float> x(8, 1.0F);
  std::vector<float> y(8);
  std::vector<std::uint32_t> mask(1);
  for (std::int64_t e = 0; e < 8; ++e) {
    CAPTURE(e);
    const std::uint32_t word =
        reference::random_block(reference::Domain::dropout, e / 4, {true, 7, 8}).word[e % 4];
    for (const int above : {0, 1}) {
      const double probability = 1 - (word + static_cast<double>(above)) * 0x1p-32;  // exact
      actpack::dropout(x, y, mask, probability, Rounding::stochastic(7, 8));
      CHECK((mask[0] >> e & 1) == static_cast<std::uint32_t>(above));
    }
  }
}

TEST_CASE("dropout: probability zero keeps everything as it is") {
  const std::vector<float> x = support::gaussian(1000, 23);
  std::vector<float> y(1000);
  std::vector<std::uint32_t> mask(32);
  actpack::dropout(x, y, mask, 0.0, Rounding::stochastic(std::uint64_t{1}));
  CHECK(y == x);
  CHECK(mask == expected_mask(1000, [](std::int64_t) { return true; }));
}

// The share kept of n is a mean of n variables within [0, 1] of variance p (1 - p).
TEST_CASE("dropout: the share that is kept is the one asked for, and the mean stays") {
  constexpr std::size_t size = 1 << 20;
  const std::vector<float> x(size, 1.0F);
  std::vector<float> y(size);
  std::vector<std::uint32_t> mask(size / 32);
  for (const double probability : {0.01, 0.1, 0.5, 0.9}) {
    CAPTURE(probability);
    actpack::dropout(x, y, mask, probability, Rounding::stochastic(24, 0));
    std::int64_t kept = 0;
    double sum = 0;
    for (const std::uint32_t word : mask) kept += std::popcount(word);
    for (const float value : y) sum += static_cast<double>(value);
    const double radius = support::bernstein_radius(probability * (1 - probability), 1, size,
                                                    support::false_alarm / 4);
    CHECK(std::fabs(static_cast<double>(kept) / size - (1 - probability)) <= radius);
    // The scale is 1 / (1 - p) rounded to float.
    CHECK(std::fabs(sum / size - 1) <= radius / (1 - probability) * (1 + 0x1p-23) + 0x1p-23);
  }
}

// P(kept) is the threshold over 2^32, whatever p is: close to 1 it is 1 of 2^32 words.
TEST_CASE("dropout: the mean stays exactly, for probabilities up to the last below 1") {
  for (const double probability :
       {0.0, 0x1p-40, 0.1, 0.9, 1 - 1e-6, 1 - 1e-9, 1 - 0x1p-33, 1 - 1e-10, 1 - 0x1p-53}) {
    CAPTURE(probability);
    const actpack::detail::DropoutRule rule = actpack::detail::dropout_rule(probability);
    CHECK(static_cast<std::int64_t>(rule.threshold) == dropout_threshold(probability));
    CHECK(
        std::fabs(static_cast<double>(rule.threshold) * 0x1p-32 * static_cast<double>(rule.scale) -
                  1) <= 0x1p-24);
    std::vector<float> dx(32, 0.0F);
    const std::vector<std::uint32_t> all{0xFFFFFFFF};
    actpack::dropout_backward(std::vector<float>(32, 1.0F), all, dx, probability);
    CHECK(dx[0] == rule.scale);
  }
}

// Were the generator's calls the same, word 0 of call c would decide on element 4c of the mask and,
// by its upper half, on element 8 (c mod 16) + 2 of group ⌊c / 16⌋.
TEST_CASE("dropout: its mask tells nothing about the rounding with the same seed and offset") {
  constexpr std::size_t size = 1 << 18;
  std::vector<float> x(size, 0.5F);  // half a step between codes 0 and 1
  for (std::size_t e = 0; e < size; e += 256) x[e] = 0, x[e + 1] = 1;
  std::vector<float> y(size);
  std::vector<std::uint32_t> mask(size / 32);
  const Rounding rounding = Rounding::stochastic(31, 32);
  actpack::dropout(x, y, mask, 0.5, rounding);
  const actpack::Layout layout{.row_size = size, .bits = 1};
  actpack::PackedBuffer packed(layout);
  actpack::quantize(x, packed.view(), rounding);
  actpack::SignMagnitudeBuffer sides(layout);
  actpack::encode(x, sides.view(), rounding);
  std::vector<double> is_kept, is_up, is_magnitude_up;
  for (std::size_t call = 0; call < size / 16; ++call) {
    const auto element = static_cast<std::int64_t>(call / 16 * 256 + 8 * (call % 16) + 2);
    is_kept.push_back(bit(mask, 4 * call) ? 1 : 0);
    is_up.push_back(actpack::extract(packed.view().words, element, 1));
    is_magnitude_up.push_back(actpack::extract(sides.view().magnitude_words, element, 1));
  }
  const double radius =
      support::correlation_radius(static_cast<double>(is_up.size()), support::false_alarm / 3);
  CHECK(std::fabs(support::correlation(is_kept, is_up)) <= radius);
  CHECK(std::fabs(support::correlation(is_kept, is_magnitude_up)) <= radius);
  CHECK(std::fabs(support::correlation(is_up, is_magnitude_up)) <= radius);
}

TEST_CASE("dropout: pieces that say where they start reproduce the whole") {
  const std::vector<float> x = support::gaussian(1000, 25);
  const Rounding rounding = Rounding::stochastic(26, 27);
  std::vector<float> whole(1000);
  std::vector<std::uint32_t> whole_mask(32);
  actpack::dropout(x, whole, whole_mask, 0.4, rounding);
  constexpr std::array<std::array<std::int64_t, 2>, 5> pieces{
      {{0, 32}, {32, 64}, {96, 904}, {992, 8}, {992, 1}}};
  for (const std::array<std::int64_t, 2>& piece : pieces) {
    const std::int64_t first = piece[0];
    const std::int64_t size = piece[1];
    CAPTURE(first);
    GuardedBuffer<float> y(size);
    GuardedBuffer<std::uint32_t> mask(reference::words_for(size, 1));
    const auto start = static_cast<std::size_t>(first);
    const auto length = static_cast<std::size_t>(size);
    actpack::dropout(std::span<const float>(x).subspan(start, length), y.span(), mask.span(), 0.4,
                     rounding, first);
    support::check_same_values<float>(y.span(),
                                      std::span<const float>(whole).subspan(start, length));
    CHECK(mask.values() == expected_dropout(size, 0.4, {true, 26, 27}, first));
  }
  // Beyond 2^32 elements the call index needs its high half.
  const std::int64_t far = (std::int64_t{1} << 36) + 64;
  GuardedBuffer<float> y(std::int64_t{100});
  GuardedBuffer<std::uint32_t> mask(std::int64_t{4});
  actpack::dropout(std::span<const float>(x).first(100), y.span(), mask.span(), 0.4, rounding, far);
  CHECK(mask.values() == expected_dropout(100, 0.4, {true, 26, 27}, far));
}

TEST_CASE("masks: sizes that do not agree are refused before anything is written") {
  const std::vector<float> x(40, 1.0F);
  GuardedBuffer<float> y(std::int64_t{41});
  GuardedBuffer<std::uint32_t> mask(std::int64_t{3});
  const std::vector<std::uint32_t> given(2, ~std::uint32_t{0});
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(y.is_untouched());
    CHECK(mask.is_untouched());
  };
  const auto all = [](float) { return true; };
  const Rounding rounding = Rounding::stochastic(1, 1);
  for (const std::size_t words : std::initializer_list<std::size_t>{0, 1, 3}) {
    CAPTURE(words);
    const std::vector<std::string> texts{"mask", std::to_string(words), "2"};
    const std::vector<std::uint32_t> wrong(words, 0);
    refused([&] { actpack::make_mask(x, mask.span().first(words), all); }, texts);
    refused([&] { actpack::relu(x, y.span().first(40), mask.span().first(words)); }, texts);
    refused(
        [&] { actpack::dropout(x, y.span().first(40), mask.span().first(words), 0.5, rounding); },
        texts);
    refused([&] { actpack::relu_backward(x, wrong, y.span().first(40)); }, texts);
    refused([&] { actpack::dropout_backward(x, wrong, y.span().first(40), 0.5); }, texts);
  }
  for (const std::size_t size : std::initializer_list<std::size_t>{0, 39, 41}) {
    CAPTURE(size);
    const std::vector<std::string> forward{"y", std::to_string(size), "40"};
    const std::vector<std::string> backward{"dx", std::to_string(size), "40"};
    refused([&] { actpack::relu(x, y.span().first(size), mask.span().first(2)); }, forward);
    refused([&] { actpack::dropout(x, y.span().first(size), mask.span().first(2), 0.5, rounding); },
            forward);
    refused([&] { actpack::relu_backward(x, given, y.span().first(size)); }, backward);
    refused([&] { actpack::dropout_backward(x, given, y.span().first(size), 0.5); }, backward);
  }
}

TEST_CASE("dropout: probabilities, starts and roundings that make no sense are refused") {
  const std::vector<float> x(40, 1.0F);
  GuardedBuffer<float> y(std::int64_t{40});
  GuardedBuffer<std::uint32_t> mask(std::int64_t{2});
  const std::vector<std::uint32_t> given(2, 0);
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(y.is_untouched());
    CHECK(mask.is_untouched());
  };
  const Rounding rounding = Rounding::stochastic(1, 1);
  for (const double probability : {-0.1, 1.5, std::numeric_limits<double>::infinity(),
                                   std::numeric_limits<double>::quiet_NaN()}) {
    CAPTURE(probability);
    refused([&] { actpack::dropout(x, y.span(), mask.span(), probability, rounding); },
            {"drop_probability"});
    refused([&] { actpack::dropout_backward(x, given, y.span(), probability); },
            {"drop_probability"});
  }
  refused([&] { actpack::dropout(x, y.span(), mask.span(), 0.5, rounding, -32); },
          {"first", "-32"});
  refused([&] { actpack::dropout(x, y.span(), mask.span(), 0.5, rounding, 33); },
          {"first", "33", "32"});
  const std::int64_t end = actpack::Layout::max_numel;
  const auto size = static_cast<std::int64_t>(x.size());
  for (const std::int64_t first : {end - size / 32 * 32, end, INT64_MAX / 32 * 32}) {
    refused([&] { actpack::dropout(x, y.span(), mask.span(), 0.5, rounding, first); },
            {"first", std::to_string(first), std::to_string(end)});
  }
  refused([&] { actpack::dropout(x, y.span(), mask.span(), 0.5, Rounding::nearest()); },
          {"rounding"});
  const std::array<std::uint64_t, 2> seed_and_offset{1, 2};
  refused(
      [&] {
        actpack::dropout(x, y.span(), mask.span(), 0.5,
                         Rounding::stochastic(seed_and_offset.data()));
      },
      {"device"});
}

TEST_CASE("masks: vectors, arrays and spans need no type spelled") {
  std::array<float, 4> x{1, -1, 2, 0};
  std::vector<float> y(4);
  std::vector<std::uint32_t> mask(1);
  actpack::relu(x, y, mask);
  CHECK(mask[0] == 0x5);
  CHECK(y == std::vector<float>{1, 0, 2, 0});
  actpack::relu_backward(std::span(y), mask, x);
  CHECK(x == std::array<float, 4>{1, 0, 2, 0});
  actpack::make_mask(x, mask, [](float value) { return value < 1.5F; });
  CHECK(mask[0] == 0xB);
  actpack::relu(x, x, mask);
}
