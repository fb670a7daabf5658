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

/// No more than ThreadSanitizer can tell apart in tests/cuda/simt.hpp.
inline constexpr int thread_block_size = 192;
inline constexpr int thread_block_warps = thread_block_size / warp_size;

/// One host thread that does the work of DeviceThreadBlock, in the same order where that matters.
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

  /// Adds to a sum that other threads and blocks may add to at the same time.
  ACTPACK_HD void add(std::uint64_t& sum, std::uint64_t value) const { sum += value; }
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

class DeviceThreadBlock {
 public:
  static constexpr bool is_one_thread = false;

  /// Shared memory of one warp: the sum that a scan passes on to the next warp.
  struct alignas(16) Scratch {
    unsigned char value[16];
  };

  /// `scratch` has an element for each warp.
  __device__ explicit DeviceThreadBlock(Scratch* scratch) : scratch_(scratch) {}

  __device__ bool is_leader() const { return threadIdx.x == 0; }
  __device__ void sync() const { __syncthreads(); }

  template <class F>
  __device__ void for_each(std::int64_t count, const F& f) const {
    for (std::int64_t i = threadIdx.x; i < count; i += thread_block_size) f(i);
    sync();
  }

  template <class F>
  __device__ void for_each_warp(std::int64_t count, const F& f) const {
    for (std::int64_t i = warp(); i < count; i += thread_block_warps) f(WarpTile(warp_size), i);
    sync();
  }

  template <class T, class Op, class Value, class Use>
  __device__ T scan(std::int64_t count, T none, const Op& op, const Value& value,
                    const Use& use) const {
    static_assert(sizeof(T) <= sizeof(Scratch));
    T total = none;
    for (std::int64_t first = 0; first < count; first += thread_block_size) {
      const std::int64_t i = first + threadIdx.x;
      const T own = i < count ? value(i) : none;
      T before = none;
      const T of_warp = scan_warp(own, before, op);
      if (lane() == 0) __builtin_memcpy(scratch_ + warp(), &of_warp, sizeof(T));
      sync();
      for (int w = 0; w < thread_block_warps; ++w) {
        T sum = none;
        __builtin_memcpy(static_cast<void*>(&sum), scratch_ + w, sizeof(T));
        if (w == warp()) before = op(total, before);
        total = op(total, sum);
      }
      if (i < count) use(i, own, before);
      sync();
    }
    return total;
  }

  __device__ void add(std::uint64_t& sum, std::uint64_t value) const {
    static_assert(sizeof(unsigned long long) == sizeof sum);
    atomicAdd(reinterpret_cast<unsigned long long*>(&sum), value);
  }

 private:
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / warp_size; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }

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

  Scratch* scratch_;
};

/// Runs body(block, shared memory, number of the block, number of blocks). The shared memory is
/// uninitialised.
template <class Body>
__global__ void __launch_bounds__(thread_block_size)
    thread_block_kernel(const __grid_constant__ Body body) {
  using Shared = typename Body::Shared;
  __shared__ DeviceThreadBlock::Scratch scratch[thread_block_warps];
  alignas(16) __shared__ unsigned char shared[sizeof(Shared)];
  body(DeviceThreadBlock(scratch), *reinterpret_cast<Shared*>(shared),
       static_cast<std::int64_t>(blockIdx.x), static_cast<std::int64_t>(gridDim.x));
}

#endif

}  // namespace actpack::detail
