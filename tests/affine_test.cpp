// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Proves that stored parameters cover their data and are the smallest that do, and that codes made
// against them have errors within a step and no bias beyond 2^-13 of one.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <actpack/affine.hpp>
#include <actpack/bit_pack.hpp>
#include <actpack/detail/affine.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/reference.hpp"

namespace {

using actpack::Decoder;
using actpack::Encoder;
using actpack::GroupParams;

constexpr int step = 1 << 14;
constexpr float float_max = std::numeric_limits<float>::max();
constexpr float bfloat16_max = 0x1.FEp127F;
constexpr float infinity = std::numeric_limits<float>::infinity();

reference::Params plain(GroupParams params) { return {params.scale.bits, params.min.bits}; }

GroupParams params_of(reference::Params params) {
  return {actpack::bfloat16::from_bits(params.scale), actpack::bfloat16::from_bits(params.min)};
}

double scale_of(GroupParams params) {
  return reference::value_of(reference::bfloat16, params.scale.bits);
}

double min_of(GroupParams params) {
  return reference::value_of(reference::bfloat16, params.min.bits);
}

// Half the distance from |value| to the next larger float: the most that rounding a result of this
// size to float can cost.
double half_unit(double value) {
  const auto size = std::fabs(static_cast<float>(value));
  if (size >= float_max) return std::ldexp(1.0, 103);
  return (static_cast<double>(std::nextafter(size, infinity)) - static_cast<double>(size)) / 2;
}

// Finite data of every kind, each in one small group per call of `test`.
template <class Test>
void for_each_finite_group(Test test) {
  constexpr std::size_t size = 24;
  for (const support::Data data : support::all_data) {
    if (data == support::Data::one_nan || data == support::Data::infinities) continue;
    const std::vector<float> x = support::make(data, size, 17);
    for (const int bits : support::all_widths) {
      const auto [min, max] = std::minmax_element(x.begin(), x.end());
      const GroupParams params = actpack::fit_params(*min, *max, bits);
      const char* const name = support::name_of(data);
      CAPTURE(name);
      CAPTURE(bits);
      if (!actpack::is_poisoned(params)) test(x, params, bits);
    }
  }
}

}  // namespace

TEST_CASE("fit_params: an empty range has the scale +0, whatever the signs of its zeros") {
  for (const int bits : support::all_widths) {
    for (const float min : {0.0F, -0.0F}) {
      for (const float max : {0.0F, -0.0F}) {
        CHECK(actpack::fit_params(min, max, bits).scale.bits == 0);
        CHECK(actpack::fit_params(min, max, bits).min.bits == 0);
      }
    }
  }
}

TEST_CASE("GroupParams: four bytes") {
  static_assert(sizeof(GroupParams) == 4);
  static_assert(std::is_trivially_copyable_v<GroupParams>);
  CHECK(plain(actpack::poisoned_params) == reference::Params{0x7FC0, 0x7FC0});
  CHECK(actpack::is_poisoned(actpack::poisoned_params));
  CHECK_FALSE(actpack::is_poisoned(params_of({0, 0})));
  CHECK_FALSE(actpack::is_poisoned(params_of({0x7F7F, 0xFF7F})));
}

// Every scale is the exact answer for one range: max_code * scale, which is a float.
// One unit more of the float must take the next scale up, one unit less must not take the next
// down.
TEST_CASE("fit_params: every scale covers its own range, and one unit more takes the next") {
  const std::uint16_t least = reference::round_down(reference::bfloat16, std::ldexp(1.0, -111));
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    int wrong = 0;
    int scales = 0;
    for (std::uint16_t scale = least; scale <= reference::bfloat16.largest(); ++scale) {
      const double reach =
          reference::max_code(bits) * reference::magnitude_of(reference::bfloat16, scale);
      if (reach >= static_cast<double>(float_max)) break;
      const auto max = static_cast<float>(reach);
      const auto next = static_cast<std::uint16_t>(scale + 1);
      const reference::Params more = next == reference::bfloat16.infinity()
                                         ? reference::Params{reference::poison, reference::poison}
                                         : reference::Params{next, 0};
      const bool right = plain(actpack::fit_params(0, max, bits)) == reference::Params{scale, 0} &&
                         plain(actpack::fit_params(0, std::nextafter(max, 0.0F), bits)) ==
                             reference::Params{scale, 0} &&
                         plain(actpack::fit_params(0, std::nextafter(max, infinity), bits)) == more;
      if (!right && wrong++ == 0) {
        CAPTURE(scale);
        CAPTURE(reach);
        CHECK(right);
      }
      ++scales;
    }
    CHECK(wrong == 0);
    // 111 + 128 exponents of 128 mantissas, less those beyond the largest float.
    CHECK(scales >= (111 + 120) * 128 - 1);
  }
}

