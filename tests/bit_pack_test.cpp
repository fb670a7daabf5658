// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Pins where codes lie in words: golden bytes, the inverse on every code and position, every
// refusal.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <actpack/bit_pack.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/reference.hpp"

namespace {

using support::GuardedBuffer;

std::vector<std::uint8_t> random_codes(std::int64_t size, int bits, std::uint64_t seed) {
  support::Generator generator(seed);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(size));
  for (auto& code : codes) code = static_cast<std::uint8_t>(generator.below(1U << bits));
  return codes;
}

std::vector<std::uint32_t> reference_words(const std::vector<std::uint8_t>& codes, int bits) {
  const auto size = static_cast<std::int64_t>(codes.size());
  std::vector<std::uint32_t> words(static_cast<std::size_t>(reference::words_for(size, bits)), 0);
  for (std::int64_t e = 0; e < size; ++e) {
    reference::store_code(words, 0, e, bits, codes[static_cast<std::size_t>(e)]);
  }
  return words;
}

}  // namespace

TEST_CASE("widths: 1, 2, 4 and 8 bits are all there are") {
  static_assert(actpack::is_width(1) && actpack::is_width(2) && actpack::is_width(4));
  static_assert(actpack::is_width(8));
  for (int bits = -9; bits <= 70; ++bits) {
    CAPTURE(bits);
    CHECK(actpack::is_width(bits) == (bits == 1 || bits == 2 || bits == 4 || bits == 8));
  }
  static_assert(actpack::max_code(1) == 1 && actpack::max_code(2) == 3);
  static_assert(actpack::max_code(4) == 15 && actpack::max_code(8) == 255);
}

TEST_CASE("words_for: the words that a row of codes takes, rounded up") {
  static_assert(actpack::words_for(33, 1) == 2);
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    for (std::int64_t numel = 0; numel < 200; ++numel) {
      CAPTURE(numel);
      CHECK(actpack::words_for(numel, bits) == reference::words_for(numel, bits));
    }
    const std::int64_t many = std::int64_t{1} << 40;
    CHECK(actpack::words_for(many, bits) == many / 32 * bits);
    CHECK(actpack::words_for(many + 1, bits) == many / 32 * bits + 1);
  }
}

// "Element e of a row occupies bits [e b, (e + 1) b) of that row's words, least significant first;
// unused high bits are 0", worked out by hand.
TEST_CASE("pack: golden words of the format") {
  const auto packed = [](std::vector<std::uint8_t> codes, int bits) {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(
        actpack::words_for(static_cast<std::int64_t>(codes.size()), bits)));
    actpack::pack(codes, bits, words);
    return words;
  };
  using Words = std::vector<std::uint32_t>;
  CHECK(packed({1, 0, 0, 0, 1, 1, 0, 1}, 1) == Words{0xB1});
  CHECK(packed({0, 1, 2, 3}, 2) == Words{0xE4});
  CHECK(packed({3, 2, 1, 0, 0, 1, 2, 3, 1, 1, 1, 1, 2, 2, 2, 2, 3}, 2) == Words{0xAA55E41B, 0x3});
  CHECK(packed({1, 2, 3, 4, 5, 6, 7, 8, 9}, 4) == Words{0x87654321, 0x9});
  CHECK(packed({0x12, 0x34, 0x56, 0x78, 0x9A}, 8) == Words{0x78563412, 0x9A});
  CHECK(packed({}, 2) == Words{});
  std::vector<std::uint8_t> last(33, 0);
  last[31] = 1;
  last[32] = 1;
  CHECK(packed(last, 1) == Words{0x80000000, 0x1});
}

