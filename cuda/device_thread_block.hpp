// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The thread block of a device, the kernel that starts it, and one host thread that plays all its
// threads.
#pragma once

#include <cstdint>

#include "actpack/cuda/warp_tile.hpp"
#include "actpack/detail/allocation/thread_block.hpp"

namespace actpack::detail {

/// The size of a block, unless a kernel asks for another: no more threads than ThreadSanitizer can
/// tell apart in tests/cuda/simt.hpp.
inline constexpr int thread_block_size = 192;
inline constexpr int thread_block_warps = thread_block_size / warp_size;

/// For kernels that share no memory beyond the block's own.
struct NothingShared {};

/// One host thread that does the work of DeviceThreadBlock, in the same order where that matters.
template <int threads = thread_block_size>
class HostThreadBlock : public OneThread {
 public:
  static constexpr bool is_one_thread = false;

  /// Calls f(warp, i) for 0 <= i < count with the lanes of whole warps, in any order, and
  /// synchronises.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void for_each_warp(std::int64_t count, const F& f) const {
    for (std::int64_t i = 0; i < count; ++i) f(HostWarpTile(warp_size), i);
  }

  /// Returns the sum by `op` over all lanes of value(tile, number of the tile, number of tiles),
  /// for tiles of `lanes` lanes, in a fixed order. `none` is the neutral element of `op`.
  ACTPACK_AS_CALLABLE
  template <class T, class Op, class Value>
  ACTPACK_HD T sum_over_tiles(int lanes, T none, const Op& op, const Value& value) const {
    const HostWarpTile warp(warp_size);
    HostWarpTile::PerLane<T> of_warps{};
    for (int w = 0; w < warp_size; ++w) of_warps[w] = none;
    for (int w = 0; w < threads / warp_size; ++w) {
      HostWarpTile::PerLane<T> of_lanes{};
      for (int lane = 0; lane < warp_size; lane += lanes) {
        const auto of_tile =
            value(HostWarpTile(lanes), (w * warp_size + lane) / lanes, threads / lanes);
        for (int i = 0; i < lanes; ++i) of_lanes[lane + i] = of_tile[i];
      }
      of_warps[w] = warp.reduce(of_lanes, op);
    }
    return warp.reduce(of_warps, op);
  }

  /// Adds to a sum that other threads and blocks may add to at the same time.
  ACTPACK_HD void add(std::uint64_t& sum, std::uint64_t value) const { sum += value; }
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

/// Shared memory of one warp: the sum that it passes on to the others.
struct alignas(16) WarpScratch {
  unsigned char value[16];
};

template <int threads = thread_block_size>
class DeviceThreadBlock {
 public:
  static constexpr bool is_one_thread = false;
  static constexpr int warps = threads / warp_size;

  /// `scratch` has an element for each warp.
  __device__ explicit DeviceThreadBlock(WarpScratch* scratch) : scratch_(scratch) {}

  __device__ bool is_leader() const { return threadIdx.x == 0; }
  __device__ void sync() const { __syncthreads(); }

  template <class F>
  __device__ void for_each(std::int64_t count, const F& f) const {
    for (std::int64_t i = threadIdx.x; i < count; i += threads) f(i);
    sync();
  }

  template <class F>
  __device__ void for_each_warp(std::int64_t count, const F& f) const {
    for (std::int64_t i = warp(); i < count; i += warps) f(WarpTile(warp_size), i);
    sync();
  }

  template <class T, class Op, class Value, class Use>
  __device__ T scan(std::int64_t count, T none, const Op& op, const Value& value,
                    const Use& use) const {
    T total = none;
    for (std::int64_t first = 0; first < count; first += threads) {
      const std::int64_t i = first + threadIdx.x;
      const T own = i < count ? value(i) : none;
      T before = none;
      const T of_warp = scan_warp(own, before, op);
      if (lane() == 0) store(warp(), of_warp);
      sync();
      for (int w = 0; w < warps; ++w) {
        const T sum = load(w, none);
        if (w == warp()) before = op(total, before);
        total = op(total, sum);
      }
      if (i < count) use(i, own, before);
      sync();
    }
    return total;
  }

  template <class T, class Op, class Value>
  __device__ T sum_over_tiles(int lanes, T none, const Op& op, const Value& value) const {
    const int thread = static_cast<int>(threadIdx.x);
    const WarpTile tile_of_warp(warp_size);
    const T of_warp =
        tile_of_warp.reduce(value(WarpTile(lanes), thread / lanes, threads / lanes), op);
    if (lane() == 0) store(warp(), of_warp);
    sync();
    return tile_of_warp.reduce(lane() < warps ? load(lane(), none) : none, op);
  }

  __device__ void add(std::uint64_t& sum, std::uint64_t value) const {
    static_assert(sizeof(unsigned long long) == sizeof sum);
    atomicAdd(reinterpret_cast<unsigned long long*>(&sum), value);
  }

 private:
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / warp_size; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }

  /// The value that a warp has passed on. (`value` only gives it a type to start from.)
  template <class T>
  __device__ T load(int number, T value) const {
    __builtin_memcpy(static_cast<void*>(&value), scratch_ + number, sizeof(T));
    return value;
  }
  template <class T>
  __device__ void store(int number, const T& value) const {
    static_assert(sizeof(T) <= sizeof(WarpScratch));
    __builtin_memcpy(scratch_ + number, &value, sizeof(T));
  }

  /// Returns the sum of the values of a warp, and sets `before` to the sum of the lower lanes.
  template <class T, class Op>
  __device__ static T scan_warp(T sum, T& before, const Op& op) {
    const WarpTile warp(warp_size);
    for (int distance = 1; distance < warp_size; distance *= 2) {
      const T other = warp.exchange(sum, distance);
      if ((lane() & distance) != 0) {
        before = op(other, before);
        sum = op(other, sum);
      } else {
        sum = op(sum, other);
      }
    }
    return sum;
  }

  WarpScratch* scratch_;
};

/// Runs body(block, shared memory, number of the block, number of blocks). The shared memory is
/// uninitialised.
template <class Body, int threads = thread_block_size>
__global__ void __launch_bounds__(threads) thread_block_kernel(const __grid_constant__ Body body) {
  using Shared = typename Body::Shared;
  __shared__ WarpScratch scratch[threads / warp_size];
  alignas(16) __shared__ unsigned char shared[sizeof(Shared)];
  body(DeviceThreadBlock<threads>(scratch), *reinterpret_cast<Shared*>(shared),
       static_cast<std::int64_t>(blockIdx.x), static_cast<std::int64_t>(gridDim.x));
}

#endif

}  // namespace actpack::detail
