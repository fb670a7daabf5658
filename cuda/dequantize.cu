// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decoding on the device, plain or subtractive, with or without an epilogue.
#include "actpack/cuda/quantize.hpp"
#include "group_launch.cuh"

namespace actpack {

template <DeviceElement T>
void dequantize(ConstPackedView in, std::int64_t first, std::int64_t count, T* x, Decoding decoding,
                cudaStream_t stream) {
  detail::decode_elements(in, first, count, x, "x", decoding, detail::NegativeSide::kept,
                          detail::NoEpilogue{}, "dequantize", stream);
}

template <DeviceElement T>
void dequantize(ConstPackedView in, std::int64_t first, std::int64_t count, T* x, Decoding decoding,
                const DecodingEpilogue& epilogue, cudaStream_t stream) {
  detail::refuse_unless(epilogue.channels > 0, "epilogue.channels = ", epilogue.channels,
                        " is not positive");
  detail::refuse_unless(epilogue.inner > 0, "epilogue.inner = ", epilogue.inner,
                        " is not positive");
  detail::decode_elements(
      in, first, count, x, "x", decoding, detail::NegativeSide::kept,
      detail::ChannelEpilogue<detail::Storage<T>>{epilogue.scale, epilogue.shift, epilogue.channels,
                                                  epilogue.inner, epilogue.mask},
      "dequantize", stream);
}

#define ACTPACK_INSTANTIATE(T)                                                           \
  template void dequantize<T>(ConstPackedView, std::int64_t, std::int64_t, T*, Decoding, \
                              cudaStream_t);                                             \
  template void dequantize<T>(ConstPackedView, std::int64_t, std::int64_t, T*, Decoding, \
                              const DecodingEpilogue&, cudaStream_t);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(__half)
ACTPACK_INSTANTIATE(__nv_bfloat16)

}  // namespace actpack
