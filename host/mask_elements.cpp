// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// ReLU, dropout and their backward passes, for every type.
#define ACTPACK_COMPILED_ONCE inline
#include "actpack/detail/host/mask_elements.hpp"

namespace actpack::detail {

#define ACTPACK_INSTANTIATE(T)                                                              \
  template void relu_elements<T>(const T*, std::int64_t, T*, std::uint32_t*);               \
  template void keep_elements<T>(const T*, std::int64_t, const std::uint32_t*, T*);         \
  template void scale_elements<T>(const T*, std::int64_t, const std::uint32_t*, T*, float); \
  template void drop_elements<T>(const T*, std::int64_t, std::int64_t, T*, std::uint32_t*,  \
                                 const DropoutRule&, const Rounding&);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(float16)
ACTPACK_INSTANTIATE(bfloat16)

}  // namespace actpack::detail
