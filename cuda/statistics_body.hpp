// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a block of threads does to sum up a row: the same source for devices and for tests on the
// host.
#pragma once

#include <cmath>
#include <cstdint>

#include "actpack/cuda/group.hpp"
#include "actpack/cuda/statistics.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/sensitivity.hpp"

namespace actpack::detail {

inline constexpr int statistics_threads = 512;
inline constexpr int statistics_warps = statistics_threads / warp_size;

ACTPACK_HD inline RowStatistics add(RowStatistics a, RowStatistics b) {
  return {a.squared_norm + b.squared_norm, a.squared_range_norm + b.squared_range_norm};
}

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

/// The threads of one block, which meet in memory that they share.
class DeviceBlock {
 public:
  /// `shared` has a place for each warp.
  __device__ explicit DeviceBlock(RowStatistics* shared) : shared_(shared) {}

  /// The sum over all lanes of part(team, number of the team, number of teams), in a fixed order.
  template <class Part>
  __device__ RowStatistics sum(int lanes, const Part& part) const {
    const int thread = static_cast<int>(threadIdx.x);
    const DeviceTeam warp(warp_size);
    const RowStatistics of_warp =
        warp.reduce(part(DeviceTeam(lanes), thread / lanes, statistics_threads / lanes), add);
    if (thread % warp_size == 0) {
      shared_[thread / warp_size] = of_warp;
    }
    __syncthreads();
    return warp.reduce(
        thread % warp_size < statistics_warps ? shared_[thread % warp_size] : RowStatistics{}, add);
  }

  template <class F>
  __device__ void once(const F& f) const {
    if (threadIdx.x == 0) {
      f();
    }
  }

 private:
  RowStatistics* shared_;
};

template <class Body>
__global__ void __launch_bounds__(statistics_threads)
    statistics_kernel(const __grid_constant__ Body body) {
  __shared__ RowStatistics shared[statistics_warps];
  body(DeviceBlock(shared), static_cast<std::int64_t>(blockIdx.x));
}

#endif

/// The same, played by the calling host thread.
class HostBlock {
 public:
  template <class Part>
  ACTPACK_HD RowStatistics sum(int lanes, const Part& part) const {
    const HostTeam warp(warp_size);
    HostTeam::PerLane<RowStatistics> of_warps{};
    for (int w = 0; w < statistics_warps; ++w) {
      HostTeam::PerLane<RowStatistics> of_lanes{};
      for (int lane = 0; lane < warp_size; lane += lanes) {
        const auto of_team =
            part(HostTeam(lanes), (w * warp_size + lane) / lanes, statistics_threads / lanes);
        for (int i = 0; i < lanes; ++i) {
          of_lanes[lane + i] = of_team[i];
        }
      }
      of_warps[w] = warp.reduce(of_lanes, add);
    }
    return warp.reduce(of_warps, add);
  }

  template <class F>
  ACTPACK_HD void once(const F& f) const {
    f();
  }
};

/// Sums up row number `row`.
template <class T>
struct SumRow {
  const T* x;
  Layout layout;
  std::int64_t groups_per_row;
  RowStatistics* statistics;

  template <class Block>
  ACTPACK_HD void operator()(const Block& block, std::int64_t row) const {
    const RowStatistics total =
        block.sum(team_lanes(layout.group_size), [&](const auto& team, int first, int teams) {
          return sum_groups(team, row, first, teams);
        });
    block.once([&] { statistics[row] = total; });
  }

 private:
  /// Each lane's share of groups first, first + teams, … of a row.
  template <class Team>
  ACTPACK_HD auto sum_groups(const Team& team, std::int64_t row, int first, int teams) const {
    auto sums = team.map([](int) { return RowStatistics{}; });
    // All teams of a warp go round together, some with a group of size 0 at the end.
    for (std::int64_t round = 0; round * teams < groups_per_row; ++round) {
      const Group group = group_of(row, round * teams + first);
      const GroupShape shape = {group.index, static_cast<std::int32_t>(group.size),
                                layout.group_size, 1};
      const T* elements = x + group.first;
      const bool is_aligned = is_vector_aligned(elements);
      const auto load = [&](const SlicePlace& place) {
        return load_slice(elements, place, is_aligned);
      };
      const auto slices = load_first_slices(team, shape, load);
      const ValueRange range = range_of_group(team, shape, slices, load);
      sums = team.map(
          [&](int lane, RowStatistics sum, const auto& slice) {
            if (lane == 0 && group.size > 0) {
              const double width = static_cast<double>(range.max) - range.min;
              sum.squared_range_norm = std::fma(width, width, sum.squared_range_norm);
            }
            for_each_slice(
                team, shape, lane, slice, load, [&](const SlicePlace& place, const auto& values) {
                  for (int j = 0; j < elements_per_call; ++j) {
                    // The square is exact, so it may be contracted or not.
                    const double value = (place.present >> j & 1) != 0 ? values[j] : 0.0f;
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

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t row) const {
    if (row >= rows) {
      return;
    }
    team.map([&](int) {
      const double squared_norm = dy == nullptr ? 1 : dy[row].squared_norm;
      sensitivity[row] =
          gain * squared_norm * rounding_sensitivity(x[row].squared_range_norm, group_size);
    });
  }
};

}  // namespace actpack::detail
