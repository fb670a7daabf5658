// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decoding for saved tensors whose consumer is unknown, on the device: sign_keeping.hpp with device
// pointers and a stream. The rules of cuda/quantize.hpp apply.
#pragma once

#include "actpack/cuda/element.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack {

/// Decodes all of `in` [device] plainly into `y` [device, layout.numel()], but for positive values
/// that were rounded to 0: these become the smallest positive number.
template <DeviceElement T>
void decode_keeping_signs(const ConstSignMagnitudeView& in, T* y, cudaStream_t stream);

}  // namespace actpack
