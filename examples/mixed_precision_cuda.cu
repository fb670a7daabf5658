// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Widths by row on a GPU: ranges become widths, offsets and packed rows on one stream, and the host
// waits for nothing in between.
#include <thrust/device_vector.h>
#include <thrust/functional.h>
#include <thrust/inner_product.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "actpack/cuda/bit_allocation.hpp"
#include "actpack/cuda/error.hpp"
#include "actpack/cuda/quantize.hpp"
#include "actpack/cuda/statistics.hpp"

namespace {

template <class T>
T* raw(thrust::device_vector<T>& x) {
  return thrust::raw_pointer_cast(x.data());
}

struct SquaredDifference {
  __device__ float operator()(float a, float b) const { return (a - b) * (a - b); }
};

int run() {
  constexpr std::size_t rows = 128, row_size = 4096;
  const actpack::Layout layout{.rows = rows, .row_size = row_size, .bits = 8};  // 8: the widest
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * row_size);
  for (std::size_t row = 0; row < rows; ++row) {
    const float scale = std::exp(1.5f * normal(random));
    for (std::size_t i = 0; i < row_size; ++i) values[row * row_size + i] = scale * normal(random);
  }
  const thrust::device_vector<float> x = values;
  thrust::device_vector<float> y(values.size());
  thrust::device_vector<std::uint32_t> words(layout.num_words());  // enough for 8 bits
  thrust::device_vector<actpack::GroupParams> params(layout.num_groups());
  thrust::device_vector<std::uint8_t> row_bits(rows);
  thrust::device_vector<std::int64_t> row_offsets(rows + 1);

  // What bit allocation reads and writes.
  thrust::device_vector<std::int64_t> numel(rows, row_size);
  thrust::device_vector<actpack::RowStatistics> statistics(rows);
  thrust::device_vector<double> sensitivity(rows);
  thrust::device_vector<actpack::AllocationTotals> totals(1);
  thrust::device_vector<std::byte> workspace(actpack::device_allocation_workspace(rows));
  const std::int64_t bit_budget = 2 * layout.numel() - 8 * layout.rows;  // less a byte per width

  const cudaStream_t stream = cudaStreamPerThread;
  const auto rounding = actpack::Rounding::stochastic(/*seed=*/1, /*offset=*/0);
  const float* source = thrust::raw_pointer_cast(x.data());
  const actpack::PackedView packed{layout, raw(words), raw(params), raw(row_bits),
                                   raw(row_offsets)};
  actpack::row_statistics(source, layout, raw(statistics), stream);
  // All errors count alike here; else the statistics of the rows' gradients would be the second
  // argument. Half of the gain, since decoding is subtractive.
  actpack::row_sensitivities(raw(statistics), nullptr, 0.5, layout, raw(sensitivity), stream);
  actpack::allocate_row_bits({{raw(sensitivity), rows}, {raw(numel), rows}, bit_budget}, layout,
                             {raw(row_bits), rows}, {raw(row_offsets), rows + 1}, raw(totals),
                             {raw(workspace), workspace.size()}, stream);
  actpack::quantize(source, packed, rounding, stream);
  actpack::dequantize(packed, raw(y), actpack::Decoding::subtractive(rounding), stream);
  if (const cudaError_t status = cudaStreamSynchronize(stream); status != cudaSuccess) {
    throw actpack::cuda_error(status, "cudaStreamSynchronize");
  }

  const double squared_error = thrust::inner_product(x.begin(), x.end(), y.begin(), 0.0,
                                                     thrust::plus<double>(), SquaredDifference{});
  const actpack::AllocationTotals predicted = totals[0];
  std::printf("widths by row: squared error %.0f in %lld words\n", squared_error,
              static_cast<long long>(row_offsets.back()));
  std::printf("predicted: %.0f; no widths have less than %.0f\n", predicted.variance,
              predicted.lower_bound);
  return std::abs(squared_error / predicted.variance - 1) < 0.05 ? 0 : 1;
}

}  // namespace

int main() {
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices);
      status != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU to run on (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
