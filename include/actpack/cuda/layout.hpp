// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The starts of rows of different widths, computed on the device: the host needs to know no width.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/layout.hpp"

namespace actpack {

/// Returns the bytes of device memory that `row_offsets` needs for the layout's rows. Throws
/// std::invalid_argument if the layout is wrong, cuda_error without a device.
std::size_t row_offsets_workspace(const Layout& layout);

/// Writes the running sum of the rows' words to `offsets` [device, rows + 1], given their widths
/// `row_bits` [device, rows], each 1, 2, 4 or 8 and at most layout.bits. Widths are read when the
/// kernel runs and cannot be checked. `workspace` [device] has at least
/// row_offsets_workspace(layout) bytes and may be reused once the stream has gone past. Enqueues
/// CUB's scan on `stream`.
void row_offsets(const Layout& layout, const std::uint8_t* row_bits, std::int64_t* offsets,
                 std::span<std::byte> workspace, cudaStream_t stream);

}  // namespace actpack