TEST_CASE("fit_params: the stored range covers, and no smaller scale would, wherever it lies") {
  support::Generator generator(6);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    int uncovered = 0;
    int wasteful = 0;
    int different = 0;
    for (int trial = 0; trial < 300000; ++trial) {
      // A min and a max of unrelated size, or a range that is small against both.
      const auto any = [&generator](int lowest, int highest) {
        const int exponent =
            lowest +
            static_cast<int>(generator.below(static_cast<std::uint32_t>(highest - lowest)));
        return static_cast<float>((generator.below(2) == 0 ? 1 : -1) *
                                  std::ldexp(1 + generator.uniform(), exponent));
      };
      float min = any(-150, 126);
      float max = any(-150, 126);
      switch (generator.below(4)) {
        case 0: max = min + std::fabs(min) * static_cast<float>(generator.uniform()); break;
        case 1:
          max = min + std::fabs(min) * 0x1p-20F * static_cast<float>(generator.below(64));
          break;
        case 2:  // min one float beside a bfloat16, the range a multiple of a bfloat16
          min = static_cast<float>(actpack::round_down(min));
          max = min + static_cast<float>(reference::max_code(bits)) *
                          static_cast<float>(actpack::round_down(std::fabs(any(-20, 20) * min)));
          min = std::nextafter(min, generator.below(2) == 0 ? infinity : -infinity);
          break;
        default: break;
      }
      if (min > max) std::swap(min, max);
      if (!std::isfinite(min) || !std::isfinite(max)) continue;
      const GroupParams params = actpack::fit_params(min, max, bits);
      different += plain(params) != reference::fit(min, max, bits) ? 1 : 0;
      if (actpack::is_poisoned(params)) continue;
      const double stored_min = min_of(params);
      if (stored_min > static_cast<double>(min) ||
          !reference::covers(scale_of(params), stored_min, max, bits)) {
        ++uncovered;
      }
      if (params.scale.bits != 0) {
        const double smaller = reference::value_of(
            reference::bfloat16, static_cast<std::uint16_t>(params.scale.bits - 1));
        const bool least = scale_of(params) == std::ldexp(1.0, -111);
        wasteful += !least && reference::covers(smaller, stored_min, max, bits) ? 1 : 0;
      }
    }
    CHECK(uncovered == 0);
    CHECK(wasteful == 0);
    CHECK(different == 0);
  }
}

TEST_CASE("fit_params: a range of zero has scale zero only where min is a bfloat16") {
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    for (const float value :
         {0.0F, 1.0F, -1.5F, bfloat16_max, -bfloat16_max, 0x1p-133F, -0x1p-133F}) {
      CAPTURE(static_cast<double>(value));
      const GroupParams params = actpack::fit_params(value, value, bits);
      CHECK(params.scale.bits == 0);
      CHECK(static_cast<float>(params.min) == value);
    }
    for (const float value : {0.1F, -0.1F, 100.3F, float_max, 0x1p-149F, -0x1p-149F}) {
      CAPTURE(static_cast<double>(value));
      const GroupParams params = actpack::fit_params(value, value, bits);
      CHECK(plain(params) == reference::fit(value, value, bits));
      CHECK(scale_of(params) >= std::ldexp(1.0, -111));
    }
  }
}

TEST_CASE("fit_params: min is never minus zero") {
  for (const int bits : support::all_widths) {
    CHECK(plain(actpack::fit_params(-0.0F, -0.0F, bits)) == reference::Params{0, 0});
    CHECK(plain(actpack::fit_params(-0.0F, 0.0F, bits)) == reference::Params{0, 0});
    CHECK(actpack::fit_params(-0.0F, 1.0F, bits).min.bits == 0);
  }
}

