// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The package's own kernels, as its C functions call them. T is float, actpack::float16 or
// actpack::bfloat16, View actpack::PackedView or SignMagnitudeView, of groups of 256. All pointers
// are the device's; everything is enqueued on `stream`, nothing is allocated, and sums are added up
// in the same order every time. Thrown are std::invalid_argument for another group size, and
// actpack::cuda_error for a failed launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"
#include "packed_batch_norm.hpp"

namespace packed_values {

// As packed_values.hpp has it.
template <class T>
void decode_keeping_signs(const actpack::SignMagnitudeView& in, T* out, cudaStream_t stream);

}  // namespace packed_values

namespace packed_batch_norm {

// Writes by_channel, packs the kept tensor into `out`, and writes y; or max(y, 0), if `out` is a
// sign-magnitude context, of the output then. `y` may be `x`. Throws std::invalid_argument for no
// elements, as `backward` does, or rounding that is not stochastic, too.
template <class T, class View>
void forward(const Operation& operation, const T* x, const View& out,
             const actpack::Rounding& rounding, T* y, cudaStream_t stream);

// The floats that `backward` works in.
std::int64_t workspace_numel(const Operation& operation, const actpack::Layout& layout);

// Writes the gradients of gamma, beta and, unless null, x; `elements` as `finish` takes them.
template <class T, class View>
void backward(const Operation& operation, const T* dz, const View& in,
              const actpack::Decoding& decoding, std::int64_t elements, float* workspace,
              float* gamma_gradient, float* beta_gradient, T* dx, cudaStream_t stream);

}  // namespace packed_batch_norm
