// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What bit allocation needs to know about the rows of a tensor, summed up in one pass on the
// device.
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/layout.hpp"

namespace actpack {

/// Sums over one row.
struct RowStatistics {
  double squared_norm = 0;        // Σ x²: of an output gradient, what gains are made from
  double squared_range_norm = 0;  // Σ (max − min)² of its groups: see rounding_sensitivity
};

/// Writes the statistics of every row of `x` [device, layout.numel() values, row-major] to
/// `statistics` [device, layout.rows]; layout.bits plays no part. A row with NaN or ±∞ gives NaN or
/// ∞. One block sums up a row, in double and in a fixed order: the result depends on nothing else.
/// What holds for every verb of cuda/quantize.hpp holds here.
template <DeviceElement T>
void row_statistics(const T* x, const Layout& layout, RowStatistics* statistics,
                    cudaStream_t stream);

/// Writes what allocate_row_bits needs to `sensitivity` [device, layout.rows]: of row r,
/// rounding_sensitivity of the ranges in x[r] [device, layout.rows] · gain · the squared norm in
/// dy[r] [device, layout.rows; null: 1]. `gain` is that of a gradient of norm 1: linear_gain(1),
/// conv_gain(1, axes); half of it for subtractive decoding. What is NaN or too large there is so
/// here. Throws std::invalid_argument if `gain` is negative or not finite.
void row_sensitivities(const RowStatistics* x, const RowStatistics* dy, double gain,
                       const Layout& layout, double* sensitivity, cudaStream_t stream);

}  // namespace actpack