TEST_CASE("fit_params: no scale lies between 0 and 2^-111") {
  const std::uint16_t least = reference::round_down(reference::bfloat16, std::ldexp(1.0, -111));
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    const auto codes = static_cast<float>(reference::max_code(bits));
    for (const float max :
         {0x1p-149F, 0x1p-133F, 0x1p-126F, 0x1.8p-120F, 0x1p-111F, codes * 0x1p-111F}) {
      CAPTURE(static_cast<double>(max));
      CHECK(plain(actpack::fit_params(0, max, bits)) == reference::Params{least, 0});
      CHECK(plain(actpack::fit_params(-0x1p-133F, max / 2, bits)) ==
            reference::Params{least, 0x8001});
    }
    CHECK(plain(actpack::fit_params(0, std::nextafter(codes * 0x1p-111F, 1.0F), bits)) ==
          reference::Params{static_cast<std::uint16_t>(least + 1), 0});
    // 1 - 2^-24 is no bfloat16, its min is 2^-8 below 1, so that the scale is far from the limit.
    CHECK(scale_of(actpack::fit_params(0x1.FFFFFEp-1F, 0x1.FFFFFEp-1F, bits)) > 0x1p-17);
  }
}

TEST_CASE("fit_params: poisons exactly the ranges that no finite parameters cover") {
  const float above = std::nextafter(bfloat16_max, infinity);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    CHECK(actpack::is_poisoned(actpack::fit_params(-above, 0, bits)));
    CHECK(actpack::is_poisoned(actpack::fit_params(-float_max, -float_max, bits)));
    CHECK(actpack::is_poisoned(actpack::fit_params(-float_max, float_max, bits)));
    CHECK_FALSE(actpack::is_poisoned(actpack::fit_params(-bfloat16_max, 0, bits)));
    CHECK_FALSE(actpack::is_poisoned(actpack::fit_params(0, bfloat16_max, bits)));
    CHECK_FALSE(actpack::is_poisoned(actpack::fit_params(float_max, float_max, bits)));
    CHECK(actpack::is_poisoned(actpack::fit_params(0, above, bits)) == (bits == 1));
    CHECK(actpack::is_poisoned(actpack::fit_params(-3e38F, 3e38F, bits)) == (bits == 1));
    CHECK(actpack::is_poisoned(actpack::fit_params(-bfloat16_max, float_max, bits)) == (bits == 1));
    CHECK(actpack::is_poisoned(actpack::fit_params(-1.7e38F, 1.7e38F, bits)) == (bits == 1));
    CHECK_FALSE(actpack::is_poisoned(actpack::fit_params(-1.69e38F, 1.69e38F, bits)));
  }
  CHECK(plain(actpack::fit_params(-float_max, 0, 2)) == reference::Params{0x7FC0, 0x7FC0});
  for (const std::uint32_t bits : {0x7F800000U, 0xFF800000U, 0x7FC00000U, 0xFFC00000U, 0x7F800001U,
                                   0xFF800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    const auto bad = std::bit_cast<float>(bits);
    CAPTURE(bits);
    for (const int width : support::all_widths) {
      if (bits != 0x7F800000U) CHECK(actpack::is_poisoned(actpack::fit_params(bad, 1.0F, width)));
      if (bits != 0xFF800000U) CHECK(actpack::is_poisoned(actpack::fit_params(-1.0F, bad, width)));
      CHECK(actpack::is_poisoned(actpack::fit_params(bad, bad, width)));
    }
  }
  CHECK(plain(actpack::fit_params(0, above, 1)) == reference::Params{0x7FC0, 0x7FC0});
}

