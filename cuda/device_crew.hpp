// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The crew that the threads of a device's block are, the kernel that puts them to work, and a host
// thread that plays them all.
#pragma once

#include <cstdint>

#include "actpack/cuda/warp_tile.hpp"
#include "actpack/detail/allocation/thread_block.hpp"

namespace actpack::detail {

/// No more than ThreadSanitizer can tell apart in tests/cuda/simt.hpp.
inline constexpr int crew_threads = 192;
inline constexpr int crew_warps = crew_threads / warp_size;

/// Does for one block what DeviceCrew does, in the same order where that counts.
class HostCrew : public SoloCrew {
 public:
  static constexpr bool is_alone = false;

  /// Calls f(team, i) for 0 <= i < count with whole warps, in any order. All meet at the end.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void for_each_team(std::int64_t count, const F& f) const {
    for (std::int64_t i = 0; i < count; ++i) f(HostWarpTile(warp_size), i);
  }

  /// Adds to what other threads and blocks may add to at the same time.
  ACTPACK_HD void add(std::uint64_t& sum, std::uint64_t value) const { sum += value; }
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

class DeviceCrew {
 public:
  static constexpr bool is_alone = false;

  /// Of every warp, in shared memory: what a scan passes from one to the next.
  struct alignas(16) Scratch {
    unsigned char value[16];
  };

  /// `scratch` has a place for each warp.
  __device__ explicit DeviceCrew(Scratch* scratch) : scratch_(scratch) {}

  __device__ bool leads() const { return threadIdx.x == 0; }
  __device__ void meet() const { __syncthreads(); }

  template <class F>
  __device__ void for_each(std::int64_t count, const F& f) const {
    for (std::int64_t i = threadIdx.x; i < count; i += crew_threads) f(i);
    meet();
  }

  template <class F>
  __device__ void for_each_team(std::int64_t count, const F& f) const {
    for (std::int64_t i = warp(); i < count; i += crew_warps) f(WarpTile(warp_size), i);
    meet();
  }

  template <class T, class Op, class Value, class Use>
  __device__ T scan(std::int64_t count, T none, const Op& op, const Value& value,
                    const Use& use) const {
    static_assert(sizeof(T) <= sizeof(Scratch));
    T total = none;
    for (std::int64_t first = 0; first < count; first += crew_threads) {
      const std::int64_t i = first + threadIdx.x;
      const T own = i < count ? value(i) : none;
      T before = none;
      const T of_warp = scan_warp(own, before, op);
      if (lane() == 0) __builtin_memcpy(scratch_ + warp(), &of_warp, sizeof(T));
      meet();
      for (int w = 0; w < crew_warps; ++w) {
        T sum = none;
        __builtin_memcpy(static_cast<void*>(&sum), scratch_ + w, sizeof(T));
        if (w == warp()) before = op(total, before);
        total = op(total, sum);
      }
      if (i < count) use(i, own, before);
      meet();
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

  /// Returns what the values of a warp come to, and sets `before` to what those of lower lanes do.
  template <class T, class Op>
  __device__ static T scan_warp(T sum, T& before, const Op& op) {
    const WarpTile team(warp_size);
    for (int distance = 1; distance < warp_size; distance *= 2) {
      const T other = team.exchange(sum, distance);
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

/// Runs body(crew, memory that the crew shares, number of the block, number of blocks). The shared
/// memory comes as it is.
template <class Body>
__global__ void __launch_bounds__(crew_threads) crew_kernel(const __grid_constant__ Body body) {
  using Shared = typename Body::Shared;
  __shared__ DeviceCrew::Scratch scratch[crew_warps];
  alignas(16) __shared__ unsigned char shared[sizeof(Shared)];
  body(DeviceCrew(scratch), *reinterpret_cast<Shared*>(shared),
       static_cast<std::int64_t>(blockIdx.x), static_cast<std::int64_t>(gridDim.x));
}

#endif

}  // namespace actpack::detail
