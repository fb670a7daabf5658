// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A warp tile: lanes of a warp that share one group, or one host thread that plays them all.
//
// Cooperative code is a function of a tile, in phases. In map() each lane works alone; in reduce()
// the lanes meet. The results of map() stay each lane's own until the next phase, so nothing needs
// shared memory, and the same source runs, and is tested, without a GPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/config.hpp"

namespace actpack {

inline constexpr int warp_size = 32;

/// All lanes of a tile, played in turn by the calling host thread. Marked for devices as well,
/// because the functions that call it are.
class HostWarpTile {
 public:
  /// One value for each lane.
  template <class T>
  struct PerLane {
    T value[warp_size];

    ACTPACK_HD T& operator[](int lane) { return value[lane]; }
    ACTPACK_HD const T& operator[](int lane) const { return value[lane]; }
  };

  /// `lanes` [1, 32] is a power of two.
  ACTPACK_HD explicit HostWarpTile(int lanes) : lanes_(lanes) {}

  ACTPACK_HD int lanes() const { return lanes_; }

  /// Returns f(lane, v...) of every lane.
  template <class F, class... V>
  ACTPACK_HD auto map(F f, const PerLane<V>&... v) const {
    using Result = std::invoke_result_t<F, int, const V&...>;
    if constexpr (std::is_void_v<Result>) {
      for (int lane = 0; lane < lanes_; ++lane) {
        f(lane, v[lane]...);
      }
    } else {
      PerLane<Result> results{};
      for (int lane = 0; lane < lanes_; ++lane) {
        results[lane] = f(lane, v[lane]...);
      }
      return results;
    }
  }

  /// Returns all lanes' values combined by `op`, which must be associative and commutative.
  template <class T, class Op>
  ACTPACK_HD T reduce(PerLane<T> v, Op op) const {
    for (int half = lanes_ / 2; half > 0; half /= 2) {  // in the order of the device's butterfly
      for (int lane = 0; lane < half; ++lane) {
        v[lane] = op(v[lane], v[lane + half]);
      }
    }
    return v[0];
  }

 private:
  int lanes_;
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

/// The calling lane of a tile of neighbouring lanes of one warp.
class WarpTile {
 public:
  template <class T>
  using PerLane = T;

  /// `lanes` [1, 32] is a power of two, and the block is one-dimensional. `active` names the lanes
  /// of the warp that call every function of their tile together: all 32, unless some have gone
  /// their own way.
  __device__ explicit WarpTile(int lanes, std::uint32_t active = 0xFFFFFFFFu)
      : lanes_(lanes), active_(active) {}

  __device__ int lanes() const { return lanes_; }

  template <class F, class... V>
  __device__ auto map(F f, const V&... v) const {
    return f(static_cast<int>(threadIdx.x) & (lanes_ - 1), v...);
  }

  template <class T, class Op>
  __device__ T reduce(T v, Op op) const {
    for (int distance = lanes_ / 2; distance > 0; distance /= 2) {
      v = op(v, exchange(v, distance));
    }
    return v;
  }

  /// The value of the lane whose number differs by the bit `distance`.
  template <class T>
  __device__ T exchange(T v, int distance) const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 4 == 0);
    std::uint32_t words[sizeof(T) / 4];
    __builtin_memcpy(words, &v, sizeof v);
    for (std::uint32_t& word : words) {
      word = __shfl_xor_sync(active_, word, distance);
    }
    __builtin_memcpy(static_cast<void*>(&v), words, sizeof v);
    return v;
  }

 private:
  int lanes_;
  std::uint32_t active_;
};

#endif

}  // namespace actpack
