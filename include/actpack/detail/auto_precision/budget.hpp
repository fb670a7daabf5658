// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The bits that AutoPrecision may spend on the codes of all tensors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/layout.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct PrecisionBudget {
  /// Elements of all tensors together. No count of bits overflows; and doubles are exact enough to
  /// share bits out: budget / elements, below 8, is off by at most 2^-51, and its product with the
  /// elements of a tensor by a part of 2^-53. All tensors together miss their share of the budget
  /// by less than one bit, so in whole bits they keep to it.
  static constexpr std::int64_t max_numel = std::int64_t{1} << 50;

  std::int64_t total_numel = 0;
  std::int64_t overhead_bits = 0;  // beside codes

  PrecisionBudget with_tensor(const Layout& layout, std::int64_t items) const {
    return {total_numel + layout.numel(), overhead_bits + overhead_of(layout, items)};
  }

  std::int64_t least_bytes(int min_bits) const {
    return (min_bits * total_numel + overhead_bits + 7) / 8;
  }

  std::int64_t bits_of_average(double average_bits) const {
    return static_cast<std::int64_t>(average_bits * static_cast<double>(total_numel));
  }
  std::int64_t bits_of_bytes(std::int64_t byte_budget) const {
    constexpr std::int64_t most = std::int64_t{1} << 59;
    return 8 * (std::min)(byte_budget, most) - overhead_bits;
  }

 private:
  /// Group parameters, widths, and the most that padding rows to words can take.
  static std::int64_t overhead_of(const Layout& layout, std::int64_t items) {
    const auto padding_of = [](std::int64_t size) {
      std::int64_t padding = 0;
      for (int w = 0; w < num_widths; ++w) {
        padding = (std::max)(padding, 32 * words_for(size, bits_at(w)) - size * bits_at(w));
      }
      return padding;
    };
    return 32 * layout.num_groups() + 8 * items + (layout.rows - 1) * padding_of(layout.row_size) +
           padding_of(layout.size_of_row(layout.rows - 1));
  }
};

}  // namespace actpack::detail
