// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the host verbs accept: contiguous ranges of the element types, in host memory.
#pragma once

#include <span>
#include <utility>

#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail {

// In terms of std::span, not of <ranges>: that takes a tenth of a small file's compile time.
template <class R>
using ValueOf = typename decltype(std::span(std::declval<R&>()))::value_type;

template <class R>
concept ElementRange = Element<ValueOf<R>>;

template <ElementRange R>
std::span<const ValueOf<R>> as_const_span(const R& range) {
  return range;
}

template <ElementRange R>
std::span<ValueOf<R>> as_span(R& range) {
  return range;
}

/// Refuses a seed in device memory, which host verbs cannot read.
inline void require_host(const Rounding& rounding) {
  require(rounding.device_seed_and_offset == nullptr,
          "rounding reads its seed from device memory, which host verbs cannot");
}

}  // namespace actpack::detail
