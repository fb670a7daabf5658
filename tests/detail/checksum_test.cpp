// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The checksum of frames against published answers of XXH64, and what it finds.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <actpack/detail/checksum.hpp>

namespace {

using actpack::detail::checksum;

std::uint64_t checksum_of(std::string_view text) {
  return checksum(std::as_bytes(std::span(text.data(), text.size())));
}

// Bytes that fill their allocation, so that a sanitizer sees a read past the last.
std::uint64_t checksum_of_sequence(std::size_t size) {
  const std::unique_ptr<std::byte[]> bytes(new std::byte[size]);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * i + 7 * i + 3);
  return checksum({bytes.get(), size});
}

}  // namespace

TEST_CASE("checksum: known answers of XXH64 with seed 0") {
  CHECK(checksum_of("") == 0xEF46DB3751D8E999);
  CHECK(checksum_of("a") == 0xD24EC4F1A98C6E5B);
  CHECK(checksum_of("as") == 0x1C330FB2D66BE179);
  CHECK(checksum_of("asd") == 0x631C37CE72A97393);
  CHECK(checksum_of("asdf") == 0x415872F599CEA71E);
  CHECK(checksum_of("abc") == 0x44BC2CF5AD770999);
  CHECK(checksum_of("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1);
  CHECK(checksum_of("Call me Ishmael. Some years ago--never mind how long precisely-") ==
        0x02A2E85470D6FD96);
}

TEST_CASE("checksum: known answers around every boundary of lanes and stripes") {
  const std::vector<std::pair<std::size_t, std::uint64_t>> answers{
      {1, 0x1F25C8D0BC1F4BB6},  {3, 0x03925F881277ED8A},  {4, 0xBB199537CF42FA2D},
      {5, 0x083C1EBCE070E3E9},  {7, 0xF9CAF6561DC2F2CC},  {8, 0xF1FA9F9C6F9769C9},
      {12, 0x956C5449E13EAF4A}, {15, 0xCA30955FDCCD4656}, {31, 0xAB0F2550D70D4AF5},
      {32, 0x6E110801EEEAF7C8}, {33, 0xC29756A35D78DF17}, {40, 0x7474104AF211AB60},
      {63, 0xC80F552C40DDFD81}, {64, 0xA4102A8C8C51E2B4}, {100, 0x958BC87A85319D2A}};
  for (const auto& answer : answers) {
    CAPTURE(answer.first);
    CHECK(checksum_of_sequence(answer.first) == answer.second);
  }
}

TEST_CASE("checksum: it does not depend on where the bytes lie") {
  std::array<std::byte, 116> memory{};
  for (std::size_t shift = 0; shift < 16; ++shift) {
    for (std::size_t i = 0; i < 100; ++i) {
      memory[shift + i] = static_cast<std::byte>(i * i + 7 * i + 3);
    }
    CHECK(checksum(std::span(memory).subspan(shift, 100)) == 0x958BC87A85319D2A);
  }
}
