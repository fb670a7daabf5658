// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Adapts torch's dense tensors to the library's verbs: spans of values, element types, a loop.
#pragma once

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "actpack/float16.hpp"

namespace actpack_torch {

// Names a tensor in an error: "Float [8, 16, 4, 4], output of ReluBackward0".
inline std::string describe(const at::Tensor& tensor) {
  const auto& node = tensor.grad_fn();
  return c10::str(tensor.scalar_type(), " ", tensor.sizes(), ", ",
                  node ? "output of " + node->name() : "a leaf");
}

// Runs the host verbs' loop on torch's own threads.
inline constexpr auto torch_threads = [](std::int64_t count, const auto& body) {
  at::parallel_for(0, count, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      body(i);
    }
  });
};

// Returns a dense tensor's values in the order of memory, whatever its strides.
template <class T>
std::span<T> values_of(const at::Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.numel())};
}

inline bool is_element(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

// Calls f with a value of the library's type for `type`, for which is_element() holds.
template <class F>
void dispatch_element(at::ScalarType type, F f) {
  switch (type) {
    case at::kHalf: return f(actpack::float16{});
    case at::kBFloat16: return f(actpack::bfloat16{});
    default: return f(float{});
  }
}

// Calls f with an unsigned integer of `size` bytes.
template <class F>
void dispatch_pattern(std::size_t size, F f) {
  switch (size) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

}  // namespace actpack_torch
