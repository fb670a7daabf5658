// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One-bit contexts on the device: mask.hpp with device pointers and a stream. The rules of
// cuda/quantize.hpp apply. Arrays need the alignment of their type only, but are fastest at 16
// bytes.
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// Writes y = max(x, 0) and the mask x > 0 in one pass: `x`, `y` [device, numel], `mask` [device,
/// words_for(numel, 1)], every word of it. y may be x.
template <DeviceElement T>
void relu(const T* x, T* y, std::uint32_t* mask, std::int64_t numel, cudaStream_t stream);

/// Writes dx = dy where the mask is set, else 0: `dy`, `dx` [device, numel]. dx may be dy.
template <DeviceElement T>
void relu_backward(const T* dy, const std::uint32_t* mask, T* dx, std::int64_t numel,
                   cudaStream_t stream);

/// Drops each element with probability `drop_probability` and multiplies the others by 1 / (1 − p):
/// `x`, `y` [device, numel], `mask` [device, words_for(numel, 1)]. y may be x. This chunk starts at
/// element `first` of its tensor, a multiple of 32. The same elements stay as on the host.
template <DeviceElement T>
void dropout(const T* x, T* y, std::uint32_t* mask, std::int64_t numel, double drop_probability,
             Rounding rounding, std::int64_t first, cudaStream_t stream);

/// Writes dx = dy / (1 − p) where the mask is set, else 0: `dy`, `dx` [device, numel]; dx may be
/// dy.
template <DeviceElement T>
void dropout_backward(const T* dy, const std::uint32_t* mask, T* dx, std::int64_t numel,
                      double drop_probability, cudaStream_t stream);

}  // namespace actpack
