// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A tensor that AutoPrecision knows. Its items, rows or the tensor itself, get a width each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "actpack/layout.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

struct PrecisionTensor {
  Layout layout;
  bool has_width_per_row;  // or one width for all rows
  std::size_t first_item;  // among the items of all tensors
  std::size_t items;
  std::size_t first_row;  // among the rows of all tensors

  std::size_t rows() const { return static_cast<std::size_t>(layout.rows); }
  std::size_t end_item() const { return first_item + items; }
  std::size_t item_of(std::size_t row) const { return first_item + (has_width_per_row ? row : 0); }
  std::size_t row_of(std::size_t item) const { return first_row + (item - first_item); }

  /// The numbers by which a saved state knows the tensor.
  std::array<std::int64_t, 5> shape() const {
    return {layout.rows, layout.row_size, layout.group_size, layout.last_row_size,
            has_width_per_row ? 0 : 1};
  }
};

}  // namespace actpack::detail
