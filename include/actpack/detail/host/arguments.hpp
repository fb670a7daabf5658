// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The arguments of host verbs: contiguous ranges of the element types, in host memory, and how many
// elements of a tensor they are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

// In terms of std::span, because <ranges> takes a tenth of a small file's compile time.
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
  refuse_unless(rounding.device_seed_and_offset == nullptr,
                "rounding reads its seed from device memory, which host verbs cannot");
}

/// The size of a range of values, and what the caller knows it as.
struct NamedSize {
  const char* name;
  std::int64_t size;

  template <class Values>
  NamedSize(const char* argument, const Values& values)
      : name(argument), size(static_cast<std::int64_t>(values.size())) {}
};

/// The elements of a chunk of values that starts with row `first_row`: whole rows, all in the
/// tensor.
inline ElementInterval require_rows(const Layout& layout, NamedSize x, std::int64_t first_row) {
  refuse_unless(first_row >= 0 && first_row <= layout.rows, "first_row = ", first_row,
                " but layout.rows = ", layout.rows);
  const std::int64_t first =
      first_row == layout.rows ? layout.numel() : first_row * layout.row_size;
  refuse_unless(x.size <= layout.numel() - first, x.name, ".size() = ", x.size, " from row ",
                first_row, " exceeds the layout's ", layout.numel(), " elements");
  refuse_unless(
      first + x.size == layout.numel() || x.size % std::max<std::int64_t>(layout.row_size, 1) == 0,
      x.name, ".size() = ", x.size, " is not a whole number of rows of ", layout.row_size);
  return {first, first + x.size};
}

inline ElementInterval require_range(const Layout& layout, std::int64_t first, NamedSize x) {
  refuse_unless(first >= 0 && first <= layout.numel() && x.size <= layout.numel() - first,
                "first = ", first, " and ", x.name, ".size() = ", x.size, " exceed the layout's ",
                layout.numel(), " elements");
  return {first, first + x.size};
}

inline void require_all(const Layout& layout, NamedSize x) {
  refuse_unless(x.size == layout.numel(), x.name, ".size() = ", x.size, " but the layout has ",
                layout.numel(), " elements");
}

}  // namespace actpack::detail
