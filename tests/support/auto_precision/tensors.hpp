// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Tensors to register with a controller, and the widths that it gives them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <actpack/auto_precision.hpp>

#include "support/data.hpp"

namespace support::auto_precision {

using actpack::AutoPrecision;
using actpack::AutoPrecisionOptions;
using actpack::Layout;
using actpack::PrecisionPer;

using Widths = std::vector<std::vector<std::uint8_t>>;

struct TensorSpec {
  Layout layout;
  PrecisionPer per = PrecisionPer::row;

  std::size_t rows() const { return static_cast<std::size_t>(layout.rows); }
  std::int64_t size_of_row(std::size_t row) const {
    return layout.size_of_row(static_cast<std::int64_t>(row));
  }
};

inline TensorSpec spec(std::int64_t rows, std::int64_t row_size,
                       PrecisionPer per = PrecisionPer::row, std::int64_t last_row_size = 0,
                       std::int32_t group_size = 32) {
  return {{.rows = rows,
           .row_size = row_size,
           .group_size = group_size,
           .last_row_size = last_row_size},
          per};
}

inline AutoPrecision make(const AutoPrecisionOptions& options,
                          const std::vector<TensorSpec>& tensors) {
  AutoPrecision precision(options);
  for (const TensorSpec& tensor : tensors) precision.add_tensor(tensor.layout, tensor.per);
  return precision;
}

inline std::vector<std::uint8_t> widths_of(const AutoPrecision& precision, std::size_t tensor) {
  const std::span<const std::uint8_t> bits = precision.row_bits(tensor);
  return {bits.begin(), bits.end()};
}

inline Widths widths_of(const AutoPrecision& precision) {
  Widths widths;
  for (std::size_t t = 0; t < precision.num_tensors(); ++t) {
    widths.push_back(widths_of(precision, t));
  }
  return widths;
}

inline std::int64_t numel_of(const std::vector<TensorSpec>& tensors) {
  std::int64_t sum = 0;
  for (const TensorSpec& tensor : tensors) sum += tensor.layout.numel();
  return sum;
}

inline std::int64_t bits_used(const TensorSpec& tensor, const std::vector<std::uint8_t>& widths) {
  std::int64_t sum = 0;
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    sum += tensor.size_of_row(row) * widths[row];
  }
  return sum;
}

inline std::int64_t bits_used(const std::vector<TensorSpec>& tensors, const Widths& widths) {
  std::int64_t sum = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) sum += bits_used(tensors[t], widths[t]);
  return sum;
}

inline bool are_widths(const Widths& widths, int min_bits, int max_bits) {
  return std::ranges::all_of(widths, [&](const std::vector<std::uint8_t>& rows) {
    return std::ranges::all_of(rows, [&](std::uint8_t bits) {
      return std::has_single_bit(bits) && min_bits <= bits && bits <= max_bits;
    });
  });
}

// Rows and tensors of several sizes, some of them ragged.
inline const std::vector<TensorSpec>& mixed_tensors() {
  static const std::vector<TensorSpec> tensors{
      spec(7, 64),
      spec(5, 96, PrecisionPer::tensor, 33),
      spec(6, 40, PrecisionPer::row, 9, 64),
      spec(1, 500, PrecisionPer::tensor),
      spec(4, 130, PrecisionPer::row, 1),
  };
  return tensors;
}

inline std::vector<TensorSpec> random_tensors(Generator& generator) {
  std::vector<TensorSpec> tensors;
  const std::uint32_t count = 1 + generator.below(5);
  for (std::uint32_t t = 0; t < count; ++t) {
    const std::int64_t rows = 1 + generator.below(12);
    const std::int64_t row_size = 1 + generator.below(200);
    const PrecisionPer per = generator.below(2) == 0 ? PrecisionPer::row : PrecisionPer::tensor;
    const std::int64_t last = generator.below(static_cast<std::uint32_t>(row_size) + 1);
    tensors.push_back(
        spec(rows, row_size, per, last, static_cast<std::int32_t>(32 * (1 + generator.below(3)))));
  }
  return tensors;
}

// Two tensors of one size and bits for one of them to have two, the other one: which has more
// variance shows in the widths, and so does the number that the controller believes in.
inline const AutoPrecisionOptions for_one_of_two{.average_bits = 1.5, .max_bits = 2};
inline const std::vector<TensorSpec> two_tensors{spec(1, 64, PrecisionPer::tensor),
                                                 spec(1, 64, PrecisionPer::tensor)};

inline bool is_first_wider(const AutoPrecision& precision) {
  const int first = precision.row_bits(0)[0];
  const int second = precision.row_bits(1)[0];
  CHECK(first + second == 3);
  return first > second;
}

}  // namespace support::auto_precision