// At the top of 8 bits the product is near 2^22, so that one unit in the last place of either
// factor moves the floor for a quarter of the values: 64 values miss it with probability 1e-8 a
// scale.
TEST_CASE("Encoder: the floor of exactly rounded factors, for every mantissa of the scale") {
  support::Generator generator(7);
  int different = 0;
  for (const int exponent : {-112, -111, -80, -30, -8, -1, 0, 1, 14, 60, 110, 118, 119}) {
    for (int mantissa = 128; mantissa < 256; ++mantissa) {
      const auto scale = static_cast<float>(std::ldexp(mantissa, exponent - 7));
      for (const float min : {0.0F, -0x1p-20F, 1.0F, -64.0F * scale, 100.0F}) {
        const GroupParams params{actpack::bfloat16(scale), actpack::round_down(min)};
        const Encoder encoder(params);
        for (int trial = 0; trial < 64; ++trial) {
          const double top = 255 * static_cast<double>(scale);
          const double inside =
              (trial % 2 == 0 ? 0.95 + 0.05 * generator.uniform() : generator.uniform()) * top;
          const double stored_min = min_of(params);
          const auto x = static_cast<float>(stored_min + inside);
          if (static_cast<double>(x) < stored_min || static_cast<double>(x) > stored_min + top)
            continue;
          if (encoder(x) != reference::steps(x, plain(params)) && different++ == 0) {
            CAPTURE(static_cast<double>(scale));
            CAPTURE(stored_min);
            CAPTURE(static_cast<double>(x));
            CHECK(encoder(x) == reference::steps(x, plain(params)));
          }
        }
      }
    }
  }
  CHECK(different == 0);
}

TEST_CASE("Encoder: ranges beyond the largest float are encoded as any other") {
  support::Generator generator(8);
  for (const int bits : {2, 4, 8}) {
    CAPTURE(bits);
    int different = 0;
    for (int trial = 0; trial < 20000; ++trial) {
      float min = -bfloat16_max * static_cast<float>(generator.uniform());
      float max = float_max * static_cast<float>(generator.uniform());
      if (trial % 16 == 0) min = -bfloat16_max;
      if (trial % 16 < 2) max = float_max;
      const GroupParams params = actpack::fit_params(min, max, bits);
      const Encoder encoder(params);
      for (const double part : {0.0, 1.0, generator.uniform(), generator.uniform()}) {
        const auto x = std::clamp(static_cast<float>(static_cast<double>(min) * (1 - part) +
                                                     static_cast<double>(max) * part),
                                  min, max);
        different += encoder(x) != reference::steps(x, plain(params)) ? 1 : 0;
      }
      different += encoder(0.0F) != reference::steps(0.0, plain(params)) ? 1 : 0;
    }
    CHECK(different == 0);
  }
}

TEST_CASE("encode: no code exceeds the largest, whatever the dither") {
  for_each_finite_group([](const std::vector<float>& x, GroupParams params, int bits) {
    const Encoder encoder(params);
    for (const float value : x) {
      const std::int32_t n = encoder(value);
      CHECK(n >= 0);
      CHECK(n <= reference::max_code(bits) * step);
      CHECK(actpack::code_of(value, encoder, step - 1) <= actpack::max_code(bits));
    }
  });
}

TEST_CASE("encode: a constant group has code zero for every dither") {
  const Encoder encoder(params_of({0, 0x3FC0}));
  for (const std::uint32_t dither : {0U, 8192U, 16383U}) {
    CHECK(actpack::code_of(1.5F, encoder, dither) == 0);
  }
}

TEST_CASE("decode: min + code * scale rounded once, for every code") {
  support::Generator generator(9);
  int different = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    // Any finite parameters that a group can have, the largest included.
    const auto least = reference::round_down(reference::bfloat16, std::ldexp(1.0, -111));
    const auto scale = static_cast<std::uint16_t>(
        trial % 8 == 0 ? 0x7F7F - generator.below(1024) : least + generator.below(0x7F80U - least));
    auto min = static_cast<std::uint16_t>(generator.below(0x7F80) | generator.below(2) << 15);
    if (trial % 8 == 0) min = static_cast<std::uint16_t>(0xFF7F - generator.below(1024));
    if (trial % 8 == 1) min = static_cast<std::uint16_t>(std::min(0x7F7F, scale + 1024) | 0x8000);
    if (min == 0x8000) min = 0;
    const reference::Params params{scale, min};
    const Decoder decoder(params_of(params));
    for (int code = 0; code < 256; ++code) {
      const float expected = reference::decode(code, params);
      const auto stored_code = static_cast<std::uint32_t>(code);
      const bool same = support::bits_of(actpack::value_of(stored_code, params_of(params))) ==
                            support::bits_of(expected) &&
                        support::bits_of(decoder(stored_code)) == support::bits_of(expected);
      if (!same && different++ == 0) {
        CAPTURE(code);
        CAPTURE(scale);
        CAPTURE(min);
        CHECK(same);
      }
    }
  }
  CHECK(different == 0);
}

