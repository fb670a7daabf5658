// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The bridge between the library's types and the reference's, and whole-array comparisons.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <actpack/float16.hpp>
#include <actpack/layout.hpp>
#include <actpack/rounding.hpp>

#include <doctest/doctest.h>

#include "support/data.hpp"
#include "support/reference.hpp"

namespace support {

inline std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
inline std::uint32_t bits_of(actpack::bfloat16 value) { return value.bits; }
inline std::uint32_t bits_of(actpack::float16 value) { return value.bits; }

template <class T>
bool is_nan(T value) {
  return std::isnan(static_cast<float>(value));
}

template <class T>
constexpr float largest_finite() {
  if constexpr (std::same_as<T, actpack::float16>) return 65504.0F;
  if constexpr (std::same_as<T, actpack::bfloat16>) return 0x1.FEp127F;
  return std::numeric_limits<float>::max();
}

template <class T>
constexpr float smallest_positive() {
  if constexpr (std::same_as<T, actpack::float16>) return 0x1p-24F;
  if constexpr (std::same_as<T, actpack::bfloat16>) return 0x1p-133F;
  return std::numeric_limits<float>::denorm_min();
}

// A finite float in T, by the reference's conversion.
template <class T>
T stored(float value) {
  if constexpr (std::same_as<T, float>) {
    return value;
  } else {
    constexpr reference::Format format =
        std::same_as<T, actpack::float16> ? reference::float16 : reference::bfloat16;
    return T::from_bits(reference::round_saturating(format, static_cast<double>(value)));
  }
}

template <class T>
std::vector<T> stored(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) result.push_back(stored<T>(value));
  return result;
}

template <class T>
std::vector<float> floats(const std::vector<T>& values) {
  std::vector<float> result;
  for (const T value : values) result.push_back(static_cast<float>(value));
  return result;
}

// Values of a type, between the smallest and the largest that it has.
template <class T>
std::vector<T> make(Data data, std::int64_t size, std::uint64_t seed) {
  std::vector<T> x;
  for (const float value : make(data, static_cast<std::size_t>(size), seed, largest_finite<T>(),
                                smallest_positive<T>())) {
    x.push_back(T(value));
  }
  return x;
}

// The first index at which the bits differ, any NaN being as good as any other; -1 if there is
// none, the shorter length if the lengths differ.
template <class T>
std::int64_t first_difference(std::span<const T> got, std::span<const T> expected) {
  std::size_t i = 0;
  while (i < got.size() && i < expected.size()) {
    const bool same =
        bits_of(got[i]) == bits_of(expected[i]) || (is_nan(got[i]) && is_nan(expected[i]));
    if (!same) return static_cast<std::int64_t>(i);
    ++i;
  }
  return got.size() == expected.size() ? -1 : static_cast<std::int64_t>(i);
}

template <class T>
void check_same_values(std::span<const T> got, std::span<const T> expected) {
  const std::int64_t index = first_difference<T>(got, expected);
  if (index >= 0) {
    CAPTURE(index);
    REQUIRE(got.size() == expected.size());
    const auto i = static_cast<std::size_t>(index);
    const double got_value = static_cast<float>(got[i]);
    const double expected_value = static_cast<float>(expected[i]);
    CAPTURE(got_value);
    CAPTURE(expected_value);
    CHECK(bits_of(got[i]) == bits_of(expected[i]));
  } else {
    CHECK(index == -1);
  }
}

template <class T>
void check_same_values(const std::vector<T>& got, const std::vector<T>& expected) {
  check_same_values<T>(std::span<const T>(got), std::span<const T>(expected));
}

// The message of the std::invalid_argument that the call throws; fails the test if it throws none.
template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  FAIL_CHECK("no std::invalid_argument was thrown");
  return "";
}

// Whether `text` holds `word` with no letter, digit or minus sign attached to it.
inline bool holds_word(const std::string& text, const std::string& word) {
  const auto attached = [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_' ||
           c == '-';
  };
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    const bool starts = at == 0 || !attached(text[at - 1]);
    if (starts && (end == text.size() || !attached(text[end]))) return true;
  }
  return false;
}

// The call refuses its arguments with a message that holds each of these words: the name of the
// argument and the numbers that disagree.
template <class Call>
void check_refused(Call call, const std::vector<std::string>& words) {
  const std::string message = message_of(call);
  for (const std::string& word : words) {
    CAPTURE(message);
    CAPTURE(word);
    CHECK(holds_word(message, word));
  }
}

inline reference::Shape shape_of(const actpack::Layout& layout,
                                 std::vector<std::uint8_t> row_bits = {}) {
  return {layout.rows, layout.row_size,      layout.group_size,
          layout.bits, layout.last_row_size, std::move(row_bits)};
}

// One choice of rounding in the library's terms and in the reference's.
struct RoundingPair {
  actpack::Rounding library;
  reference::Rounding reference;
};

inline RoundingPair nearest() { return {actpack::Rounding::nearest(), {}}; }
inline RoundingPair stochastic(std::uint64_t seed, std::uint64_t offset = 0) {
  return {actpack::Rounding::stochastic(seed, offset), {true, seed, offset}};
}

}  // namespace support
