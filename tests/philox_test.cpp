// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Pins the random bits: published vectors, and the reference's Philox over all four counter words.
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <set>

#include <actpack/philox.hpp>

#include "support/data.hpp"
#include "support/reference.hpp"

namespace {

using actpack::philox4x32;
using actpack::RandomWords;

constexpr std::uint64_t join(std::uint32_t low, std::uint32_t high) {
  return std::uint64_t{high} << 32 | low;
}

constexpr bool equal(const RandomWords& words, const std::array<std::uint32_t, 4>& expected) {
  for (int i = 0; i < 4; ++i) {
    if (words.word[i] != expected[static_cast<std::size_t>(i)]) return false;
  }
  return true;
}

constexpr std::uint64_t ones = ~std::uint64_t{0};
constexpr std::uint64_t pi_index = join(0x243f6a88, 0x85a308d3);
constexpr std::uint64_t pi_offset = join(0x13198a2e, 0x03707344);
constexpr std::uint64_t pi_seed = join(0xa4093822, 0x299f31d0);

}  // namespace

TEST_CASE("philox4x32: seven rounds give the vectors of Random123") {
  CHECK(equal(philox4x32<7>(0, 0, 0), {0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}));
  CHECK(equal(philox4x32<7>(ones, ones, ones), {0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}));
  CHECK(equal(philox4x32<7>(pi_index, pi_offset, pi_seed),
              {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
}

TEST_CASE("philox4x32: ten rounds give the vectors of Random123") {
  CHECK(equal(philox4x32<10>(0, 0, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK(equal(philox4x32<10>(ones, ones, ones), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(equal(philox4x32<10>(pi_index, pi_offset, pi_seed),
              {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_CASE("philox4x32: the reference gives the vectors too") {
  const reference::Block seven = reference::philox4x32(
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0, 7);
  const reference::Block ten = reference::philox4x32(
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0, 10);
  CHECK(equal(std::bit_cast<RandomWords>(seven), {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
  CHECK(equal(std::bit_cast<RandomWords>(ten), {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_CASE("philox4x32: seven rounds are the default, and constants of the language") {
  constexpr RandomWords words = philox4x32(pi_index, pi_offset, pi_seed);
  static_assert(equal(words, {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
  CHECK(words.word[0] == 0x4dfccaba);
}

TEST_CASE("philox4x32: index, offset and seed are 64 bits each, as the reference places them") {
  support::Generator generator(1);
  int different = 0;
  for (int trial = 0; trial < 10000; ++trial) {
    // Sparse values as well as dense ones, so a lost half is sure to show.
    const std::uint64_t index = generator.bits() >> generator.below(64);
    const std::uint64_t offset = generator.bits() << generator.below(64);
    const std::uint64_t seed = generator.bits() >> generator.below(64);
    const reference::Block expected = reference::random_block(index, offset, seed);
    const RandomWords got = philox4x32(index, offset, seed);
    for (int i = 0; i < 4; ++i) different += got.word[i] != expected.word[i] ? 1 : 0;
  }
  CHECK(different == 0);
}

TEST_CASE("philox4x32: one changed bit of any argument changes the words") {
  std::set<std::uint64_t> seen;
  const auto first_two = [](const RandomWords& words) {
    return join(words.word[0], words.word[1]);
  };
  seen.insert(first_two(philox4x32(0, 0, 0)));
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t flipped = std::uint64_t{1} << bit;
    seen.insert(first_two(philox4x32(flipped, 0, 0)));
    seen.insert(first_two(philox4x32(0, flipped, 0)));
    seen.insert(first_two(philox4x32(0, 0, flipped)));
  }
  CHECK(seen.size() == 1 + 3 * 64);
}
