// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How every verb refuses a caller's mistake.
#define ACTPACK_COMPILED_ONCE
#include "actpack/detail/refuse.hpp"
