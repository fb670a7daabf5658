// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decoding on the device that keeps every sign.
#include "actpack/cuda/sign_keeping.hpp"

#include "group_launch.cuh"

namespace actpack {

template <DeviceElement T>
void decode_keeping_signs(const ConstSignMagnitudeView& in, T* y, cudaStream_t stream) {
  detail::require_arrays(in);
  const Layout& layout = in.layout;
  detail::require_memory(y, layout.numel(), "y");
  if (layout.numel() == 0) {
    return;
  }
  const detail::RowWalk walk = detail::walk_over(layout, 0, layout.numel());
  detail::enqueue(detail::DecodeKeepingSigns<detail::Storage<T>>{in, detail::as_storage(y), walk},
                  walk.end_group, "decode_keeping_signs", stream);
}

template void decode_keeping_signs<float>(const ConstSignMagnitudeView&, float*, cudaStream_t);
template void decode_keeping_signs<__half>(const ConstSignMagnitudeView&, __half*, cudaStream_t);
template void decode_keeping_signs<__nv_bfloat16>(const ConstSignMagnitudeView&, __nv_bfloat16*,
                                                  cudaStream_t);

}  // namespace actpack