TEST_CASE("decode: beyond the largest float the value saturates, poisoned parameters give NaN") {
  const GroupParams high = params_of({0x7F7F, 0x7F7F});
  CHECK(actpack::value_of(0, high) == bfloat16_max);
  CHECK(actpack::value_of(1, high) == float_max);
  CHECK(actpack::value_of(255, high) == float_max);
  // -bf16_max + 2 bf16_max: the product alone is no float.
  CHECK(actpack::value_of(2, params_of({0x7F7F, 0xFF7F})) == bfloat16_max);
  CHECK(actpack::value_of(3, params_of({0x7F7F, 0xFF7F})) == float_max);
  // A large min is enough: the range itself is small against the largest float.
  CHECK(actpack::value_of(255, params_of({0x7B80, 0x7F7F})) == float_max);  // 255 * 2^120
  CHECK(actpack::value_of(255, params_of({0x7980, 0x7F7F})) == float_max);  // 255 * 2^116
  CHECK(actpack::value_of(15, params_of({0x7980, 0x7F7F})) == 0x1.FFEp127F);
  const Decoder subtractive(high);
  CHECK(subtractive(255, 0) == float_max);
  CHECK(Decoder(params_of({0x7980, 0x7F7F}))(255, 0) == float_max);
  // w = -(2^14 - 1): half a step below the largest negative min.
  CHECK(Decoder(params_of({0x7F7F, 0xFF7F}))(0, 16383) == -float_max);
  for (const std::uint32_t code : {0U, 1U, 255U}) {
    CHECK(std::isnan(actpack::value_of(code, actpack::poisoned_params)));
    CHECK(std::isnan(Decoder(actpack::poisoned_params)(code)));
    CHECK(std::isnan(Decoder(actpack::poisoned_params)(code, 3)));
  }
}

TEST_CASE("Decoder: the dither's share is removed as the reference removes it, for every alpha") {
  support::Generator generator(10);
  int different = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto least = reference::round_down(reference::bfloat16, std::ldexp(1.0, -111));
    const auto scale = static_cast<std::uint16_t>(least + generator.below(0x7F80U - least));
    const auto min = static_cast<std::uint16_t>(generator.below(0x7F80) | generator.below(2) << 15);
    const reference::Params params{scale, min == 0x8000 ? std::uint16_t{0} : min};
    const float alpha =
        std::array{1.0F,           0.0F,    0.5F, 0.1F, static_cast<float>(generator.uniform()),
                   0x1.FFFFFEp-1F, 0x1p-30F}[static_cast<std::size_t>(trial % 7)];
    const Decoder decoder(params_of(params), alpha);
    for (int code = 0; code < 256; code += 1 + static_cast<int>(generator.below(20))) {
      const std::uint32_t random = generator.below(step);
      const float expected =
          reference::decode_subtractive(code, params, static_cast<int>(random), alpha);
      const float got = decoder(static_cast<std::uint32_t>(code), random);
      if (support::bits_of(got) != support::bits_of(expected) && different++ == 0) {
        CAPTURE(code);
        CAPTURE(scale);
        CAPTURE(min);
        CAPTURE(random);
        CAPTURE(static_cast<double>(alpha));
        CHECK(static_cast<double>(got) == static_cast<double>(expected));
      }
    }
  }
  CHECK(different == 0);
}

TEST_CASE("Decoder: with alpha zero the subtractive form is the plain one") {
  support::Generator generator(11);
  int different = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto scale = static_cast<std::uint16_t>(0x3000 + generator.below(0x2000));
    const auto min = static_cast<std::uint16_t>(0x3000 + generator.below(0x2000));
    const Decoder decoder(params_of({scale, min}), 0.0F);
    const std::uint32_t code = generator.below(256);
    different += decoder(code, generator.below(step)) != decoder(code) ? 1 : 0;
  }
  CHECK(different == 0);
}

