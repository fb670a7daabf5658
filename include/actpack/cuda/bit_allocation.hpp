// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decides widths on the device: bit_allocation.hpp with device memory and a stream. The host waits
// for nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/allocation_problem.hpp"
#include "actpack/layout.hpp"

namespace actpack {

/// Returns the bytes of device memory that the functions below need for `items` items. Throws
/// std::invalid_argument if `items` is negative or exceeds 2^32 - 1, and cuda_error without a
/// device.
std::size_t device_allocation_workspace(std::int64_t items);

/// Writes the widths of least total variance to `bits` [device, items], and their sums to `totals`
/// [device, 1; may be null]. Both equal those of the host's allocate_bits, to the last bit. All
/// spans of `problem` are device memory, read when the kernels run. `workspace` [device] has at
/// least device_allocation_workspace(items) bytes; later work on the stream may reuse it.
///
/// Lengths, null pointers and the workspace are checked at once: std::invalid_argument. Data in
/// device memory are not: if values, sizes, limits and budget make a problem that the host's
/// function would refuse, every item gets its narrowest width (1 bit where its limits are not
/// widths or exclude all), and `totals` has -1 bits and NaN.
///
/// Enqueues some 20 kernels and 2 memsets; allocates nothing, synchronises with nothing, and may be
/// captured in a graph. Deterministic. Radix selection among the gains of all steps finds the price
/// per bit. A single block then searches the best use of the rest, which takes long where sizes
/// differ much.
void allocate_bits(const AllocationProblem& problem, std::span<std::uint8_t> bits,
                   AllocationTotals* totals, std::span<std::byte> workspace, cudaStream_t stream);

/// The same for variances measured at each width.
void allocate_measured_bits(const MeasuredAllocationProblem& problem, std::span<std::uint8_t> bits,
                            AllocationTotals* totals, std::span<std::byte> workspace,
                            cudaStream_t stream);

/// The same for the rows of one tensor: writes `row_bits` [device, rows] and `row_offsets` [device,
/// rows + 1], which a PackedView can hold for the next quantize on this stream. problem.numel has
/// the sizes of the layout's rows. layout.bits remains an upper bound: unless it is 8,
/// problem.max_bits must be given and must not exceed it.
void allocate_row_bits(const AllocationProblem& problem, const Layout& layout,
                       std::span<std::uint8_t> row_bits, std::span<std::int64_t> row_offsets,
                       AllocationTotals* totals, std::span<std::byte> workspace,
                       cudaStream_t stream);

}  // namespace actpack
