// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The one kernel that runs most bodies on the device. A body is a functor (tile, index): the lanes
// of one warp tile call it together for every index.
#pragma once

#include <cstdint>

#include "actpack/cuda/warp_tile.hpp"

namespace actpack::detail {

/// The threads of a block.
inline constexpr int block_threads = 256;

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

/// The number of blocks that a multiprocessor has registers for. Turing's have a thousand threads
/// and no more.
constexpr int resident_blocks(int wanted) {
  constexpr int most = ACTPACK_DEVICE_ARCH == 750 ? 1024 / block_threads : 6;
  return wanted < most ? wanted : most;
}

/// Body::lanes() is the size of a tile; at least Body::blocks_per_multiprocessor blocks find
/// registers. Tiles of the last block may get indices beyond the last. A body must do nothing there
/// but keep its warp company in reduce().
template <class Body>
__global__ void __launch_bounds__(block_threads, resident_blocks(Body::blocks_per_multiprocessor))
    tile_kernel(const __grid_constant__ Body body) {
  const int lanes = body.lanes();
  const std::int64_t tiles_per_block = block_threads / lanes;
  body(WarpTile(lanes), static_cast<std::int64_t>(blockIdx.x) * tiles_per_block +
                            threadIdx.x / static_cast<unsigned>(lanes));
}

#endif

}  // namespace actpack::detail
