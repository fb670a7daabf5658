// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Row offsets on the device, by CUB's scan.
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_scan.cuh>

#include "actpack/cuda/layout.hpp"
#include "launch.cuh"

namespace actpack {

namespace detail {

/// The words of a row; 0 past the last one.
struct WordsOfRow {
  Layout layout;
  const std::uint8_t* row_bits;

  __device__ std::int64_t operator()(std::int64_t row) const {
    return row < layout.rows ? words_for(layout.size_of_row(row), row_bits[row]) : 0;
  }
};

inline cudaError_t scan(void* workspace, std::size_t& bytes, const Layout& layout,
                        const std::uint8_t* row_bits, std::int64_t* offsets, cudaStream_t stream) {
  const auto words = thrust::make_transform_iterator(
      thrust::make_counting_iterator(std::int64_t{0}), WordsOfRow{layout, row_bits});
  return cub::DeviceScan::ExclusiveSum(workspace, bytes, words, offsets, layout.rows + 1, stream);
}

}  // namespace detail

std::size_t row_offsets_workspace(const Layout& layout) {
  layout.validate();
  std::size_t bytes = 0;
  detail::check(detail::scan(nullptr, bytes, layout, nullptr, nullptr, nullptr),
                "row_offsets_workspace", "cub::DeviceScan");
  return bytes;
}

void row_offsets(const Layout& layout, const std::uint8_t* row_bits, std::int64_t* offsets,
                 std::span<std::byte> workspace, cudaStream_t stream) {
  layout.validate();
  detail::require_memory(row_bits, layout.rows, "row_bits");
  detail::require_memory(offsets, layout.rows + 1, "offsets");
  const std::size_t needed = row_offsets_workspace(layout);
  detail::refuse_unless(workspace.data() != nullptr && workspace.size() >= needed,
                        "workspace.size() = ", workspace.size(), " but ", needed,
                        " bytes are needed");
  std::size_t bytes = workspace.size();
  detail::check(detail::scan(workspace.data(), bytes, layout, row_bits, offsets, stream),
                "row_offsets", "cub::DeviceScan");
}

}  // namespace actpack
