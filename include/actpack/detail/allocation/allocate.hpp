// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The verbs of bit_allocation.hpp, by the solver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/allocation_problem.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/allocation/solver.hpp"
#include "actpack/detail/float_environment.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::inline ACTPACK_ONCE {

ACTPACK_COMPILED_ONCE Allocation allocate_bits(const AllocationProblem& problem) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment(
      [&] { return detail::allocate(detail::items_of(problem)); });
}

ACTPACK_COMPILED_ONCE Allocation allocate_measured_bits(const MeasuredAllocationProblem& problem) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment(
      [&] { return detail::allocate(detail::items_of(problem)); });
}

ACTPACK_COMPILED_ONCE std::size_t allocate_bits_workspace(std::int64_t items) {
  detail::refuse_unless(items >= 0, "items = ", items, " is negative");
  detail::refuse_unless(items <= detail::max_items, "items = ", items, " exceeds 2^32 - 1");
  return detail::allocation_workspace(static_cast<std::size_t>(items));
}

ACTPACK_COMPILED_ONCE AllocationTotals allocate_bits(const AllocationProblem& problem,
                                                     std::span<std::uint8_t> bits,
                                                     std::span<std::byte> workspace) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment(
      [&] { return detail::allocate(detail::items_of(problem), bits, workspace); });
}

ACTPACK_COMPILED_ONCE AllocationTotals
allocate_measured_bits(const MeasuredAllocationProblem& problem, std::span<std::uint8_t> bits,
                       std::span<std::byte> workspace) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment(
      [&] { return detail::allocate(detail::items_of(problem), bits, workspace); });
}

}  // namespace actpack
