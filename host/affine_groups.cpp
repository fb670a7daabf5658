// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Quantizing and dequantizing, for every type.
#define ACTPACK_COMPILED_ONCE inline
#include "actpack/detail/host/group_codec.hpp"

namespace actpack::detail {

#define ACTPACK_INSTANTIATE(T)                                                               \
  template void encode_groups(const T*, const PackedView&, const Rounding&, ElementInterval, \
                              Footprint);                                                    \
  template void decode_groups(const ConstPackedView&, T*, const Decoding&, ElementInterval,  \
                              Footprint);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(float16)
ACTPACK_INSTANTIATE(bfloat16)

}  // namespace actpack::detail
