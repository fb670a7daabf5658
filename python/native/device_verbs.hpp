// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The verbs on tensors of a GPU: HostVerbs' functions, on a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "actpack/cuda/batch_norm.hpp"
#include "actpack/cuda/mask.hpp"
#include "actpack/cuda/quantize.hpp"
#include "actpack/cuda/sign_keeping.hpp"
#include "actpack/cuda/sign_magnitude.hpp"
#include "actpack/rounding.hpp"
#include "context.hpp"
#include "native.h"

namespace actpack_python {

template <class T>
struct DeviceVerbs {
  using Value = T;

  const actpack_execution& execution;

  cudaStream_t stream() const { return static_cast<cudaStream_t>(execution.stream); }

  void encode(const void* x, const Planes& to) const {
    if (to.has_signs()) {
      actpack::encode(static_cast<const T*>(x), to.sign_magnitude(), to.rounding(), stream());
    } else {
      actpack::quantize(static_cast<const T*>(x), to.affine(), to.rounding(), stream());
    }
  }
  void decode(const Planes& from, std::int64_t first, std::int64_t count, void* x,
              std::int32_t decode_as, bool is_subtractive) const {
    T* const values = static_cast<T*>(x);
    const actpack::Decoding decoding = from.decoding(is_subtractive);
    if (!from.has_signs()) {
      actpack::dequantize(from.affine(), first, count, values, decoding, stream());
    } else if (decode_as == ACTPACK_DECODE_RELU) {
      actpack::decode_relu(from.sign_magnitude(), first, count, values, decoding, stream());
    } else {
      actpack::decode(from.sign_magnitude(), first, count, values, decoding, stream());
    }
  }
  void decode_keeping_signs(const Planes& from, void* x) const {
    actpack::decode_keeping_signs(from.sign_magnitude(), static_cast<T*>(x), stream());
  }
  void apply_signs(const void* dy, const Planes& signs, void* dx) const {
    actpack::relu_backward(static_cast<const T*>(dy), signs.sign_magnitude(), static_cast<T*>(dx),
                           stream());
  }
  void relu(const void* x, std::int64_t numel, void* y, std::uint32_t* mask) const {
    actpack::relu(static_cast<const T*>(x), static_cast<T*>(y), mask, numel, stream());
  }
  void dropout(const void* x, std::int64_t numel, void* y, std::uint32_t* mask, double p,
               const actpack::Rounding& rounding) const {
    actpack::dropout(static_cast<const T*>(x), static_cast<T*>(y), mask, numel, p, rounding, 0,
                     stream());
  }
  void apply_mask(const void* dy, const std::uint32_t* mask, std::int64_t numel, double p,
                  void* dx) const {
    actpack::dropout_backward(static_cast<const T*>(dy), mask, static_cast<T*>(dx), numel, p,
                              stream());
  }
  void batch_norm(const Operation& operation, const void* x, const Planes& to, void* y) const {
    to.with_view([&](const auto& view) {
      batch_norm::forward(operation, static_cast<const T*>(x), view, to.rounding(),
                          static_cast<T*>(y), stream());
    });
  }
  void batch_norm_backward(const Operation& operation, const void* dz, const Planes& from,
                           const actpack::Decoding& decoding, std::int64_t elements,
                           float* workspace, float* gamma_gradient, float* beta_gradient,
                           void* dx) const {
    from.with_view([&](const auto& view) {
      batch_norm::backward(operation, static_cast<const T*>(dz), view, decoding, elements,
                           workspace, gamma_gradient, beta_gradient, static_cast<T*>(dx), stream());
    });
  }
  static std::int64_t batch_norm_workspace(const Operation& operation, const Planes& planes) {
    return batch_norm::workspace_numel(operation, planes.layout());
  }
};

}  // namespace actpack_python
