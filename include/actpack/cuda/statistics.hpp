// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The statistics of rows that bit allocation needs, summed up in one pass on the device.
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/layout.hpp"

namespace actpack {

/// Sums over one row.
struct RowStatistics {
  double squared_norm = 0;        // Σ x²; gains are made from that of an output gradient
  double squared_range_norm = 0;  // Σ (max − min)² of its groups: see rounding_sensitivity
};

/// Writes the statistics of every row of `x` [device, layout.numel() values, row-major] to
/// `statistics` [device, layout.rows]; layout.bits is ignored. A row with NaN or ±∞ gives NaN or
/// ∞. One block sums up a row, in double and in a fixed order: the result depends on nothing else.
/// The rules of cuda/quantize.hpp apply.
template <DeviceElement T>
void row_statistics(const T* x, const Layout& layout, RowStatistics* statistics,
                    cudaStream_t stream);

/// Writes the sensitivities that allocate_row_bits takes to `sensitivity` [device, layout.rows].
/// That of row r is rounding_sensitivity of the ranges in x[r] [device, layout.rows] · gain · the
/// squared norm in dy[r] [device, layout.rows; null: 1]. `gain` belongs to a gradient of norm 1:
/// linear_gain(1), conv_gain(1, axes); half of it for subtractive decoding. NaN and overflow
/// propagate. Throws std::invalid_argument if `gain` is negative or not finite.
void row_sensitivities(const RowStatistics* x, const RowStatistics* dy, double gain,
                       const Layout& layout, double* sensitivity, cudaStream_t stream);

}  // namespace actpack
