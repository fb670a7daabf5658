// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The exception for calls that the CUDA runtime refuses.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace actpack {

/// A call of the CUDA runtime failed. what() names the verb and the call, the error and its number.
class cuda_error : public std::runtime_error {
 public:
  /// `call` names the verb and the call, as "quantize: launch".
  cuda_error(cudaError_t code, const std::string& call)
      : std::runtime_error("actpack: " + call + ": " + cudaGetErrorString(code) + " (" +
                           cudaGetErrorName(code) + ", " + std::to_string(code) + ")"),
        code_(code) {}

  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

}  // namespace actpack
