// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Sign-magnitude contexts on the device.
#include "actpack/cuda/sign_magnitude.hpp"

#include "group_launch.cuh"

namespace actpack {

template <DeviceElement T>
void encode(const T* y, SignMagnitudeView out, Rounding rounding, std::int64_t first_row,
            std::int64_t num_rows, cudaStream_t stream) {
  detail::encode_rows(y, "y", out, rounding, first_row, num_rows, "encode", stream);
}

template <DeviceElement T>
void decode(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
            Decoding decoding, cudaStream_t stream) {
  detail::decode_elements(in, first, count, y, "y", decoding, detail::NegativeSide::kept,
                          detail::NoEpilogue{}, "decode", stream);
}

template <DeviceElement T>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, std::int64_t count, T* y,
                 Decoding decoding, cudaStream_t stream) {
  detail::decode_elements(in, first, count, y, "y", decoding, detail::NegativeSide::zero,
                          detail::NoEpilogue{}, "decode_relu", stream);
}

template <DeviceElement T>
void relu_backward(const T* dy, ConstSignMagnitudeView in, std::int64_t first, std::int64_t count,
                   T* dx, cudaStream_t stream) {
  detail::require_arrays(in);
  detail::require_elements(in.layout, first, count);
  detail::require_memory(dy, count, "dy");
  detail::require_memory(dx, count, "dx");
  if (count == 0) {
    return;
  }
  const detail::RowWalk walk = detail::walk_over(in.layout, first, count);
  detail::enqueue(detail::ReluBackwardRows<detail::Storage<T>>{detail::as_storage(dy) - first, in,
                                                               detail::as_storage(dx) - first,
                                                               first, first + count, walk},
                  walk.end_group - walk.first_group, "relu_backward", stream);
}

#define ACTPACK_INSTANTIATE(T)                                                                     \
  template void encode<T>(const T*, SignMagnitudeView, Rounding, std::int64_t, std::int64_t,       \
                          cudaStream_t);                                                           \
  template void decode<T>(ConstSignMagnitudeView, std::int64_t, std::int64_t, T*, Decoding,        \
                          cudaStream_t);                                                           \
  template void decode_relu<T>(ConstSignMagnitudeView, std::int64_t, std::int64_t, T*, Decoding,   \
                               cudaStream_t);                                                      \
  template void relu_backward<T>(const T*, ConstSignMagnitudeView, std::int64_t, std::int64_t, T*, \
                                 cudaStream_t);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(__half)
ACTPACK_INSTANTIATE(__nv_bfloat16)

}  // namespace actpack
