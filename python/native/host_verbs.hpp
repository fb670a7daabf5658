// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The verbs on tensors of the CPU.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/batch_norm.hpp"
#include "actpack/mask.hpp"
#include "actpack/quantize.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_keeping.hpp"
#include "actpack/sign_magnitude.hpp"
#include "context.hpp"
#include "native.h"

namespace actpack_python {

// A loop for the host's verbs, on the caller's number of threads but no more than the processors
// that it may use: beyond some thousands, OpenMP's runtime crashes. The body does not throw,
// because all arguments are checked before a loop starts.
struct OpenMp {
  int threads;

  template <class Body>
  void operator()(std::int64_t count, const Body& body) const {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
};

template <class T, class Bytes>
std::span<T> span_of(Bytes* x, std::int64_t numel) {
  return {static_cast<T*>(x), static_cast<std::size_t>(numel)};
}

// Each verb on tensors of T. Python owns all memory.
template <class T>
struct HostVerbs {
  using Value = T;

  const actpack_execution& execution;

  OpenMp loop() const { return {std::min(execution.threads, omp_get_num_procs())}; }

  void encode(const void* x, const Planes& to) const {
    const std::span<const T> values = span_of<const T>(x, to.numel());
    if (to.has_signs()) {
      actpack::encode(values, to.sign_magnitude(), to.rounding(), loop());
    } else {
      actpack::quantize(values, to.affine(), to.rounding(), loop());
    }
  }
  void decode(const Planes& from, std::int64_t first, std::int64_t count, void* x,
              std::int32_t decode_as, bool is_subtractive) const {
    const std::span<T> values = span_of<T>(x, count);
    const actpack::Decoding decoding = from.decoding(is_subtractive);
    if (!from.has_signs()) {
      actpack::dequantize(from.affine(), first, values, decoding, loop());
    } else if (decode_as == ACTPACK_DECODE_RELU) {
      actpack::decode_relu(from.sign_magnitude(), first, values, decoding, loop());
    } else {
      actpack::decode(from.sign_magnitude(), first, values, decoding, loop());
    }
  }
  void decode_keeping_signs(const Planes& from, void* x) const {
    actpack::decode_keeping_signs(from.sign_magnitude(), span_of<T>(x, from.numel()), loop());
  }
  void apply_signs(const void* dy, const Planes& signs, void* dx) const {
    actpack::relu_backward(span_of<const T>(dy, signs.numel()), signs.sign_magnitude(),
                           span_of<T>(dx, signs.numel()), loop());
  }
  void relu(const void* x, std::int64_t numel, void* y, std::uint32_t* mask) const {
    actpack::relu(span_of<const T>(x, numel), span_of<T>(y, numel), mask_of(mask, numel), loop());
  }
  void dropout(const void* x, std::int64_t numel, void* y, std::uint32_t* mask, double p,
               const actpack::Rounding& rounding) const {
    actpack::dropout(span_of<const T>(x, numel), span_of<T>(y, numel), mask_of(mask, numel), p,
                     rounding, 0, loop());
  }
  void apply_mask(const void* dy, const std::uint32_t* mask, std::int64_t numel, double p,
                  void* dx) const {
    actpack::dropout_backward(span_of<const T>(dy, numel), mask_of(mask, numel),
                              span_of<T>(dx, numel), p, loop());
  }
  void batch_norm(const Operation& operation, const void* x, const Planes& to, void* y) const {
    to.with_view([&](const auto& view) {
      batch_norm::forward(operation, span_of<const T>(x, to.numel()), view, to.rounding(),
                          span_of<T>(y, to.numel()), loop());
    });
  }
  void batch_norm_backward(const Operation& operation, const void* dz, const Planes& from,
                           const actpack::Decoding& decoding, std::int64_t elements, float*,
                           float* gamma_gradient, float* beta_gradient, void* dx) const {
    const auto read = [&](const auto& saved) {
      batch_norm::backward(operation, span_of<const T>(dz, from.numel()), saved, elements,
                           gamma_gradient, beta_gradient,
                           span_of<T>(dx, dx == nullptr ? 0 : from.numel()), loop());
    };
    if (from.has_signs()) {
      read(batch_norm::SavedSigns{from.sign_magnitude(), decoding});
    } else {
      read(batch_norm::SavedCodes{from.affine(), decoding});
    }
  }
  static std::int64_t batch_norm_workspace(const Operation&, const Planes&) { return 0; }

 private:
  template <class Word>
  static std::span<Word> mask_of(Word* mask, std::int64_t numel) {
    return {mask, static_cast<std::size_t>(actpack::words_for(numel, 1))};
  }
};

}  // namespace actpack_python
