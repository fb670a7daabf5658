// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// All that AutoPrecision knows, beside its options. What may fail changes a copy of it, which then
// takes the place of the original without failing: an exception leaves no trace.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "actpack/detail/auto_precision/budget.hpp"
#include "actpack/detail/auto_precision/statistics.hpp"
#include "actpack/detail/auto_precision/tensor.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct PrecisionState {
  std::vector<PrecisionTensor> tensors;
  std::vector<std::int64_t> numel;  // [items]
  PrecisionBudget budget;
  PrecisionStatistics statistics;
  std::vector<std::uint8_t> row_bits;  // of all tensors
  std::int64_t steps = 0;
  bool is_measured = false;  // whether some noise was measured

  void set_bits(const PrecisionTensor& tensor, std::size_t item, std::uint8_t bits) {
    const std::size_t rows = tensor.has_width_per_row ? 1 : tensor.rows();
    std::ranges::fill(std::span(row_bits).subspan(tensor.row_of(item), rows), bits);
  }
};

static_assert(std::is_nothrow_move_assignable_v<PrecisionState>);

}  // namespace actpack::detail