// n is the floor of d c, d = (x - min)(1 + e), c = 2^14 / scale (1 + e'), |e|, |e'| <= 2^-24, and
// (x - min) / scale <= 255: n 2^-14 lies within (-2^-14 - 2^-15, 2^-15] steps of (x - min) / scale.
// The mean of the codes over all dithers is n 2^-14; decoding to float adds half a unit at most.
TEST_CASE("unbiased: the mean over all 2^14 dithers is within 2^-13 step and half a unit of x") {
  for_each_finite_group([](const std::vector<float>& x, GroupParams params, int) {
    const Encoder encoder(params);
    const double scale = scale_of(params);
    for (const float value : x) {
      const std::uint32_t lowest = actpack::code_of(value, encoder, 0);
      std::int64_t raised = 0;
      std::int64_t outside = 0;
      for (std::uint32_t dither = 0; dither < step; ++dither) {
        const std::uint32_t above = actpack::code_of(value, encoder, dither) - lowest;
        raised += above == 1 ? 1 : 0;
        outside += above > 1 ? 1 : 0;
      }
      REQUIRE(outside == 0);
      const double share = static_cast<double>(raised) / step;
      const double low = static_cast<double>(actpack::value_of(lowest, params));
      const double high =
          raised == 0 ? low : static_cast<double>(actpack::value_of(lowest + 1, params));
      const double mean = low + (high - low) * share;
      // A saturated level is a rounding of more than half a unit, but then x is far below it.
      if (std::max(std::fabs(low), std::fabs(high)) >= static_cast<double>(float_max)) continue;
      const double allowed =
          std::ldexp(scale, -13) + half_unit(std::max(std::fabs(low), std::fabs(high)));
      CHECK(std::fabs(mean - static_cast<double>(value)) <= allowed);
    }
  });
}

// By the same bounds a code is less than 1 + 2^-13 steps from (x - min) / scale, and with half a
// step for a dither less than 1/2 + 2^-13.
TEST_CASE("encode: x comes back within one step, and within half a step when rounded to nearest") {
  for_each_finite_group([](const std::vector<float>& x, GroupParams params, int) {
    const Encoder encoder(params);
    const double scale = scale_of(params);
    for (const float value : x) {
      for (std::uint32_t dither = 0; dither < step; dither += dither % 512 == 511 ? 1 : 73) {
        const auto decoded = static_cast<double>(
            actpack::value_of(actpack::code_of(value, encoder, dither), params));
        const double error = std::fabs(decoded - static_cast<double>(value));
        CHECK(error <= scale * (1 + 0x1p-13) + half_unit(decoded));
      }
      const auto nearest = static_cast<double>(
          actpack::value_of(actpack::code_of(value, encoder, actpack::half_step), params));
      CHECK(std::fabs(nearest - static_cast<double>(value)) <=
            scale * (0.5 + 0x1p-13) + half_unit(nearest));
    }
  });
}

// A level above min is met exactly by rounding to nearest; at random, n may be one 2^-14 step short
// where 2^14 / scale was rounded down, so that the smallest dither alone may give the code below.
TEST_CASE("encode: min, the levels and the end of the range decode to themselves") {
  support::Generator generator(12);
  int wrong = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const auto scale = static_cast<std::uint16_t>(0x3F00 + generator.below(256));
    const GroupParams params{actpack::bfloat16::from_bits(scale),
                             actpack::bfloat16(static_cast<float>(generator.below(64)) - 32.0F)};
    const Encoder encoder(params);
    for (std::uint32_t code = 0; code < 256; ++code) {
      const double level = min_of(params) + code * scale_of(params);
      const auto x = static_cast<float>(level);
      REQUIRE(static_cast<double>(x) == level);
      wrong += actpack::code_of(x, encoder, actpack::half_step) != code ? 1 : 0;
      wrong += actpack::code_of(x, encoder, 1 + generator.below(step - 1)) != code ? 1 : 0;
      wrong += actpack::code_of(x, encoder, step - 1) != code ? 1 : 0;
      wrong += actpack::value_of(code, params) != x ? 1 : 0;
      if (code == 0 || scale % 128 == 0) {  // min itself; powers of two, whose inverse is exact
        wrong += actpack::code_of(x, encoder, 0) != code ? 1 : 0;
      }
    }
  }
  CHECK(wrong == 0);
}

