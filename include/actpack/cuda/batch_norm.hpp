// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation on packed contexts on the device: batch_norm.hpp with device pointers and a
// stream. One pass normalises, rectifies and packs; the backward pass decodes as it goes.
//
// Contexts hold groups of 256 in one width, without gaps between rows: layout.rows is 1 or
// layout.row_size a multiple of 256. Every function enqueues on `stream`, allocates nothing,
// synchronises with nothing, and may be captured in a graph. Sums are added up in the same order
// every time. Wrong arguments throw std::invalid_argument before anything is enqueued. A launch
// that the CUDA runtime refuses throws cuda_error.
#pragma once

#include <cstdint>

#include "actpack/batch_norm_channels.hpp"
#include "actpack/cuda/element.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::batch_norm {

/// Writes operation.by_channel [device, channels.count], packs the saved tensor into `out`
/// [device], and writes y: `x`, `y` [device, layout.numel()], at least one element. `y` may be `x`.
/// Rounding must be stochastic, from a seed that the host knows: rounding to nearest would bias
/// gradients.
template <DeviceElement T>
void forward(const Operation& operation, const T* x, const PackedView& out,
             const Rounding& rounding, T* y, cudaStream_t stream);

/// The same with a ReLU after it: packs y and its signs, and writes max(y, 0). operation.saved
/// must be SavedValue::output.
template <DeviceElement T>
void forward(const Operation& operation, const T* x, const SignMagnitudeView& out,
             const Rounding& rounding, T* y, cudaStream_t stream);

/// Returns the floats of workspace that `backward` needs for a context of that layout.
std::int64_t workspace_numel(const Operation& operation, const Layout& layout);

/// Writes the gradients of gamma and beta [device, channels.count each] and, unless it is null, dx
/// [device, layout.numel()], given dz [device, layout.numel()], the gradient after the ReLU if
/// there is one. `in` [device] is the context that `forward` wrote. `decoding` takes the dither
/// out, or not. `count` is the number of a channel's elements, or 0 where statistics do not depend
/// on x. `workspace`
/// [device, workspace_numel()] is aligned to 16 bytes and may be reused once the stream has gone
/// past. `dx` may be `dz`.
template <DeviceElement T>
void backward(const Operation& operation, const T* dz, const ConstPackedView& in,
              const Decoding& decoding, std::int64_t count, float* workspace, float* gamma_gradient,
              float* beta_gradient, T* dx, cudaStream_t stream);

/// The same with a ReLU after it.
template <DeviceElement T>
void backward(const Operation& operation, const T* dz, const ConstSignMagnitudeView& in,
              const Decoding& decoding, std::int64_t count, float* workspace, float* gamma_gradient,
              float* beta_gradient, T* dx, cudaStream_t stream);

}  // namespace actpack::batch_norm
