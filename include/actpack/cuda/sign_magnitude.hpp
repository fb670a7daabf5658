// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The context of normalisation, ReLU and convolution on the device: sign_magnitude.hpp with device
// pointers and a stream. The rules of cuda/quantize.hpp apply.
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack {

/// Encodes rows [first_row, first_row + num_rows) of a tensor, a ReLU's input, which `y` [device,
/// row-major] holds, into `out` [device].
template <DeviceElement T>
void encode(const T* y, SignMagnitudeView out, Rounding rounding, std::int64_t first_row,
            std::int64_t num_rows, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void encode(const T* y, SignMagnitudeView out, Rounding rounding, cudaStream_t stream) {
  encode(y, out, rounding, 0, out.layout.rows, stream);
}

/// Decodes elements [first, first + count) of y into `y` [device, count], for the normalisation
/// before the ReLU.
template <DeviceElement T>
void decode(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
            Decoding decoding, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void decode(ConstSignMagnitudeView in, T* y, Decoding decoding, cudaStream_t stream) {
  in.layout.validate();
  decode(in, 0, in.layout.numel(), y, decoding, stream);
}

/// Decodes elements [first, first + count) of max(y, 0), for the operation after the ReLU.
template <DeviceElement T>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
                 Decoding decoding, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void decode_relu(ConstSignMagnitudeView in, T* y, Decoding decoding, cudaStream_t stream) {
  in.layout.validate();
  decode_relu(in, 0, in.layout.numel(), y, decoding, stream);
}

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements [first, first + count): `dy`, `dx` [device, count]; dx may be dy.
template <DeviceElement T>
void relu_backward(const T* dy, ConstSignMagnitudeView in, std::int64_t first, std::int64_t count,
                   T* dx, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void relu_backward(const T* dy, ConstSignMagnitudeView in, T* dx, cudaStream_t stream) {
  in.layout.validate();
  relu_backward(dy, in, 0, in.layout.numel(), dx, stream);
}

}  // namespace actpack