TEST_CASE("pack, unpack, extract: inverse on every code at every position of a word") {
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    int wrong = 0;
    const int per_word = 32 / bits;
    for (int size = 1; size <= 2 * per_word + 1; ++size) {
      for (int position = 0; position < size; ++position) {
        for (int code = 0; code < 1 << bits; ++code) {
          for (const std::uint8_t rest :
               {std::uint8_t{0}, static_cast<std::uint8_t>((1 << bits) - 1)}) {
            std::vector<std::uint8_t> codes(static_cast<std::size_t>(size), rest);
            codes[static_cast<std::size_t>(position)] = static_cast<std::uint8_t>(code);
            std::vector<std::uint32_t> words(
                static_cast<std::size_t>(reference::words_for(size, bits)), 0xDEADBEEF);
            actpack::pack(codes, bits, words);
            std::vector<std::uint8_t> back(codes.size(), 0xEE);
            actpack::unpack(words, bits, back);
            wrong += back != codes || words != reference_words(codes, bits) ? 1 : 0;
            wrong +=
                actpack::extract(words.data(), position, bits) != static_cast<std::uint32_t>(code)
                    ? 1
                    : 0;
          }
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("pack, unpack: every size, nothing written beside") {
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : support::all_sizes) {
      CAPTURE(bits);
      CAPTURE(size);
      const std::vector<std::uint8_t> codes = random_codes(size, bits, 13);
      GuardedBuffer<std::uint32_t> words(reference::words_for(size, bits));
      actpack::pack(codes, bits, words.span());
      CHECK(words.values() == reference_words(codes, bits));
      GuardedBuffer<std::uint8_t> back(size);
      actpack::unpack(words.span(), bits, back.span());
      CHECK(back.values() == codes);
    }
  }
}

TEST_CASE("unpack: any range equals that slice of the whole") {
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    const std::vector<std::uint8_t> codes = random_codes(131, bits, 14);
    const std::vector<std::uint32_t> words = reference_words(codes, bits);
    int wrong = 0;
    for (std::int64_t first = 0; first <= 131; ++first) {
      for (std::int64_t size = 0; first + size <= 131; ++size) {
        GuardedBuffer<std::uint8_t> slice(size);
        actpack::unpack(words, bits, first, slice.span());
        wrong += slice.values() != std::vector<std::uint8_t>(codes.begin() + first,
                                                             codes.begin() + first + size)
                     ? 1
                     : 0;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("pack: what does not fit is refused before anything is written") {
  GuardedBuffer<std::uint32_t> words(std::int64_t{2});
  const auto refused = [&words](std::vector<std::uint8_t> codes, int bits, std::size_t used,
                                const std::vector<std::string>& texts) {
    support::check_refused([&] { actpack::pack(codes, bits, words.span().first(used)); }, texts);
    CHECK(words.is_untouched());
  };
  for (const int bits : {-1, 0, 3, 5, 6, 7, 9, 16, 32}) {
    CAPTURE(bits);
    refused({0}, bits, 1, {"bits", std::to_string(bits)});
  }
  refused(std::vector<std::uint8_t>(16, 0), 2, 2, {"words", "1", "2"});
  refused(std::vector<std::uint8_t>(17, 0), 2, 1, {"words", "1", "2"});
  refused({0}, 2, 0, {"words", "0", "1"});
  refused({}, 2, 1, {"words", "0", "1"});
  refused({0, 1, 2}, 1, 1, {"codes", "2"});
  refused({3, 3, 3, 4}, 2, 1, {"codes", "4"});
  // The offending code in the second word: the first must not have been written by then.
  std::vector<std::uint8_t> late(16, 1);
  late[15] = 16;
  refused(late, 4, 2, {"codes", "16"});
}

TEST_CASE("unpack: what does not fit is refused before anything is written") {
  GuardedBuffer<std::uint8_t> codes(std::int64_t{40});
  const std::vector<std::uint32_t> words(2, 0);
  const auto refused = [&](auto call, const std::vector<std::string>& texts) {
    support::check_refused(call, texts);
    CHECK(codes.is_untouched());
  };
  for (const int bits : {-1, 0, 3, 16}) {
    CAPTURE(bits);
    refused([&] { actpack::unpack(words, bits, codes.span().first(8)); },
            {"bits", std::to_string(bits)});
    refused([&] { actpack::unpack(words, bits, 0, codes.span().first(8)); },
            {"bits", std::to_string(bits)});
  }
  refused([&] { actpack::unpack(words, 2, codes.span().first(33)); }, {"words", "2", "3"});
  refused([&] { actpack::unpack(words, 2, codes.span().first(16)); }, {"words", "2", "1"});
  refused([&] { actpack::unpack(words, 2, -1, codes.span().first(4)); }, {"first", "-1"});
  refused([&] { actpack::unpack(words, 2, 30, codes.span().first(3)); }, {"3", "30", "32"});
  refused([&] { actpack::unpack(words, 2, 33, codes.span().first(0)); }, {"33", "32"});
  refused([&] { actpack::unpack(words, 8, INT64_MAX, codes.span().first(3)); }, {"first"});
}
