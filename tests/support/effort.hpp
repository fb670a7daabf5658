// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Tells a test that it runs many times slower than usual: it may then leave out what takes the same
// paths once more.
#pragma once

namespace support {

// Under sanitizers; the build system knows.
#if defined(ACTPACK_SANITIZED_TESTS)
inline constexpr bool runs_slowly = true;
#else
inline constexpr bool runs_slowly = false;
#endif

}  // namespace support
