// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A trainer's own kernel that packs while it computes: bias and ReLU, whose output goes on to the
// next layer and, in the same pass, into two bits a value for the backward pass.
#include <thrust/copy.h>
#include <thrust/device_vector.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "actpack/actpack.hpp"
#include "actpack/cuda/error.hpp"
#include "actpack/cuda/group.hpp"

namespace {

constexpr int group_size = 256;
constexpr int threads = 256;
constexpr int lanes = actpack::tile_lanes(group_size);  // half a warp works on a group
constexpr int groups_per_block = threads / lanes;

/// y = max(x + bias, 0), and y packed. The tensor has whole blocks of groups.
__global__ void bias_relu(const float* x, float bias, float* y, actpack::PackedView packed,
                          actpack::SeededNoise noise) {
  const actpack::WarpTile tile(lanes);
  const long long group =
      static_cast<long long>(blockIdx.x) * groups_per_block + threadIdx.x / lanes;
  const float* in = x + group * group_size;
  float* out = y + group * group_size;

  // Called once by every lane, for its sixteen elements of the group.
  const auto compute = [&](const actpack::SliceLocation& slice) {
    actpack::Slice values = actpack::load_slice(in, slice, true);
    for (float& value : values.value) {
      value = fmaxf(value + bias, 0.0f);
    }
    actpack::store_slice(out, slice, true, values);
    return values;
  };
  const int bits = packed.layout.bits;
  actpack::quantize_group(tile, actpack::GroupShape{group, group_size, group_size, bits}, noise,
                          compute, packed.words + group * (group_size * bits / 32),
                          packed.params + group);
}

void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) {
    throw actpack::cuda_error(code, call);
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices);
      status != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU to run on (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  const actpack::Layout layout{.row_size = 1 << 20, .bits = 2};
  std::vector<float> x(layout.numel());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(0.37f * static_cast<float>(i));
  }
  const float bias = 0.25f;

  thrust::device_vector<float> device_x = x;
  thrust::device_vector<float> device_y(layout.numel());
  thrust::device_vector<std::uint32_t> words(layout.num_words());
  thrust::device_vector<actpack::GroupParams> params(layout.num_groups());
  const actpack::PackedView packed{layout, thrust::raw_pointer_cast(words.data()),
                                   thrust::raw_pointer_cast(params.data())};
  const int blocks = static_cast<int>(layout.num_groups() / groups_per_block);
  bias_relu<<<blocks, threads>>>(thrust::raw_pointer_cast(device_x.data()), bias,
                                 thrust::raw_pointer_cast(device_y.data()), packed,
                                 actpack::SeededNoise(/*seed=*/1, /*offset=*/0));
  check(cudaGetLastError(), "bias_relu");
  check(cudaDeviceSynchronize(), "bias_relu");

  // The same in two steps on the host gives the same words.
  std::vector<float> y(x.size());
  thrust::copy(device_y.begin(), device_y.end(), y.begin());
  actpack::PackedBuffer expected(layout);
  actpack::quantize(y, expected.view(), actpack::Rounding::stochastic(1, 0));
  std::vector<std::uint32_t> got(words.size());
  thrust::copy(words.begin(), words.end(), got.begin());
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] != expected.view().words[i]) {
      std::printf("word %zu differs from the host's\n", i);
      return 1;
    }
  }
  std::printf("%zu bytes kept of %zu, packed by the kernel that computed them\n",
              expected.size_bytes(), y.size() * sizeof(float));
  return 0;
}
