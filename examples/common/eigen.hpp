// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Eigen for matrix products and nothing else: row-major views of our own memory.
#pragma once

#include <cstdint>
#include <span>

#define EIGEN_DONT_PARALLELIZE  // the threads are ours, one image each
#define EIGEN_NO_MALLOC         // debug builds prove that no product takes uncounted memory

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in gcc 12's own AVX-512 header
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace trainer {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Matrix = Eigen::Map<RowMajor>;
using ConstMatrix = Eigen::Map<const RowMajor>;

// As many rows of `columns` values as there are.
inline Matrix rows_of(std::span<float> values, std::int64_t columns) {
  return {values.data(), static_cast<std::int64_t>(values.size()) / columns, columns};
}
inline ConstMatrix rows_of(std::span<const float> values, std::int64_t columns) {
  return {values.data(), static_cast<std::int64_t>(values.size()) / columns, columns};
}

}  // namespace trainer
