// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Kernels that sum up rows. The same source for devices and for tests on the host.
#pragma once

#include <cmath>
#include <cstdint>

#include "actpack/cuda/group.hpp"
#include "actpack/cuda/statistics.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/sensitivity.hpp"
#include "device_thread_block.hpp"

namespace actpack::detail {

inline constexpr int statistics_threads = 512;

ACTPACK_HD inline RowStatistics add(RowStatistics a, RowStatistics b) {
  return {a.squared_norm + b.squared_norm, a.squared_range_norm + b.squared_range_norm};
}

/// Sums up one row with one thread block.
template <class T>
struct SumRow {
  using Shared = NothingShared;

  const T* x;
  Layout layout;
  std::int64_t groups_per_row;
  RowStatistics* statistics;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, Shared&, std::int64_t row, std::int64_t) const {
    const RowStatistics total =
        block.sum_over_tiles(tile_lanes(layout.group_size), RowStatistics{}, add,
                             [&](const auto& tile, int first, int tiles) {
                               return sum_groups(tile, row, first, tiles);
                             });
    if (block.is_leader()) {
      statistics[row] = total;
    }
  }

 private:
  /// Each lane's share of groups first, first + tiles, … of a row.
  template <class Tile>
  ACTPACK_HD auto sum_groups(const Tile& tile, std::int64_t row, int first, int tiles) const {
    auto sums = tile.map([](int) { return RowStatistics{}; });
    // All tiles of a warp go round together, some with a group of size 0 at the end.
    for (std::int64_t round = 0; round * tiles < groups_per_row; ++round) {
      const Group group = group_of(row, round * tiles + first);
      const GroupShape shape = {group.index, static_cast<std::int32_t>(group.size),
                                layout.group_size, 1};
      const T* elements = x + group.first;
      const bool is_aligned = is_vector_aligned(elements);
      const auto load = [&](const SliceLocation& location) {
        return load_slice(elements, location, is_aligned);
      };
      const auto slices = load_first_slices(tile, shape, load);
      const ValueRange range = range_of_group(tile, shape, slices, load);
      sums = tile.map(
          [&](int lane, RowStatistics sum, const auto& slice) {
            if (lane == 0 && group.size > 0) {
              const double width = static_cast<double>(range.max) - range.min;
              sum.squared_range_norm = std::fma(width, width, sum.squared_range_norm);
            }
            for_each_slice(tile, shape, lane, slice, load,
                           [&](const SliceLocation& location, const auto& values) {
                             for (int j = 0; j < elements_per_call; ++j) {
                               // The square is exact, so it may be contracted or not.
                               const double value =
                                   (location.present >> j & 1) != 0 ? values[j] : 0.0f;
                               sum.squared_norm += value * value;
                             }
                           });
            return sum;
          },
          sums, slices);
    }
    return sums;
  }

  ACTPACK_HD Group group_of(std::int64_t row, std::int64_t in_row) const {
    const std::int64_t column = in_row * layout.group_size;
    return column < layout.size_of_row(row)
               ? group_at(layout, row * groups_per_row + in_row, row, column)
               : Group{};
  }
};

/// The sensitivity of one row, by one thread.
struct WeighRanges {
  const RowStatistics* x;
  const RowStatistics* dy;
  double gain;
  double group_size;
  double* sensitivity;
  std::int64_t rows;

  static constexpr int blocks_per_multiprocessor = 4;
  ACTPACK_HD static constexpr int lanes() { return 1; }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t row) const {
    if (row >= rows) {
      return;
    }
    tile.map([&](int) {
      const double squared_norm = dy == nullptr ? 1 : dy[row].squared_norm;
      sensitivity[row] =
          gain * squared_norm * rounding_sensitivity(x[row].squared_range_norm, group_size);
    });
  }
};

}  // namespace actpack::detail
