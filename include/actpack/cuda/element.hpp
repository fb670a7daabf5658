// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The types that tensors may have on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

// CUDA's own. NOLINTNEXTLINE(bugprone-reserved-identifier)
struct __half;
struct __nv_bfloat16;  // NOLINT(bugprone-reserved-identifier)

namespace actpack {

/// An element of the stream API, which includes neither cuda_fp16.h nor cuda_bf16.h.
template <class T>
concept DeviceElement =
    std::is_same_v<T, float> || std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>;

}  // namespace actpack
