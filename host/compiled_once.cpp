// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// All functions that are inline in programs without actpack::host. One file has them, because they
// call each other.
#define ACTPACK_COMPILED_ONCE
#include "actpack/detail/allocation/allocate.hpp"
#include "actpack/detail/auto_precision/members.hpp"
#include "actpack/detail/refuse.hpp"
#include "actpack/detail/serialize/members.hpp"
