// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The range of a slice's elements.
#pragma once

#include <cstdint>
#include <limits>

#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/cuda/instructions.hpp"
#include "actpack/detail/cuda/slice_memory.hpp"
#include "actpack/detail/cuda/vectors.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// The smallest and largest of the elements that are present; NaN if one of them is.
ACTPACK_HD inline ValueRange join(ValueRange a, ValueRange b) {
  return {min_or_nan(a.min, b.min), max_or_nan(a.max, b.max)};
}
inline constexpr ValueRange no_values = {std::numeric_limits<float>::infinity(),
                                         -std::numeric_limits<float>::infinity()};

template <class Elements>
ACTPACK_HD ValueRange range_of(const Elements& x, SliceMask present) {
  if (present == whole_slice) {
    ValueRange range = {x[0], x[0]};
    for (int j = 1; j < elements_per_call; ++j) {
      range = join(range, {x[j], x[j]});
    }
    return range;
  }
  ValueRange range = no_values;
  for (int j = 0; j < elements_per_call; ++j) {
    if ((present >> j & 1) != 0) {
      range = join(range, {x[j], x[j]});
    }
  }
  return range;
}

template <class T>
ACTPACK_HD ValueRange range_of(const PairSlice<T>& x, SliceMask present) {
  if (present != whole_slice) {
    Slice values;
    for (int j = 0; j < elements_per_call; ++j) {
      values.value[j] = x[j];
    }
    return range_of(values, present);
  }
  std::uint32_t min = x.pair[0];
  std::uint32_t max = x.pair[0];
  for (int i = 1; i < elements_per_call / 2; ++i) {
    min = extremum_of_pairs<Extremum::min, T>(min, x.pair[i]);
    max = extremum_of_pairs<Extremum::max, T>(max, x.pair[i]);
  }
  float min0, min1, max0, max1;
  split_pair<T>(min, min0, min1);
  split_pair<T>(max, max0, max1);
  return {min_or_nan(min0, min1), max_or_nan(max0, max1)};
}

}  // namespace actpack::detail
