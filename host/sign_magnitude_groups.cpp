// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Encoding and decoding sign-magnitude contexts, for every type.
#include "actpack/detail/host/sign_magnitude_groups.hpp"

namespace actpack::detail {

#define ACTPACK_INSTANTIATE(T)                                                                     \
  template void encode_groups<T>(const T*, const SignMagnitudeView&, const Rounding&,              \
                                 ElementInterval, Footprint);                                      \
  template void decode_groups<T>(const ConstSignMagnitudeView&, T*, const Decoding&, NegativeSide, \
                                 ElementInterval, Footprint);                                      \
  template void relu_backward_groups<T>(const T*, const ConstSignMagnitudeView&, T*,               \
                                        ElementInterval);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(float16)
ACTPACK_INSTANTIATE(bfloat16)

}  // namespace actpack::detail
