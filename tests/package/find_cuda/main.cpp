// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Links the device's quantizer. With a driver and a GPU the call works; without, it says so.
#include <cuda_runtime_api.h>

#include <cstdio>

#include "actpack/cuda/error.hpp"
#include "actpack/cuda/quantize.hpp"

int main() {
  const actpack::Layout layout{.row_size = 0};
  actpack::quantize(static_cast<const float*>(nullptr),
                    actpack::PackedView{layout, nullptr, nullptr}, actpack::Rounding::nearest(),
                    nullptr);
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  std::puts(actpack::cuda_error(status, "cudaGetDeviceCount").what());
  return 0;
}
