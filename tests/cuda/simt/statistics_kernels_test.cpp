// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Sums up rows on threads of the CPU, with real shuffles and barriers, and compares with one thread
// that plays the block.
#include <doctest/doctest.h>

#include "simt.hpp"  // before the kernels

#include <cstddef>
#include <cstdint>
#include <vector>

#include "statistics_kernels.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace actpack;
using support::GuardedBuffer;

detail::NothingShared unshared;

template <class T>
std::vector<T> values_for(const Layout& layout, std::uint64_t seed) {
  return support::stored<T>(
      support::gaussian(static_cast<std::size_t>(layout.numel()), seed, 0.1, 2));
}

}  // namespace

TEST_CASE_TEMPLATE("simt: statistics", T, float, bfloat16) {
  for (const std::int32_t group_size : {96, 256}) {
    CAPTURE(group_size);
    const Layout layout{.rows = 2, .row_size = 9000, .group_size = group_size, .last_row_size = 77};
    GuardedBuffer<T> x(values_for<T>(layout, 9));
    GuardedBuffer<RowStatistics> got(layout.rows), want(layout.rows);
    const auto body_into = [&](RowStatistics* statistics) {
      return detail::SumRow<T>{x.data(), layout, layout.groups_per_row(), statistics};
    };
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      body_into(want.data())(detail::HostThreadBlock<detail::statistics_threads>(), unshared, row,
                             layout.rows);
    }
    simt::launch(static_cast<unsigned>(layout.rows), detail::statistics_threads,
                 &detail::thread_block_kernel<detail::SumRow<T>, detail::statistics_threads>,
                 body_into(got.data()));
    CHECK(have_same_bytes(got, want));
    CHECK(want.span()[1].squared_norm > 0);
  }
}
