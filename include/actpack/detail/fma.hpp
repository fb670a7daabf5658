// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The fused multiply–add, the one way in which a product meets a float addition here.
#pragma once

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Returns a · b + c, rounded once. The format never lets a rounded product feed a float addition,
/// so the bits do not depend on what a compiler contracts.
ACTPACK_HD inline float fma(float a, float b, float c) {
#if ACTPACK_DEVICE_ARCH
  return __fmaf_rn(a, b, c);
#else
  return ACTPACK_FMA(a, b, c);
#endif
}

}  // namespace actpack::detail
