// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The one kernel that runs a body on the device: a body is a functor (team, index), called for
// every index by the lanes of one team.
#pragma once

#include <cstdint>

#include "actpack/cuda/team.hpp"
#include "block.hpp"

namespace actpack::detail {

/// The number of blocks that a multiprocessor is to have registers for; Turing's have a thousand
/// threads and no more.
constexpr int resident_blocks(int wanted) {
  constexpr int most = ACTPACK_DEVICE_ARCH == 750 ? 1024 / block_threads : 6;
  return wanted < most ? wanted : most;
}

/// Body::lanes() is the size of a team; at least Body::blocks_per_multiprocessor blocks are to find
/// registers. Teams of the last block may get indices beyond the last: a body must do nothing there
/// but keep its warp company in reduce().
template <class Body>
__global__ void __launch_bounds__(block_threads, resident_blocks(Body::blocks_per_multiprocessor))
    team_kernel(const __grid_constant__ Body body) {
  const int lanes = body.lanes();
  const std::int64_t teams_per_block = block_threads / lanes;
  body(DeviceTeam(lanes), static_cast<std::int64_t>(blockIdx.x) * teams_per_block +
                              threadIdx.x / static_cast<unsigned>(lanes));
}

}  // namespace actpack::detail
