// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that JSON is JSON whatever is in a string or a number.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/json.hpp"

namespace {

using namespace trainer;

// By table 3-7 of the Unicode standard, "Well-Formed UTF-8 Byte Sequences": the bytes of the
// character that starts at `at`, 0 if there is none.
std::size_t character_at(const std::string& text, std::size_t at) {
  struct Row {
    std::array<int, 2> first, second;
    std::size_t size;
  };
  constexpr std::array<Row, 9> rows{{{{0x00, 0x7F}, {0x00, 0x00}, 1},
                                     {{0xC2, 0xDF}, {0x80, 0xBF}, 2},
                                     {{0xE0, 0xE0}, {0xA0, 0xBF}, 3},
                                     {{0xE1, 0xEC}, {0x80, 0xBF}, 3},
                                     {{0xED, 0xED}, {0x80, 0x9F}, 3},
                                     {{0xEE, 0xEF}, {0x80, 0xBF}, 3},
                                     {{0xF0, 0xF0}, {0x90, 0xBF}, 4},
                                     {{0xF1, 0xF3}, {0x80, 0xBF}, 4},
                                     {{0xF4, 0xF4}, {0x80, 0x8F}, 4}}};
  const auto is_in = [&](std::size_t i, const std::array<int, 2>& range) {
    const int byte = i < text.size() ? static_cast<unsigned char>(text[i]) : -1;
    return byte >= range[0] && byte <= range[1];
  };
  for (const Row& row : rows) {
    bool fits = is_in(at, row.first) && (row.size == 1 || is_in(at + 1, row.second));
    for (std::size_t i = 2; i < row.size; ++i) fits = fits && is_in(at + i, {0x80, 0xBF});
    if (fits) return row.size;
  }
  return 0;
}

// What a JSON string stands for; "?" and a reason if it is none.
std::string read_back(const std::string& json) {
  if (json.size() < 2 || json.front() != '"' || json.back() != '"') return "? no quotes";
  const std::string text = json.substr(1, json.size() - 2);
  std::string value;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_at(text, at);
    const auto byte = static_cast<unsigned char>(text[at]);
    if (size == 0) return "? no UTF-8";
    if (byte < 0x20 || byte == '"') return "? not escaped";
    if (byte != '\\') {
      value += text.substr(at, size);
      at += size;
    } else if (text.compare(at, 4, "\\u00") == 0) {
      value += static_cast<char>(std::stoi(text.substr(at + 2, 4), nullptr, 16));
      at += 6;
    } else {
      if (at + 1 == text.size() || (text[at + 1] != '"' && text[at + 1] != '\\')) return "? escape";
      value += text[at + 1];
      at += 2;
    }
  }
  return value;
}

// Each byte that is not part of a character replaced by U+FFFD.
std::string repaired(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_at(text, at);
    out += size == 0 ? "\xEF\xBF\xBD" : text.substr(at, size);
    at += size == 0 ? 1 : size;
  }
  return out;
}

void check(const std::string& text) {
  if (read_back(quoted(text)) != repaired(text)) {  // a CHECK for each would take seconds
    CAPTURE(quoted(text));
    CHECK(read_back(quoted(text)) == repaired(text));
  }
}

TEST_CASE("json: strings of known answers") {
  CHECK(quoted("a \"b\" \\ /") == "\"a \\\"b\\\" \\\\ /\"");
  CHECK(quoted("tab\t, line\n, end\x7F") == "\"tab\\u0009, line\\u000a, end\x7F\"");
  CHECK(quoted(std::string("\0", 1)) == "\"\\u0000\"");
  CHECK(quoted("γ≤😀") == "\"γ≤😀\"");
  CHECK(quoted("data\xFF") == "\"data\xEF\xBF\xBD\"");
  CHECK(quoted("\xED\xA0\x80") == quoted("\xFF\xFF\xFF"));  // a surrogate
  CHECK(quoted("\xC0\xAF") == quoted("\xFF\xFF"));          // longer than need be
  CHECK(quoted("\xF4\x90\x80\x80") == quoted("\xFF\xFF\xFF\xFF"));
}

TEST_CASE("json: any bytes are a valid string, in which all characters come back") {
  for (int first = 0; first < 256; ++first) {
    check(std::string(1, static_cast<char>(first)));
    for (int second = 0; second < 256; ++second) {
      check({static_cast<char>(first), static_cast<char>(second)});
    }
  }
  std::mt19937_64 random(1);
  const std::string edges =
      "\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC1\xC2\xDF\xE0\xED\xEF\xF0\xF4\xF5\xFF\"\\a\n";
  for (int draw = 0; draw < 200'000; ++draw) {
    std::string text;
    for (std::size_t size = random() % 7; text.size() < size;) {
      text += random() % 2 == 0 ? edges[random() % edges.size()] : static_cast<char>(random());
    }
    check(text);
  }
}

TEST_CASE("json: integers keep all their digits, and what is not finite is null") {
  CHECK(json_numbers(std::vector<std::uint64_t>{~std::uint64_t{0}, 0}) ==
        "[18446744073709551615, 0]");
  CHECK(json_numbers(std::vector<std::int64_t>{-1234567890123}) == "[-1234567890123]");
  CHECK(json_numbers(std::vector<double>{0.1, std::numeric_limits<double>::quiet_NaN()}) ==
        "[0.1, null]");
}

}  // namespace
