// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Decoding for saved tensors whose consumer is unknown: magnitudes are right in the mean, and signs
// exactly.
//
// The consumer may be a ReLU's backward pass, which asks `result > 0`. Read from rounded values,
// that would lose the gradient of every small positive one, for good. So a positive value stays
// positive.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/smallest_positive.hpp"
#include "actpack/parallel.hpp"
#include "actpack/sign_magnitude.hpp"

namespace actpack::inline ACTPACK_TARGET {

/// Decodes all of `in` [host memory] plainly into `y` [host, layout.numel()], but for positive
/// values that were rounded to 0: these become the smallest positive number. Throws
/// std::invalid_argument before anything is written. Allocates nothing.
template <class T, ParallelFor Loop = Serial>
void decode_keeping_signs(const ConstSignMagnitudeView& in, std::span<T> y,
                          const Loop& parallel = {}) {
  in.layout.validate();
  detail::require_all(in.layout, {"y", y});
  detail::require_memory(y, "y");
  constexpr std::size_t segment_numel = 1 << 11;  // two arrays of them stay in a core's cache
  const std::size_t segments = (y.size() + segment_numel - 1) / segment_numel;
  detail::run_loop(static_cast<std::int64_t>(segments), parallel, [&](std::int64_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * segment_numel;
    const std::span<T> segment = y.subspan(first, (std::min)(segment_numel, y.size() - first));
    decode(in, static_cast<std::int64_t>(first), segment);
    std::array<T, segment_numel> smallest;
    smallest.fill(detail::smallest_positive<T>());
    const std::span<T> least = std::span(smallest).first(segment.size());
    relu_backward(std::span<const T>(least), in, static_cast<std::int64_t>(first), least);
    for (std::size_t e = 0; e < segment.size(); ++e) {
      segment.data()[e] = detail::nonzero(segment.data()[e], least.data()[e]);
    }
  });
}

}  // namespace actpack
