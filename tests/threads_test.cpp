// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shows that threads may share a tensor: chunks of rows written and ranges read at the same time
// give what one thread gives. ThreadSanitizer sees that they do not touch each other's words.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "actpack/actpack.hpp"

namespace {

using namespace actpack;

constexpr std::int64_t rows = 23;
constexpr std::int64_t row_size = 997;  // short last groups, unused bits in last words
constexpr Rounding rounding = Rounding::stochastic(7, 9);

std::vector<float> gaussian() {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * row_size);
  std::ranges::generate(x, [&] { return normal(generator); });
  return x;
}

/// Calls work(row) once for every row, from four threads that take turns.
void for_each_row_in_threads(const std::function<void(std::int64_t)>& work) {
  std::vector<std::jthread> threads;
  for (std::int64_t first = 0; first < 4; ++first) {
    threads.emplace_back([first, &work] {
      for (std::int64_t row = first; row < rows; row += 4) {
        work(row);
      }
    });
  }
}

template <class T>
std::span<T> row_of(std::vector<T>& x, std::int64_t row) {
  return std::span(x).subspan(static_cast<std::size_t>(row * row_size), row_size);
}

template <class T>
bool same_bytes(const T* a, const T* b, std::int64_t count) {
  return std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("quantize, dequantize: rows from several threads are those of one") {
  std::vector<float> x = gaussian();
  for (const int bits : widths) {
    CAPTURE(bits);
    const Layout layout{.rows = rows, .row_size = row_size, .bits = bits};
    PackedBuffer alone(layout);
    PackedBuffer shared(layout);
    quantize(x, alone.view(), rounding);
    for_each_row_in_threads(
        [&](std::int64_t row) { quantize(row_of(x, row), shared.view(), rounding, row); });
    CHECK(same_bytes(alone.view().words, shared.view().words, layout.num_words()));
    CHECK(same_bytes(alone.view().params, shared.view().params, layout.num_groups()));

    const Decoding decoding = Decoding::subtractive(rounding);
    std::vector<float> expected(x.size());
    std::vector<float> found(x.size());
    dequantize(alone.view(), expected, decoding);
    for_each_row_in_threads([&](std::int64_t row) {
      dequantize(shared.view(), row * row_size, row_of(found, row), decoding);
    });
    CHECK(found == expected);
  }
}

TEST_CASE("encode, decode_relu: rows from several threads are those of one") {
  std::vector<float> y = gaussian();
  for (const int bits : widths) {
    CAPTURE(bits);
    const Layout layout{.rows = rows, .row_size = row_size, .bits = bits};
    SignMagnitudeBuffer alone(layout);
    SignMagnitudeBuffer shared(layout);
    encode(y, alone.view(), rounding);
    for_each_row_in_threads(
        [&](std::int64_t row) { encode(row_of(y, row), shared.view(), rounding, row); });
    const SignMagnitudeView a = alone.view();
    const SignMagnitudeView b = shared.view();
    CHECK(same_bytes(a.sign_words, b.sign_words, layout.with_bits(1).num_words()));
    CHECK(same_bytes(a.magnitude_words, b.magnitude_words, layout.num_words()));
    CHECK(same_bytes(a.params, b.params, layout.num_groups()));

    std::vector<float> expected(y.size());
    std::vector<float> found(y.size());
    decode_relu(alone.view(), expected);
    for_each_row_in_threads(
        [&](std::int64_t row) { decode_relu(shared.view(), row * row_size, row_of(found, row)); });
    CHECK(found == expected);
  }
}
