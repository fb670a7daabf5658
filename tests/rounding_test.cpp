// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Proves, mostly by enumeration, that dithers are uniform, that pairs are harmless, and that means
// and products are exact.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include <actpack/rounding.hpp>

#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/reference.hpp"

namespace {

using actpack::NoiseDomain;
using actpack::Rounding;
using reference::Domain;

constexpr int step = 1 << 14;

constexpr std::array<std::pair<NoiseDomain, Domain>, 3> domains{
    {{NoiseDomain::values, Domain::values},
     {NoiseDomain::magnitudes, Domain::magnitudes},
     {NoiseDomain::dropout, Domain::dropout}}};

// The dithers of every half-word, found by asking until each of the 65536 has turned up: pair[r] =
// {even element, odd element}.
struct DitherTable {
  std::vector<std::array<int, 2>> pair = std::vector<std::array<int, 2>>(65536, {-1, -1});
  int seen = 0;
  int contradictions = 0;
};

const DitherTable& dither_table() {
  static const DitherTable table = [] {
    DitherTable result;
    constexpr int group_size = 256;
    const Rounding library = Rounding::stochastic(std::uint64_t{11}, 7);
    const reference::Rounding rounding{true, 11, 7};
    // Each half-word has missed its turn with probability exp(-groups * 128 / 65536): below 1e-6
    // for all of them together after 13000 groups; the bound only ends the loop if something is
    // wrong.
    for (std::int64_t group = 0; group < 40000 && result.seen < 65536; ++group) {
      for (int element = 0; element < group_size; element += 2) {
        const std::uint32_t bits =
            reference::half_word(rounding, Domain::values, group, group_size, element);
        const std::array<int, 2> got{
            static_cast<int>(actpack::dither(library, group, group_size, element)),
            static_cast<int>(actpack::dither(library, group, group_size, element + 1))};
        std::array<int, 2>& known = result.pair[bits];
        if (known[0] < 0) {
          known = got;
          ++result.seen;
        }
        result.contradictions += known != got ? 1 : 0;
      }
    }
    return result;
  }();
  return table;
}

// A literal 0 is a null pointer as well as a number.
template <class T>
constexpr bool takes_literal_zero = requires {
  T::stochastic(0);
};

}  // namespace

TEST_CASE("dither: a function of one half-word, seen for all 65536 of them") {
  CHECK(dither_table().seen == 65536);
  CHECK(dither_table().contradictions == 0);
}

TEST_CASE(
    "dither: even elements take the half-word, odd ones its swapped bytes, low byte inverted") {
  int different = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const std::array<int, 2> expected{reference::dither_of(bits, false),
                                      reference::dither_of(bits, true)};
    different += dither_table().pair[bits] != expected ? 1 : 0;
  }
  CHECK(different == 0);
}

TEST_CASE("dither: both elements of a pair are exactly uniform over all half-words") {
  for (const std::size_t odd : std::initializer_list<std::size_t>{0, 1}) {
    CAPTURE(odd);
    std::vector<int> times(step, 0);
    bool in_range = true;
    for (const auto& pair : dither_table().pair) {
      in_range = in_range && pair[odd] >= 0 && pair[odd] < step;
      if (in_range) ++times[static_cast<std::size_t>(pair[odd])];
    }
    REQUIRE(in_range);
    CHECK(std::all_of(times.begin(), times.end(), [](int count) { return count == 4; }));
  }
}

// Element 0 rounds up when its dither is at least its threshold a, element 1 when at least b; the
// thresholds are 2^14 less the fractions, so 1...2^14. For all 2^28 pairs of thresholds,
// covariance = joint / 2^16 - (2^14 - a)(2^14 - b) / 2^28 with joint the half-words where both do.
TEST_CASE("dither: the pair's round-ups covary by at most 0.001, and by nothing on average") {
  if (support::runs_slowly) return;  // it computes with a table that other tests read, too
  std::vector<std::vector<int>> partners(step);
  for (const auto& pair : dither_table().pair) {
    REQUIRE(std::min(pair[0], pair[1]) >= 0);
    partners[static_cast<std::size_t>(pair[0])].push_back(pair[1]);
  }
  std::vector<int> joint(step + 1, 0);  // by b, for the current a
  int largest = 0;
  std::int64_t sum = 0;
  for (int a = step; a >= 1; --a) {
    if (a < step) {
      for (const int partner : partners[static_cast<std::size_t>(a)]) {
        for (int b = 0; b <= partner; ++b) ++joint[static_cast<std::size_t>(b)];
      }
    }
    int row_largest = 0;
    std::int64_t row_sum = 0;
    for (int b = 1; b <= step; ++b) {
      const int scaled = joint[static_cast<std::size_t>(b)] * 4096 - (step - a) * (step - b);
      row_largest = std::max(row_largest, std::abs(scaled));
      row_sum += scaled;
    }
    largest = std::max(largest, row_largest);
    sum += row_sum;
  }
  CHECK(largest <= 0.001 * (1 << 28));
  CHECK(largest > 0);  // 16 bits cannot make two independent 14-bit numbers
  CHECK(sum == 0);
}

