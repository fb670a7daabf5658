// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Tells a test that it runs many times slower than usual: it may then leave out what takes the same
// paths once more.
#pragma once

#include <cstdint>

namespace support {

// Under sanitizers and an emulator, except at night; the build system knows.
#if defined(ACTPACK_SLOW_TESTS)
inline constexpr bool runs_slowly = true;
#else
inline constexpr bool runs_slowly = false;
#endif

// Whether to skip one of many like cases, which are numbered. Every `stride`-th stays. A stride is
// a prime that does not divide the length of any loop that makes the cases, and is small enough
// that each value of each parameter is in a case that stays.
constexpr bool is_left_out(std::uint64_t number, std::uint64_t stride = 11) {
  return runs_slowly && number % stride != 0;
}

}  // namespace support
