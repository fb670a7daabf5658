// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the bodies of the device's kernels for masks and plain packing on the host, and compares
// with the host's verbs, bit for bit; and the sums over rows with a loop in double.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/detail/dropout.hpp>
#include <actpack/mask.hpp>

#include "octet_kernels.hpp"
#include "statistics_kernels.hpp"
#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace actpack;
using support::GuardedBuffer;

detail::NothingShared unshared;

template <class Body>
void run(const Body& body) {
  const HostWarpTile thread(1);
  for (std::int64_t index = 0; index < body.count() + 40; ++index) {
    body(thread, index);
  }
}

std::vector<std::uint32_t> mask_of(std::int64_t numel) {
  return std::vector<std::uint32_t>(static_cast<std::size_t>(words_for(numel, 1)));
}

constexpr std::array<std::int64_t, 9> sizes{0, 1, 7, 8, 31, 32, 33, 257, 1000};

}  // namespace

TEST_CASE_TEMPLATE("octet kernels: ReLU and dropout, forward and backward", T, float, bfloat16,
                   float16) {
  for (const std::int64_t size : sizes) {
    CAPTURE(size);
    const auto n = static_cast<std::size_t>(size);
    auto values = support::stored<T>(support::gaussian(n, 4, 0, 3e4));
    if (n > 20) values[20] = T(std::numeric_limits<float>::quiet_NaN());
    if (n > 30) values[30] = T(-0.0F);
    const GuardedBuffer<T> x(values);  // off by one alignment
    const auto dy = support::stored<T>(support::gaussian(n, 5, 0, 3e4));
    std::vector<T> want(n);
    auto want_mask = mask_of(size);
    GuardedBuffer<T> y(size);
    GuardedBuffer<std::uint32_t> mask(words_for(size, 1));

    relu(values, want, want_mask);
    run(detail::Relu<T>{{size}, x.data(), y.data(), mask.data()});
    support::check_same_values<T>(y.span(), want);
    CHECK(mask.values() == want_mask);

    relu_backward(dy, want_mask, want);
    run(detail::Masked<T>{{size}, dy.data(), mask.data(), y.data(), 1});
    support::check_same_values<T>(y.span(), want);

    for (const double p : {0.0, 0.3, 0.999}) {
      CAPTURE(p);
      const std::array<std::uint64_t, 2> seed_and_offset{7, 8};
      const StochasticNoise noise{SeededNoise(0, 0), seed_and_offset.data()};
      const detail::DropoutRule rule = detail::dropout_rule(p);
      dropout(values, want, want_mask, p, Rounding::stochastic(7, 8), 64);
      run(detail::Dropout<T, StochasticNoise>{
          {size}, x.data(), y.data(), mask.data(), rule, 64, noise});
      support::check_same_values<T>(y.span(), want);
      CHECK(mask.values() == want_mask);

      dropout_backward(dy, want_mask, want, p);
      run(detail::Masked<T>{{size}, dy.data(), mask.data(), y.data(), rule.scale});
      support::check_same_values<T>(y.span(), want);
    }
  }
}

TEST_CASE("octet kernels: codes are packed and unpacked, whole and in part") {
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : sizes) {
      CAPTURE(bits);
      CAPTURE(size);
      support::Generator generator(6);
      std::vector<std::uint8_t> codes;
      for (std::int64_t i = 0; i < size; ++i) {
        codes.push_back(static_cast<std::uint8_t>(generator.below(max_code(bits) + 1)));
      }
      std::vector<std::uint32_t> want(static_cast<std::size_t>(words_for(size, bits)));
      pack(codes, bits, want);
      GuardedBuffer<std::uint32_t> words(words_for(size, bits));
      run(detail::Pack{{size}, codes.data(), bits, words.data()});
      CHECK(words.values() == want);

      const std::int64_t first = size / 3;
      GuardedBuffer<std::uint8_t> part(size - first);
      run(detail::Unpack{{size - first}, want.data(), bits, first, part.data()});
      CHECK(part.values() == std::vector<std::uint8_t>(codes.begin() + first, codes.end()));
    }
  }
}

