// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One-bit contexts on the device.
#include "actpack/cuda/mask.hpp"

#include "actpack/detail/dropout.hpp"
#include "actpack/layout.hpp"
#include "launch.cuh"
#include "octet_kernels.hpp"

namespace actpack {

namespace detail {

inline void require_arrays(const void* from, const char* from_name, const void* to,
                           const char* to_name, const void* mask, std::int64_t numel) {
  refuse_unless(numel >= 0 && numel <= Layout::max_numel, "numel = ", numel, " is not in [0, ",
                Layout::max_numel, "]");
  require_memory(from, numel, from_name);
  require_memory(to, numel, to_name);
  require_memory(mask, words_for(numel, 1), "mask");
}

template <class Body>
void enqueue_octets(const Body& body, const char* verb, cudaStream_t stream) {
  enqueue(body, body.count(), verb, stream);
}

}  // namespace detail

template <DeviceElement T>
void relu(const T* x, T* y, std::uint32_t* mask, std::int64_t numel, cudaStream_t stream) {
  detail::require_arrays(x, "x", y, "y", mask, numel);
  detail::enqueue_octets(
      detail::Relu<detail::Storage<T>>{{numel}, detail::as_storage(x), detail::as_storage(y), mask},
      "relu", stream);
}

template <DeviceElement T>
void relu_backward(const T* dy, const std::uint32_t* mask, T* dx, std::int64_t numel,
                   cudaStream_t stream) {
  detail::require_arrays(dy, "dy", dx, "dx", mask, numel);
  detail::enqueue_octets(
      detail::Masked<detail::Storage<T>>{
          {numel}, detail::as_storage(dy), mask, detail::as_storage(dx), 1},
      "relu_backward", stream);
}

template <DeviceElement T>
void dropout(const T* x, T* y, std::uint32_t* mask, std::int64_t numel, double drop_probability,
             Rounding rounding, std::int64_t first, cudaStream_t stream) {
  detail::require_arrays(x, "x", y, "y", mask, numel);
  detail::require_drop_probability(drop_probability);
  detail::require_dropout(rounding, first, numel);
  const detail::DropoutRule rule = detail::dropout_rule(drop_probability);
  detail::with_noise(rounding, [&](auto noise) {
    if constexpr (!std::is_same_v<decltype(noise), NearestNoise>) {
      detail::enqueue_octets(
          detail::Dropout<detail::Storage<T>, decltype(noise)>{
              {numel}, detail::as_storage(x), detail::as_storage(y), mask, rule, first, noise},
          "dropout", stream);
    }
  });
}

template <DeviceElement T>
void dropout_backward(const T* dy, const std::uint32_t* mask, T* dx, std::int64_t numel,
                      double drop_probability, cudaStream_t stream) {
  detail::require_arrays(dy, "dy", dx, "dx", mask, numel);
  detail::require_drop_probability(drop_probability);
  detail::enqueue_octets(
      detail::Masked<detail::Storage<T>>{{numel},
                                         detail::as_storage(dy),
                                         mask,
                                         detail::as_storage(dx),
                                         detail::dropout_scale(drop_probability)},
      "dropout_backward", stream);
}

#define ACTPACK_INSTANTIATE(T)                                                                    \
  template void relu<T>(const T*, T*, std::uint32_t*, std::int64_t, cudaStream_t);                \
  template void relu_backward<T>(const T*, const std::uint32_t*, T*, std::int64_t, cudaStream_t); \
  template void dropout<T>(const T*, T*, std::uint32_t*, std::int64_t, double, Rounding,          \
                           std::int64_t, cudaStream_t);                                           \
  template void dropout_backward<T>(const T*, const std::uint32_t*, T*, std::int64_t, double,     \
                                    cudaStream_t);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(__half)
ACTPACK_INSTANTIATE(__nv_bfloat16)

}  // namespace actpack
