// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The steps of every verb around its kernel: it names elements by the library's own types, picks
// the noise, and enqueues.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>
#include <string>

#include "actpack/cuda/element.hpp"
#include "actpack/cuda/error.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"
#include "tile_kernel.hpp"

namespace actpack::detail {

/// The library's own type of the same bits as a device's.
template <class T>
struct StorageOf {
  using type = T;
};
template <>
struct StorageOf<__half> {
  using type = float16;
};
template <>
struct StorageOf<__nv_bfloat16> {
  using type = bfloat16;
};
template <class T>
using Storage = typename StorageOf<T>::type;

template <class T>
const Storage<T>* as_storage(const T* x) {
  return reinterpret_cast<const Storage<T>*>(x);
}
template <class T>
Storage<T>* as_storage(T* x) {
  return reinterpret_cast<Storage<T>*>(x);
}

inline void check(cudaError_t code, const char* verb, const char* call) {
  if (code != cudaSuccess) {
    throw cuda_error(code, std::string(verb) + ": " + call);
  }
}

/// Enqueues `kernel`(body) with `blocks` blocks, unless there are none.
template <class Body>
void enqueue(void (*kernel)(Body), const Body& body, std::int64_t blocks, int threads,
             const char* verb, cudaStream_t stream) {
  refuse_unless(blocks <= (std::numeric_limits<std::int32_t>::max)(), verb, " would need ", blocks,
                " blocks, more than a grid has");
  if (blocks <= 0) {
    return;
  }
  Body argument = body;
  void* arguments[] = {&argument};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                         dim3(static_cast<unsigned>(threads)), arguments, 0, stream),
        verb, "launch");
}

/// Enqueues `body` for indices [0, count).
template <class Body>
void enqueue(const Body& body, std::int64_t count, const char* verb, cudaStream_t stream) {
  const std::int64_t tiles_per_block = block_threads / body.lanes();
  enqueue(&tile_kernel<Body>, body, (count + tiles_per_block - 1) / tiles_per_block, block_threads,
          verb, stream);
}

/// Calls f with the noise of a rounding, which has one of two types.
template <class F>
void with_noise(const Rounding& rounding, const F& f) {
  if (rounding.is_stochastic) {
    f(StochasticNoise{SeededNoise(rounding.seed, rounding.offset),
                      rounding.device_seed_and_offset});
  } else {
    f(NearestNoise{});
  }
}

/// The same for kernels that have a variant of their own for seeds that the host knows.
template <class F>
void with_fast_noise(const Rounding& rounding, const F& f) {
  if (rounding.is_stochastic && rounding.device_seed_and_offset == nullptr) {
    f(SeededNoise(rounding.seed, rounding.offset));
  } else {
    with_noise(rounding, f);
  }
}

}  // namespace actpack::detail
