// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A straightforward compressor, to compare with: three kernels, two reads of the input, and a
// generator set up in every thread. 2 bits a value, and a float minimum and step a group.
#pragma once

#include <cuda_runtime.h>
#include <curand_kernel.h>

#include <cstdint>

#include "actpack/cuda/error.hpp"

namespace two_pass {

inline constexpr int group_size = 256;
inline constexpr int codes_per_byte = 4;
inline constexpr int bytes_per_group = group_size / codes_per_byte;
inline constexpr int block_threads = 256;
inline constexpr double bits_per_value = 2 + 2 * 32.0 / group_size;

struct View {
  std::int64_t num_groups;
  std::uint8_t* codes;  // [num_groups * bytes_per_group]
  float* min;           // [num_groups]
  float* step;          // [num_groups]
};

/// Pass 1: the range of each group, by 32 threads that read 4 bytes at a time.
static __global__ void find_ranges(const float* x, View out) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t group = thread / 32;
  const int lane = static_cast<int>(thread % 32);
  if (group >= out.num_groups) {
    return;
  }
  const float* values = x + group * group_size;
  float min = values[lane];
  float max = min;
  for (int e = lane + 32; e < group_size; e += 32) {
    min = fminf(min, values[e]);
    max = fmaxf(max, values[e]);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    min = fminf(min, __shfl_xor_sync(0xFFFFFFFFu, min, distance));
    max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, distance));
  }
  if (lane == 0) {
    out.min[group] = min;
    out.step[group] = max;  // until the next kernel
  }
}

static __global__ void find_steps(View out) {
  const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (group < out.num_groups) {
    out.step[group] = (out.step[group] - out.min[group]) / 3;
  }
}

/// Pass 2: a thread makes one byte, of values a quarter of the group apart so that neighbours read
/// neighbours.
static __global__ void quantize_bytes(const float* x, View out, std::uint64_t seed) {
  const std::int64_t byte = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t group = byte / bytes_per_group;
  if (group >= out.num_groups) {
    return;
  }
  curandStatePhilox4_32_10_t state;
  curand_init(seed, static_cast<unsigned long long>(byte), 0, &state);
  const float4 uniform = curand_uniform4(&state);
  const float noise[codes_per_byte] = {uniform.x, uniform.y, uniform.z, uniform.w};
  const float* values = x + group * group_size + byte % bytes_per_group;
  const float min = out.min[group];
  const float step = out.step[group];
  const float steps_per_unit = step > 0 ? 1 / step : 0;
  unsigned codes = 0;
  for (int i = 0; i < codes_per_byte; ++i) {
    const float position = (values[i * bytes_per_group] - min) * steps_per_unit + noise[i];
    codes |= static_cast<unsigned>(fminf(position, 3)) << (2 * i);
  }
  out.codes[byte] = static_cast<std::uint8_t>(codes);
}

/// A thread decodes one byte.
static __global__ void dequantize_bytes(View in, float* x) {
  const std::int64_t byte = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t group = byte / bytes_per_group;
  if (group >= in.num_groups) {
    return;
  }
  const unsigned codes = in.codes[byte];
  const float min = in.min[group];
  const float step = in.step[group];
  float* values = x + group * group_size + byte % bytes_per_group;
  for (int i = 0; i < codes_per_byte; ++i) {
    values[i * bytes_per_group] = static_cast<float>(codes >> (2 * i) & 3) * step + min;
  }
}

inline void check_launch() {
  if (const cudaError_t code = cudaGetLastError(); code != cudaSuccess) {
    throw actpack::cuda_error(code, "two_pass: launch");
  }
}

inline unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + block_threads - 1) / block_threads);
}

/// Quantizes `x` [device, out.num_groups * group_size] with stochastic rounding.
inline void quantize(const float* x, View out, std::uint64_t seed, cudaStream_t stream) {
  find_ranges<<<blocks_for(32 * out.num_groups), block_threads, 0, stream>>>(x, out);
  check_launch();
  find_steps<<<blocks_for(out.num_groups), block_threads, 0, stream>>>(out);
  check_launch();
  quantize_bytes<<<blocks_for(bytes_per_group * out.num_groups), block_threads, 0, stream>>>(x, out,
                                                                                             seed);
  check_launch();
}

inline void dequantize(View in, float* x, cudaStream_t stream) {
  dequantize_bytes<<<blocks_for(bytes_per_group * in.num_groups), block_threads, 0, stream>>>(in,
                                                                                              x);
  check_launch();
}

}  // namespace two_pass
