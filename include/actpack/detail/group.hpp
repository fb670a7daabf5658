// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One group of a tensor: which elements it holds, between which values, and where its codes are.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// One group of a tensor.
struct Group {
  std::int64_t index;  // in the tensor: finds its parameters, and names its noise
  std::int64_t row;
  std::int64_t column;  // of its first element, within the row
  std::int64_t first;   // its first element, within the tensor
  std::int64_t size;    // elements that exist
};

/// The smallest and largest of some values. One of the two is not finite if any value is not.
struct ValueRange {
  float min, max;
};

/// Returns the group that starts at `column` of `row`.
ACTPACK_HD constexpr Group group_at(const Layout& layout, std::int64_t index, std::int64_t row,
                                    std::int64_t column) {
  const std::int64_t left = layout.size_of_row(row) - column;
  return {.index = index,
          .row = row,
          .column = column,
          .first = row * layout.row_size + column,
          .size = left < layout.group_size ? left : layout.group_size};
}

/// Returns the number of the group that holds an element of a tensor.
ACTPACK_HD constexpr std::int64_t group_of(const Layout& layout, std::int64_t element) {
  const std::int64_t row = element / layout.row_size;
  return row * layout.groups_per_row() + element % layout.row_size / layout.group_size;
}

/// Where a group's codes are, and how wide.
struct CodeLocation {
  std::int64_t word;
  int bits;
};

/// Returns where a group's codes are if all rows have `bits` bits.
ACTPACK_HD constexpr CodeLocation locate(const Layout& layout, const Group& group, int bits) {
  return {group.row * words_for(layout.row_size, bits) + group.column * bits / 32, bits};
}

/// Returns where a group's codes are in a packed tensor.
ACTPACK_HD constexpr CodeLocation locate(const ConstPackedView& view, const Group& group) {
  if (view.row_bits == nullptr) {
    return locate(view.layout, group, view.layout.bits);
  }
  const int bits = view.row_bits[group.row];
  return {view.row_offsets[group.row] + group.column * bits / 32, bits};
}

}  // namespace actpack::detail