TEST_CASE("dither: every element of every group reads its own place of the Philox sequence") {
  support::Generator generator(3);
  for (const int group_size : {32, 64, 96, 128, 256, 512, 1024, 4096}) {
    CAPTURE(group_size);
    int different = 0;
    for (int trial = 0; trial < 40; ++trial) {
      const std::uint64_t seed = generator.bits() >> generator.below(64);
      const std::uint64_t offset = generator.bits() >> generator.below(64);
      const auto group = static_cast<std::int64_t>(generator.bits() >> (24 + generator.below(40)));
      const support::RoundingPair pair = support::stochastic(seed, offset);
      for (const auto& [library, expected] : domains) {
        for (int element = 0; element < group_size; ++element) {
          different += static_cast<int>(
                           actpack::dither(pair.library, group, group_size, element, library)) !=
                       reference::dither(pair.reference, expected, group, group_size, element);
        }
      }
    }
    CHECK(different == 0);
  }
}

TEST_CASE("NoiseDomain: verbs that are given one seed and offset share no generator call") {
  std::set<std::uint64_t> indices;
  std::size_t calls = 0;
  for (const auto& [domain, expected] : domains) {
    // The last call of the largest tensor that Layout::validate takes is number 2^56 - 1.
    for (const std::int64_t call :
         {INT64_C(0), INT64_C(1), INT64_C(0xFFFFFFFF), (INT64_C(1) << 56) - 1}) {
      indices.insert(actpack::detail::call_index(domain, call));
      ++calls;
    }
  }
  CHECK(indices.size() == calls);
}

TEST_CASE("dither: the offset defaults to zero, nearest rounding always adds half a step") {
  CHECK(actpack::dither(Rounding::stochastic(std::uint64_t{5}), 3, 64, 9) ==
        actpack::dither(Rounding::stochastic(std::uint64_t{5}, 0), 3, 64, 9));
  CHECK(actpack::half_step == step / 2);
  CHECK(actpack::fraction_bits == 14);
  for (int element = 0; element < 64; ++element) {
    CHECK(actpack::dither(Rounding::nearest(), 3, 64, element) == actpack::half_step);
  }
}

