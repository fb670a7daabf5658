// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packing a tensor on a GPU: Thrust owns the memory, the library sees pointers and a stream.
#include <thrust/device_vector.h>
#include <thrust/functional.h>
#include <thrust/inner_product.h>
#include <thrust/reduce.h>
#include <thrust/tabulate.h>

#include <cmath>
#include <cstdio>
#include <exception>

#include "actpack/cuda/error.hpp"
#include "actpack/cuda/quantize.hpp"

namespace {

struct Wave {
  __device__ float operator()(long long i) const { return sinf(0.37f * static_cast<float>(i)); }
};
struct SquaredDifference {
  __device__ float operator()(float a, float b) const { return (a - b) * (a - b); }
};

int run() {
  const actpack::Layout layout{.row_size = 1 << 24, .bits = 2};
  thrust::device_vector<float> x(layout.numel());
  thrust::device_vector<float> y(layout.numel());
  thrust::device_vector<std::uint32_t> words(layout.num_words());
  thrust::device_vector<actpack::GroupParams> params(layout.num_groups());
  thrust::tabulate(x.begin(), x.end(), Wave{});
  const actpack::PackedView packed{layout, thrust::raw_pointer_cast(words.data()),
                                   thrust::raw_pointer_cast(params.data())};

  const cudaStream_t stream = cudaStreamPerThread;
  const actpack::Rounding rounding = actpack::Rounding::stochastic(/*seed=*/1, /*offset=*/0);
  const float* source = thrust::raw_pointer_cast(x.data());
  actpack::quantize(source, packed, rounding, stream);
  actpack::dequantize(packed, thrust::raw_pointer_cast(y.data()),
                      actpack::Decoding::subtractive(rounding), stream);
  if (const cudaError_t status = cudaStreamSynchronize(stream); status != cudaSuccess) {
    throw actpack::cuda_error(status, "cudaStreamSynchronize");
  }

  const double n = static_cast<double>(layout.numel());
  const double mean_error =
      (thrust::reduce(y.begin(), y.end(), 0.0) - thrust::reduce(x.begin(), x.end(), 0.0)) / n;
  const double squared_error = thrust::inner_product(x.begin(), x.end(), y.begin(), 0.0,
                                                     thrust::plus<double>(), SquaredDifference{});
  std::printf("%.0f values: %.3f bits a value\n", n, layout.bits_per_value());
  std::printf("mean error %.6f, root mean square error %.4f\n", mean_error,
              std::sqrt(squared_error / n));
  // Steps are 2/3 of a unit, and what subtraction leaves is uniform in half a step either way.
  return std::fabs(mean_error) < 1e-3 && squared_error / n < 1.1 * (2.0 / 3) * (2.0 / 3) / 12 ? 0
                                                                                              : 1;
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
