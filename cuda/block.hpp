// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The size of a block.
#pragma once

namespace actpack::detail {

inline constexpr int block_threads = 256;

}  // namespace actpack::detail
