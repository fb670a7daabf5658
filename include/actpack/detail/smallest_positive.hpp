// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The number that stands for a positive value which was rounded to 0.
#pragma once

#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/float16.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The smallest positive number that no processor takes for 0: a normal one of float and bfloat16,
/// because some flush others to zero; any of float16, which is computed with as float.
template <class T>
ACTPACK_HD constexpr T smallest_positive() {
  if constexpr (std::is_same_v<T, float>) {
    return 0x1p-126f;
  } else {
    return T::from_bits(std::is_same_v<T, bfloat16> ? 0x0080 : 0x0001);
  }
}

/// `value`, or `instead` if that is 0; no branch, and vector instructions for many.
template <class T>
ACTPACK_HD constexpr T nonzero(T value, T instead) {
  if constexpr (std::is_same_v<T, float>) {
    return value == 0 ? instead : value;
  } else {
    return T::from_bits((value.bits & 0x7FFF) == 0 ? instead.bits : value.bits);
  }
}

}  // namespace actpack::detail
