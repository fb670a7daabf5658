// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The shim that runs kernels on threads of the CPU: lanes exchange values, and misuse ends a
// launch.
#include <doctest/doctest.h>

#include "simt.hpp"  // before the kernels

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "actpack/cuda/warp_tile.hpp"

namespace {

using actpack::WarpTile;

__global__ void sum_over_lanes(std::uint32_t mask, const std::uint32_t* in, std::uint32_t* out) {
  out[threadIdx.x] = WarpTile(16, mask).reduce(
      in[threadIdx.x], [](std::uint32_t a, std::uint32_t b) { return a + b; });
}

__global__ void sum_over_halves(const std::uint32_t* in, std::uint32_t* out) {
  const std::uint32_t half = threadIdx.x < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  sum_over_lanes(half, in, out);
  if (threadIdx.x < 16) {  // the other half goes its own way
    sum_over_lanes(half, out, out);
  }
}

__global__ void leave_before_shuffle(unsigned lane) {
  if (threadIdx.x != lane) {
    __shfl_xor_sync(0xFFFFFFFFu, 0, 1);
  }
}

__global__ void shuffle_by_two_masks() {
  __shfl_xor_sync(threadIdx.x < 16 ? 0xFFFFFFFFu : 0xFFFF0000u, 0, 1);
}

__global__ void leave_before_barrier(unsigned thread) {
  if (threadIdx.x != thread) {
    __syncthreads();
  }
}

template <class Launch>
std::string message_of(Launch run) {
  try {
    run();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("simt: tiles of half a warp that go their own ways") {
  std::vector<std::uint32_t> in(32), out(32);
  for (std::uint32_t i = 0; i < 32; ++i) in[i] = i;
  simt::launch(1, 32, &sum_over_lanes, 0xFFFFFFFFu, in.data(), out.data());
  CHECK(out[3] == 120);
  CHECK(out[31] == 376);
  simt::launch(1, 32, &sum_over_halves, in.data(), out.data());
  CHECK(out[3] == 16 * 120);
  CHECK(out[31] == 376);
}

TEST_CASE("simt: misuse ends a launch with a message") {
  std::vector<std::uint32_t> in(32), out(32);
  CHECK(message_of([&] {
          simt::launch(1, 32, &sum_over_lanes, 0x0000FFFFu, in.data(), out.data());
        }).find("is not in its own mask") != std::string::npos);
  CHECK(message_of([] {
          simt::launch(1, 64, &leave_before_shuffle, 40u);
        }).find("31 of 32 came to __shfl_xor_sync with mask 0xffffffff in warp 1") !=
        std::string::npos);
  const std::string masks = message_of([] { simt::launch(1, 32, &shuffle_by_two_masks); });
  CHECK(masks.find("16 of 32 came to __shfl_xor_sync with mask 0xffffffff") != std::string::npos);
  CHECK(message_of([] {
          simt::launch(2, 64, &leave_before_barrier, 9u);
        }).find("63 of 64 came to __syncthreads") != std::string::npos);
}
