// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Encoding and decoding sign-magnitude contexts, for every type.
#define ACTPACK_COMPILED_ONCE inline
#include "actpack/detail/host/group_codec.hpp"
#include "actpack/detail/host/relu_groups.hpp"

namespace actpack::detail {

#define ACTPACK_INSTANTIATE(T)                                                                     \
  template void encode_groups(const T*, const SignMagnitudeView&, const Rounding&,                 \
                              ElementInterval, Footprint);                                         \
  template void decode_groups(const SideSource&, T*, const Decoding&, ElementInterval, Footprint); \
  template void relu_backward_groups(const T*, const ConstSignMagnitudeView&, T*, ElementInterval);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(float16)
ACTPACK_INSTANTIATE(bfloat16)

}  // namespace actpack::detail
