// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decides which width each row, group or layer gets: the least variance of the gradient within a
// budget of bits, and a lower bound that certifies it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/allocation_problem.hpp"
#include "actpack/config.hpp"

namespace actpack::inline ACTPACK_ONCE {

/// Returns the widths of least total variance within a budget of bits.
///
/// The answer is exact for items of one size, however many, and for up to 8 items of any sizes; up
/// to some hundred items it often is. Beyond, widths are those at one price per bit, and a search
/// among the items next to that price spends the rest of the budget. `lower_bound` certifies every
/// answer: it equals `variance` where the answer is proven best, and is the Lagrangian bound
/// otherwise.
///
/// Among equal items the first are the widest. A sensitivity of 0 gives the narrowest width; if all
/// are 0, all items get the widest width that fits for all. Multiplying all sensitivities by a
/// power of two changes no width. (This and `lower_bound` need doubles that do not underflow:
/// sensitivities of 0, or of at least 2^-900 per value.)
///
/// Throws std::invalid_argument if lengths differ, a sensitivity is NaN, negative or beyond 2^960,
/// a size is not positive, sizes add up to 2^60 or more, a limit is not a width, or the budget is
/// less than the narrowest widths take. Without items the answer is empty. Deterministic. Allocates
/// the answer and a workspace. Source: ActNN, section 4.3, problem (10); the method is Dyer's and
/// Pisinger's for the multiple-choice knapsack.
Allocation allocate_bits(const AllocationProblem& problem);

/// The same for variances measured at each width, which need neither fall nor be convex.
Allocation allocate_measured_bits(const MeasuredAllocationProblem& problem);

/// Returns the bytes of host memory that the two functions below need for `items` items. Throws
/// std::invalid_argument if `items` is not in [0, 2^32 - 1].
std::size_t allocate_bits_workspace(std::int64_t items);

/// The same without allocating: writes the widths to `bits` [host, items] and returns what they
/// come to. `workspace` [host] has at least allocate_bits_workspace(items) bytes of any alignment
/// and content. Throws std::invalid_argument also if `bits` or `workspace` has the wrong size;
/// nothing is written then.
AllocationTotals allocate_bits(const AllocationProblem& problem, std::span<std::uint8_t> bits,
                               std::span<std::byte> workspace);

AllocationTotals allocate_measured_bits(const MeasuredAllocationProblem& problem,
                                        std::span<std::uint8_t> bits,
                                        std::span<std::byte> workspace);

}  // namespace actpack

#if !ACTPACK_EXTERN_KERNELS
#include "actpack/detail/allocation/allocate.hpp"
#endif
