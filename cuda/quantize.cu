// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Quantizing on the device.
#include "actpack/cuda/quantize.hpp"

#include "group_launch.cuh"

namespace actpack {

template <DeviceElement T>
void quantize(const T* x, PackedView out, Rounding rounding, std::int64_t first_row,
              std::int64_t num_rows, cudaStream_t stream) {
  detail::encode_rows(x, "x", out, rounding, first_row, num_rows, "quantize", stream);
}

#define ACTPACK_INSTANTIATE(T)                                                          \
  template void quantize<T>(const T*, PackedView, Rounding, std::int64_t, std::int64_t, \
                            cudaStream_t);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(__half)
ACTPACK_INSTANTIATE(__nv_bfloat16)

}  // namespace actpack
