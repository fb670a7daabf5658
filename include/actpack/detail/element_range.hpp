// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the host verbs accept: contiguous ranges of the element types, in host memory.
#pragma once

#include <ranges>
#include <span>

#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail {

template <class R>
concept ElementRange = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
    Element<std::ranges::range_value_t<R>>;

template <ElementRange R>
std::span<const std::ranges::range_value_t<R>> as_const_span(const R& range) {
  return {std::ranges::data(range), std::ranges::size(range)};
}

template <ElementRange R>
std::span<std::ranges::range_value_t<R>> as_span(R& range) {
  return {std::ranges::data(range), std::ranges::size(range)};
}

/// Refuses a seed in device memory, which host verbs cannot read.
inline void require_host(const Rounding& rounding) {
  require(rounding.device_seed_and_offset == nullptr,
          "rounding reads its seed from device memory, which host verbs cannot");
}

}  // namespace actpack::detail
