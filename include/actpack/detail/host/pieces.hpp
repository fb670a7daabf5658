// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How a verb cuts its work into pieces for a loop, and in which floating-point environment they
// run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "actpack/detail/float_environment.hpp"
#include "actpack/parallel.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Elements in a piece of work: few enough that two threads share a tensor of 64 KiB, and enough to
/// be worth waking them.
inline constexpr std::int64_t elements_per_piece = 1 << 13;

/// Calls body(i) for all i in [0, count) through `parallel`, on whatever threads it has.
template <class Body>
void run_loop(std::int64_t count, ParallelFor auto& parallel, const Body& body) {
  require_ieee_arithmetic();
  parallel(count, [&](std::int64_t i) { in_default_float_environment([&] { body(i); }); });
}

/// Calls work(begin, end) for intervals that together are units [first, last), through `parallel`
/// if there are several. A unit is `unit_size` elements that one thread must do together.
template <class Work>
void for_each_piece(std::int64_t first, std::int64_t last, std::int64_t unit_size,
                    ParallelFor auto& parallel, Work work) {
  const std::int64_t size = std::max<std::int64_t>(elements_per_piece / unit_size, 1);
  const std::int64_t pieces = (last - first + size - 1) / size;
  if (std::is_same_v<std::remove_cvref_t<decltype(parallel)>, Serial> || pieces <= 1) {
    require_ieee_arithmetic();
    in_default_float_environment([&] { work(first, last); });
    return;
  }
  run_loop(pieces, parallel, [&](std::int64_t piece) {
    const std::int64_t begin = first + piece * size;
    work(begin, (std::min)(begin + size, last));
  });
}

}  // namespace actpack::detail