// With t = (n + R) mod 2^14 the decoded position is n 2^-14 + (2^13 - t - 1/2) 2^-14 steps:
// t takes each of its 2^14 values once, so the error is uniform in +-(1/2 - 2^-15) around n 2^-14.
// With n 2^-14 within (-2^-14 - 2^-15, 2^-15] of x this is +-(1/2 + 2^-14) steps of x.
TEST_CASE("subtractive: the error never exceeds half a step, wherever x lies") {
  for_each_finite_group([](const std::vector<float>& x, GroupParams params, int) {
    const Encoder encoder(params);
    const Decoder decoder(params);
    const double scale = scale_of(params);
    double worst = 0;
    for (const float value : x) {
      for (std::uint32_t dither = 0; dither < step; dither += 1 + dither % 3) {
        const auto decoded =
            static_cast<double>(decoder(actpack::code_of(value, encoder, dither), dither));
        if (std::fabs(decoded) >= static_cast<double>(float_max)) continue;
        const double error = std::fabs(decoded - static_cast<double>(value)) - half_unit(decoded);
        worst = std::max(worst, scale == 0 ? error : error / scale);
      }
    }
    CHECK(worst <= 0.5 + 0x1p-14);
  });
}

// Var(code - alpha R) = f (1 - f) (1 - alpha) + alpha^2 / 12 steps^2 with f the fraction of n, less
// alpha^2 2^-28 / 12 for the discrete dither. Rounding to float moves a value of at most 255 steps
// by at most 2^-17 steps, the variance by at most 2 * 0.51 * 2^-17 < 1e-5 (deviations are below
// 0.51 steps), and the position's rounding by no more.
TEST_CASE("subtractive: unbiased for every alpha, and of the variance that theory gives") {
  const GroupParams params = params_of({0x3F9D, 0});  // 157 / 128
  const Encoder encoder(params);
  const double scale = scale_of(params);
  for (const float alpha : {0.0F, 0.25F, 0.5F, 0.7F, 1.0F}) {
    const Decoder decoder(params, alpha);
    for (const double position : {0.0, 0.001, 0.25, 0.5, 1.75, 2.999, 100.3, 254.5}) {
      CAPTURE(static_cast<double>(alpha));
      CAPTURE(position);
      const auto x = static_cast<float>(position * scale);
      double sum = 0;
      double squares = 0;
      for (std::uint32_t dither = 0; dither < step; ++dither) {
        const auto decoded =
            static_cast<double>(decoder(actpack::code_of(x, encoder, dither), dither));
        const double error = (decoded - static_cast<double>(x)) / scale;
        sum += error;
        squares += error * error;
      }
      const double mean = sum / step;
      const double fraction = static_cast<double>(encoder(x) % step) / step;
      const double share = static_cast<double>(alpha);
      const double expected = fraction * (1 - fraction) * (1 - share) + share * share / 12;
      CHECK(std::fabs(mean) <= 0x1p-13);
      CHECK(std::fabs(squares / step - mean * mean - expected) <= 2e-5);
    }
  }
}

TEST_CASE("steps: one Newton step from any nearby start gives the correctly rounded inverse") {
  // Every possible scale: 128 mantissas at every exponent from 2^-111 to 2^126. Devices start
  // within one unit in the last place (PTX ISA, rcp.approx.ftz.f32); two are tried.
  std::int64_t wrong = 0;
  for (std::uint32_t bits = (127 - 111) << 7; bits < (127 + 127) << 7; ++bits) {
    const float scale = actpack::bfloat16::from_bits(static_cast<std::uint16_t>(bits));
    const float steps = 0x1p14F / scale;
    for (std::uint32_t start = support::bits_of(steps) - 2; start <= support::bits_of(steps) + 2;
         ++start) {
      wrong += actpack::detail::refine_steps(actpack::detail::float_of(start), scale) != steps;
    }
  }
  CHECK(wrong == 0);
}
