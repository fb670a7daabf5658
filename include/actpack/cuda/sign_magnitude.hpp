// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The context of normalisation, ReLU and convolution on the device: sign_magnitude.hpp with device
// pointers and a stream. What holds for every verb of cuda/quantize.hpp holds here.
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack {

/// Encodes `y` [device, layout.numel() values, row-major], a ReLU's input, into `out` [device].
template <DeviceElement T>
void encode(const T* y, SignMagnitudeView out, Rounding rounding, cudaStream_t stream);

/// Encodes a chunk: `y` [device] holds rows [first_row, first_row + num_rows).
template <DeviceElement T>
void encode(const T* y, SignMagnitudeView out, Rounding rounding, std::int64_t first_row,
            std::int64_t num_rows, cudaStream_t stream);

/// Decodes elements [first, first + count) of y into `y` [device, count], for the normalisation
/// before the ReLU.
template <DeviceElement T>
void decode(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
            Decoding decoding, cudaStream_t stream);

/// Decodes the whole tensor.
template <DeviceElement T>
void decode(ConstSignMagnitudeView in, T* y, Decoding decoding, cudaStream_t stream);

/// Decodes elements [first, first + count) of max(y, 0), for the operation after the ReLU.
template <DeviceElement T>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
                 Decoding decoding, cudaStream_t stream);

/// Decodes the whole tensor.
template <DeviceElement T>
void decode_relu(ConstSignMagnitudeView in, T* y, Decoding decoding, cudaStream_t stream);

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements [first, first + count): `dy`, `dx` [device, count]; dx may be dy.
template <DeviceElement T>
void relu_backward(const T* dy, ConstSignMagnitudeView in, std::int64_t first, std::int64_t count,
                   T* dx, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void relu_backward(const T* dy, ConstSignMagnitudeView in, T* dx, cudaStream_t stream);

}  // namespace actpack
