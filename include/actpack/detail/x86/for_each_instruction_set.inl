// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Includes the file that ACTPACK_KERNELS names once for each instruction set, in its namespace and
// compiled for it. So kernels are written once, over the operations of avx2.hpp and avx512.hpp.

ACTPACK_BEGIN_TARGET(ACTPACK_AVX2)
namespace actpack::detail::inline ACTPACK_TARGET::avx2 {
#include ACTPACK_KERNELS
}
ACTPACK_END_TARGET

ACTPACK_BEGIN_TARGET(ACTPACK_AVX512)
namespace actpack::detail::inline ACTPACK_TARGET::avx512 {
#include ACTPACK_KERNELS
}
ACTPACK_END_TARGET

#undef ACTPACK_KERNELS
