// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Widths decided on the device: bit_allocation.hpp with device memory and a stream, and nothing for
// the host to wait for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/bit_allocation.hpp"
#include "actpack/layout.hpp"

namespace actpack {

/// Returns the bytes of device memory that the functions below need for so many items. Throws
/// std::invalid_argument if `items` is negative or exceeds 2^32 - 1, cuda_error without a device.
std::size_t device_allocation_workspace(std::int64_t items);

/// Writes the widths of least total variance to `bits` [device, items], and what they come to to
/// `totals` [device, 1; null: nowhere]: those of the host's allocate_bits, to the last bit. All
/// spans of `problem` are device memory, read when the kernels run; the budget is the host's.
/// `workspace` [device] has at least device_allocation_workspace(items) bytes and may be reused
/// once the stream has gone past.
///
/// What the host can see is refused as by the host's function. What it cannot see is the data: if
/// they, or sizes, limits and budget together, make a problem that the host's function would
/// refuse, every item gets its narrowest width (1 bit where its limits are none), and `totals` hold
/// -1 bits and NaN.
///
/// Enqueues some 20 kernels and 2 settings of memory; allocates nothing, synchronises with nothing,
/// and may be captured in a graph. Deterministic. The price per bit is found by radix selection
/// among the gains of all steps; the search for the best use of the rest is one block's, and takes
/// its time where sizes differ much.
void allocate_bits(const AllocationProblem& problem, std::span<std::uint8_t> bits,
                   AllocationTotals* totals, std::span<std::byte> workspace, cudaStream_t stream);

/// The same for variances measured at each width.
void allocate_measured_bits(const MeasuredAllocationProblem& problem, std::span<std::uint8_t> bits,
                            AllocationTotals* totals, std::span<std::byte> workspace,
                            cudaStream_t stream);

/// The same for the rows of one tensor: writes `row_bits` [device, rows] and `row_offsets` [device,
/// rows + 1] for a PackedView to hold that quantize is called with next on this stream.
/// problem.numel are the sizes of the layout's rows. layout.bits is an upper bound as ever: unless
/// it is 8, problem.max_bits must be given, and exceed it nowhere.
void allocate_row_bits(const AllocationProblem& problem, const Layout& layout,
                       std::span<std::uint8_t> row_bits, std::span<std::int64_t> row_offsets,
                       AllocationTotals* totals, std::span<std::byte> workspace,
                       cudaStream_t stream);

}  // namespace actpack