TEST_CASE("round_code: the mean over all dithers is the number itself, exactly") {
  // Every fraction within the first step and the last of 8 bits, some fractions within every step.
  int wrong = 0;
  for (int n = 0; n <= 255 * step; ++n) {
    const bool all_fractions = n < step || n >= 254 * step;
    if (!all_fractions && n % 1021 != 0 && n % step > 1 && n % step != step - 1) continue;
    std::int64_t sum = 0;
    for (int dither = 0; dither < step; ++dither) {
      sum += actpack::round_code(n, static_cast<std::uint32_t>(dither));
    }
    wrong += sum != n ? 1 : 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE(
    "round_code: grows with the number and with the dither, keeps whole steps, stays adjacent") {
  int wrong = 0;
  for (int n = 0; n <= 3 * step; n += n % step < 40 || n % step > step - 40 ? 1 : 37) {
    std::uint32_t previous = 0;
    for (int dither = 0; dither < step; ++dither) {
      const auto random = static_cast<std::uint32_t>(dither);
      const std::uint32_t code = actpack::round_code(n, random);
      const int floor = n / step;
      const bool adjacent = code == static_cast<std::uint32_t>(floor) ||
                            (n % step != 0 && code == static_cast<std::uint32_t>(floor + 1));
      const bool monotone = code >= previous && actpack::round_code(n + 1, random) >= code;
      wrong += adjacent && monotone ? 0 : 1;
      previous = code;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("round_code: half a step rounds to nearest, halves up") {
  CHECK(actpack::round_code(0, actpack::half_step) == 0);
  CHECK(actpack::round_code(step / 2 - 1, actpack::half_step) == 0);
  CHECK(actpack::round_code(step / 2, actpack::half_step) == 1);
  CHECK(actpack::round_code(255 * step, actpack::half_step) == 255);
}

TEST_CASE("floor_product: the floor of the exact product, for every product a code can need") {
  support::Generator generator(4);
  int wrong = 0;
  const auto compare = [&wrong](float d, float c) {
    const double product = static_cast<double>(d) * static_cast<double>(c);  // 48 bits: exact
    if (!(product >= 0 && product <= 255.0 * step)) return;
    const auto expected = static_cast<std::int32_t>(std::floor(product));
    const std::int32_t got = actpack::floor_product(d, c);
    if (got != expected && wrong++ == 0) {
      CAPTURE(static_cast<double>(d));
      CAPTURE(static_cast<double>(c));
      CHECK(got == expected);
    }
  };
  for (int trial = 0; trial < 2000000; ++trial) {
    // Any factor c = RN(2^14 / scale), any distance that lands between 0 and the largest code.
    const int exponent = static_cast<int>(generator.below(238)) - 112;
    const auto c = static_cast<float>(std::ldexp(1 + generator.uniform(), exponent));
    const double target = generator.below(2) == 0
                              ? 255.0 * step * generator.uniform()
                              : std::ldexp(1.0, static_cast<int>(generator.below(60)) - 38);
    compare(static_cast<float>(target / static_cast<double>(c)), c);
  }
  // Products that miss a whole number by as little as floats can: the nearest floats either side of
  // the quotient of a whole number.
  for (int trial = 0; trial < 500000; ++trial) {
    const auto c = static_cast<float>(std::ldexp(1 + generator.uniform(), 14));
    const double whole = 1 + generator.below(255 * step);
    const auto d = static_cast<float>(whole / static_cast<double>(c));
    for (const float near : {std::nextafter(d, 0.0F), d, std::nextafter(d, 1e9F)}) compare(near, c);
  }
  for (const float c : {0x1p126F, 0x1p-113F, 16384.0F, 0x1.FFFFFEp13F}) {
    compare(0.0F, c);
    compare(std::numeric_limits<float>::denorm_min(), c);
    compare(0x1p-126F, c);
  }
  CHECK(wrong == 0);
}

TEST_CASE("fma: rounds once, like the sum computed exactly") {
  support::Generator generator(5);
  int wrong = 0;
  const auto compare = [&wrong](float a, float b, float c) {
    const float expected = reference::fused_multiply_add(a, b, c);
    const float got = actpack::detail::fma(a, b, c);
    if (support::bits_of(got) != support::bits_of(expected) && wrong++ == 0) {
      CAPTURE(static_cast<double>(a));
      CAPTURE(static_cast<double>(b));
      CAPTURE(static_cast<double>(c));
      CHECK(static_cast<double>(got) == static_cast<double>(expected));
    }
  };
  const auto number = [&generator](int exponents) {
    const int exponent =
        static_cast<int>(generator.below(static_cast<std::uint32_t>(2 * exponents))) - exponents;
    const double sign = generator.below(2) == 0 ? 1 : -1;
    return static_cast<float>(sign * std::ldexp(1 + generator.uniform(), exponent));
  };
  for (int trial = 0; trial < 500000; ++trial) {
    const float a = number(12);
    const float b = number(12);
    compare(a, b, number(40));
    compare(number(120), number(7), number(127));
    compare(number(70), number(70), number(127));
    // Cancellation: c close to -a b, so that what is left is the product's own low half.
    const auto c = static_cast<float>(-static_cast<double>(a) * static_cast<double>(b));
    compare(a, b, c);
    compare(a, b, std::nextafter(c, 0.0F));
  }
  compare(1.0F, 0.0F, -0.0F);
  compare(-1.0F, 0.0F, -0.0F);
  compare(0x1p-100F, 0x1p-60F, 1.0F);
  compare(0x1p-100F, 0x1p-49F, 0.0F);
  CHECK(wrong == 0);
}

TEST_CASE("rounding: any seed can be written down, zero included") {
  CHECK(actpack::dither(Rounding::stochastic(std::uint64_t{0}), 0, 32, 0) < step);
  CHECK(actpack::dither(Rounding::stochastic(~std::uint64_t{0}, ~std::uint64_t{0}), 0, 32, 0) <
        step);
  CHECK(takes_literal_zero<Rounding>);
}

TEST_CASE("decoding: alpha outside [0, 1] is refused") {
  const Rounding rounding = Rounding::stochastic(std::uint64_t{1});
  for (const float alpha : {-0.001F, 1.001F, -1.0F, 2.0F, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    CAPTURE(static_cast<double>(alpha));
    support::check_refused([&] { (void)actpack::Decoding::subtractive(rounding, alpha); },
                           {"alpha"});
    support::check_refused(
        [&] { (void)actpack::Decoding::subtractive(Rounding::nearest(), alpha); }, {"alpha"});
  }
  CHECK_NOTHROW((void)actpack::Decoding::subtractive(rounding));
  CHECK_NOTHROW((void)actpack::Decoding::subtractive(rounding, 0.0F));
  CHECK_NOTHROW((void)actpack::Decoding::subtractive(rounding, 1.0F));
}
