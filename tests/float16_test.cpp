// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Pins the two 16-bit storage types: every pattern to float and back, every rounding boundary.
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <actpack/float16.hpp>

#include "support/data.hpp"
#include "support/reference.hpp"

namespace {

using actpack::bfloat16;
using actpack::float16;

template <class T>
constexpr reference::Format format_of() {
  return std::is_same_v<T, float16> ? reference::float16 : reference::bfloat16;
}

float next_up(float x) { return std::nextafter(x, std::numeric_limits<float>::infinity()); }
float next_down(float x) { return std::nextafter(x, -std::numeric_limits<float>::infinity()); }

// Every number of T, every midpoint of two neighbours, the one float either side of each of these,
// both signs, and floats at random.
template <class T>
std::vector<float> boundaries() {
  constexpr reference::Format format = format_of<T>();
  std::vector<float> floats;
  for (std::uint32_t bits = 0; bits <= format.largest(); ++bits) {
    const double lower = reference::magnitude_of(format, static_cast<std::uint16_t>(bits));
    const double upper = reference::magnitude_of(format, static_cast<std::uint16_t>(bits + 1));
    for (const double exact : {lower, (lower + upper) / 2}) {
      const auto value = static_cast<float>(exact);  // exact: T has far fewer digits than float
      for (const float near : {next_down(value), value, next_up(value)}) {
        floats.push_back(near);
        floats.push_back(-near);
      }
    }
  }
  support::Generator generator(2);
  for (int i = 0; i < 500000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(generator.bits()));
    if (std::isfinite(value)) floats.push_back(value);
  }
  for (const float value : {std::numeric_limits<float>::max(), 65504.0F, 65519.0F, 65520.0F,
                            65536.0F, std::numeric_limits<float>::denorm_min()}) {
    floats.push_back(value);
    floats.push_back(-value);
  }
  return floats;
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE_TEMPLATE("storage types: two bytes, trivially copyable", T, bfloat16, float16) {
  static_assert(sizeof(T) == 2);
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(std::is_trivially_default_constructible_v<T>);
  static_assert(std::is_standard_layout_v<T>);
  static_assert(!std::is_convertible_v<float, T>, "rounding must be asked for");
  static_assert(T::from_bits(0x1234).bits == 0x1234);
  static_assert(actpack::Element<T> && actpack::Element<float> && !actpack::Element<double>);
  CHECK(T::from_bits(0xFFFF).bits == 0xFFFF);
}

TEST_CASE_TEMPLATE("storage types: all 65536 patterns convert to float exactly", T, bfloat16,
                   float16) {
  int different = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float got = T::from_bits(pattern);
    const double expected = reference::value_of(format_of<T>(), pattern);
    const bool same = std::isnan(expected) ? std::isnan(got)
                                           : static_cast<double>(got) == expected &&
                                                 std::signbit(got) == ((pattern & 0x8000) != 0);
    different += same ? 0 : 1;
  }
  CHECK(different == 0);
}

TEST_CASE_TEMPLATE("storage types: all patterns survive the way to float and back", T, bfloat16,
                   float16) {
  int different = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const T back(static_cast<float>(T::from_bits(pattern)));
    const bool same = reference::is_nan(format_of<T>(), pattern)
                          ? reference::is_nan(format_of<T>(), back.bits)
                          : back.bits == pattern;
    different += same ? 0 : 1;
  }
  CHECK(different == 0);
}

TEST_CASE_TEMPLATE("storage types: floats round to nearest even, overflow to infinity", T, bfloat16,
                   float16) {
  int different = 0;
  for (const float value : boundaries<T>()) {
    if (!std::isfinite(value)) continue;
    const std::uint16_t expected =
        reference::round_nearest(format_of<T>(), static_cast<double>(value));
    if (T(value).bits != expected) {
      if (different == 0) {
        CAPTURE(static_cast<double>(value));
        CHECK(T(value).bits == expected);
      }
      ++different;
    }
  }
  CHECK(different == 0);
}

TEST_CASE_TEMPLATE("saturate_cast: as the constructor, but what is finite stays finite", T,
                   bfloat16, float16) {
  int different = 0;
  for (const float value : boundaries<T>()) {
    if (!std::isfinite(value)) continue;
    const std::uint16_t expected =
        reference::round_saturating(format_of<T>(), static_cast<double>(value));
    if (actpack::saturate_cast<T>(value).bits != expected) {
      if (different == 0) {
        CAPTURE(static_cast<double>(value));
        CHECK(actpack::saturate_cast<T>(value).bits == expected);
      }
      ++different;
    }
  }
  CHECK(different == 0);
  CHECK(actpack::saturate_cast<T>(std::numeric_limits<float>::max()).bits ==
        format_of<T>().largest());
  CHECK(actpack::saturate_cast<T>(-std::numeric_limits<float>::max()).bits ==
        (0x8000 | format_of<T>().largest()));
}

TEST_CASE_TEMPLATE("storage types: infinity stays, NaN stays and becomes quiet", T, bfloat16,
                   float16) {
  constexpr reference::Format format = format_of<T>();
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(T(infinity).bits == format.infinity());
  CHECK(T(-infinity).bits == (0x8000 | format.infinity()));
  // Payloads in the highest, a middle and the lowest bit, which truncation would lose.
  for (const std::uint32_t payload : {0x400000U, 0x000001U, 0x000100U, 0x3FFFFFU, 0x7FFFFFU}) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      CAPTURE(payload);
      const auto nan = std::bit_cast<float>(sign | 0x7F800000U | payload);
      CHECK(reference::is_nan(format, T(nan).bits));
      CHECK((T(nan).bits & format.quiet_nan()) == format.quiet_nan());
      CHECK(reference::is_nan(format, actpack::saturate_cast<T>(nan).bits));
    }
  }
}

TEST_CASE("saturate_cast: float stays what it is") {
  for (const float value : {0.0F, -0.0F, 0x1p-149F, -3.4e38F, 1.1F}) {
    CHECK(std::bit_cast<std::uint32_t>(actpack::saturate_cast<float>(value)) ==
          std::bit_cast<std::uint32_t>(value));
  }
  CHECK(std::isnan(actpack::saturate_cast<float>(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("round_down: the largest bfloat16 not above, at every boundary") {
  int different = 0;
  for (const float value : boundaries<bfloat16>()) {
    if (!std::isfinite(value)) continue;
    const bfloat16 got = actpack::round_down(value);
    const std::uint16_t expected =
        reference::round_down(reference::bfloat16, static_cast<double>(value));
    const bool same = value == 0 ? static_cast<float>(got) == 0 : got.bits == expected;
    if (!same && different == 0) {
      CAPTURE(static_cast<double>(value));
      CHECK(got.bits == expected);
    }
    different += same ? 0 : 1;
  }
  CHECK(different == 0);
}

TEST_CASE("round_down: the ends of the range") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(actpack::round_down(std::numeric_limits<float>::max()).bits == 0x7F7F);
  CHECK(actpack::round_down(-0x1.FEp127F).bits == 0xFF7F);
  CHECK(actpack::round_down(-std::numeric_limits<float>::max()).bits == 0xFF80);
  CHECK(actpack::round_down(-0x1p-149F).bits == 0x8001);
  CHECK(actpack::round_down(0x1p-149F).bits == 0x0000);
  CHECK(static_cast<float>(actpack::round_down(infinity)) == infinity);
  CHECK(static_cast<float>(actpack::round_down(-infinity)) == -infinity);
}
