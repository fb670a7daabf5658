// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the bodies of the library's kernels on threads of the CPU, as its verbs do on a device.
#pragma once

#include "simt.hpp"  // before the kernels

#include <cstdint>

#include "tile_kernel.hpp"

namespace simt {

// Runs a body for indices [0, count), and up to a block's beyond.
template <class Body>
void launch_tiles(const Body& body, std::int64_t count) {
  using actpack::detail::block_threads;
  const std::int64_t tiles_per_block = block_threads / body.lanes();
  const std::int64_t blocks = (count + tiles_per_block - 1) / tiles_per_block;
  launch(static_cast<unsigned>(blocks), block_threads, &actpack::detail::tile_kernel<Body>, body);
}

}  // namespace simt