TEST_CASE_TEMPLATE("statistics kernels: norms and ranges of rows", T, float, bfloat16, float16) {
  for (const std::int32_t group_size : support::all_group_sizes) {
    for (const std::int64_t row_size : {1, 33, 256, 5000}) {
      CAPTURE(group_size);
      CAPTURE(row_size);
      const Layout layout{.rows = 3,
                          .row_size = row_size,
                          .group_size = group_size,
                          .last_row_size = (row_size + 1) / 2};
      const auto x =
          support::stored<T>(support::gaussian(static_cast<std::size_t>(layout.numel()), 7, 1, 50));
      GuardedBuffer<RowStatistics> statistics(layout.rows);
      for (std::int64_t row = 0; row < layout.rows; ++row) {
        detail::SumRow<T>{x.data(), layout, layout.groups_per_row(), statistics.data()}(
            detail::HostThreadBlock<detail::statistics_threads>(), unshared, row, layout.rows);
        double norm = 0;
        double ranges = 0;
        const std::int64_t end = row * row_size + layout.size_of_row(row);
        for (std::int64_t first = row * row_size; first < end; first += group_size) {
          float min = x[static_cast<std::size_t>(first)];
          float max = min;
          for (std::int64_t e = first; e < std::min(first + group_size, end); ++e) {
            const float value = x[static_cast<std::size_t>(e)];
            norm += static_cast<double>(value) * value;
            min = std::min(min, value);
            max = std::max(max, value);
          }
          ranges += (static_cast<double>(max) - min) * (static_cast<double>(max) - min);
        }
        // Sums of n positive terms in any order are within n units of 2^-53.
        const double tolerance = static_cast<double>(row_size + 1) * 0x1p-52;
        const RowStatistics got = statistics.span()[static_cast<std::size_t>(row)];
        CHECK(std::abs(got.squared_norm - norm) <= tolerance * norm);
        CHECK(std::abs(got.squared_range_norm - ranges) <= tolerance * ranges);
      }
    }
  }
}

TEST_CASE("statistics kernels: NaN and infinity show") {
  const Layout layout{.rows = 2, .row_size = 600};
  auto x = support::gaussian(1200, 7);
  x[100] = std::numeric_limits<float>::quiet_NaN();
  x[900] = std::numeric_limits<float>::infinity();
  std::vector<RowStatistics> statistics(2);
  for (const std::int64_t row : {0, 1}) {
    detail::SumRow<float>{x.data(), layout, 3, statistics.data()}(
        detail::HostThreadBlock<detail::statistics_threads>(), unshared, row, layout.rows);
  }
  CHECK(std::isnan(statistics[0].squared_norm));
  CHECK(std::isnan(statistics[0].squared_range_norm));
  CHECK(std::isinf(statistics[1].squared_norm));
  CHECK(std::isinf(statistics[1].squared_range_norm));
}

TEST_CASE("statistics kernels: sensitivities of rows") {
  const std::vector<RowStatistics> x{{1, 6}, {2, 0}, {3, std::numeric_limits<double>::infinity()}};
  const std::vector<RowStatistics> dy{{0.5, 7}, {4, 8}, {1, 9}};
  for (const RowStatistics* gradients : {dy.data(), static_cast<const RowStatistics*>(nullptr)}) {
    GuardedBuffer<double> sensitivity(x.size());
    const detail::WeighRanges body{x.data(), gradients, 0.25, 96, sensitivity.data(), 3};
    for (std::int64_t row = 0; row < 40; ++row) body(HostWarpTile(1), row);
    const double norm = gradients == nullptr ? 1 : 0.5;
    CHECK(sensitivity.span()[0] == 0.25 * norm * 96 / 6 * 6);
    CHECK(sensitivity.span()[1] == 0);
    CHECK(std::isinf(sensitivity.span()[2]));
  }
}
