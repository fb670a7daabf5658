// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Widths of the rows of every tensor that a step saves, decided on before the step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "train_fashion_mnist/contexts.hpp"

namespace research {

struct TensorWidths {
  actpack::Layout layout;              // of the whole batch
  std::vector<std::uint8_t> row_bits;  // empty: all rows have layout.bits

  // Rows of one width need no widths beside them.
  TensorWidths(const actpack::Layout& rows, std::span<const std::uint8_t> widths)
      : layout(rows.with_bits(std::ranges::max(widths))) {
    if (std::ranges::adjacent_find(widths, std::ranges::not_equal_to()) != widths.end()) {
      row_bits.assign(widths.begin(), widths.end());
    }
  }

  int bits(std::int64_t row) const {
    return row_bits.empty() ? layout.bits : row_bits[static_cast<std::size_t>(row)];
  }
  actpack::PackedBuffer make_buffer() const {
    return row_bits.empty() ? actpack::PackedBuffer(layout)
                            : actpack::PackedBuffer(layout, row_bits);
  }
};

// By number of the tensor within the step.
using WidthPlan = std::vector<TensorWidths>;

// The plan as the trainer takes it. `plan` must outlive it.
inline trainer::Contexts::Plan as_plan(const WidthPlan& plan) {
  return [&plan](std::size_t tensor, trainer::SavedFormat& format) {
    format.layout = plan.at(tensor).layout;
    format.row_bits = plan.at(tensor).row_bits;
  };
}

// Bytes of words, parameters and widths. Row offsets follow from the widths, so nobody has to store
// them.
inline std::int64_t stored_bytes(const actpack::PackedBuffer& buffer) {
  const std::int64_t offsets = buffer.view().row_offsets != nullptr ? buffer.layout().rows + 1 : 0;
  return static_cast<std::int64_t>(buffer.size_bytes()) - 8 * offsets;
}
inline std::int64_t stored_bytes(const WidthPlan& plan) {
  std::int64_t bytes = 0;
  for (const TensorWidths& tensor : plan) bytes += stored_bytes(tensor.make_buffer());
  return bytes;
}

}  // namespace research
