// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How a host verb hands its work to a loop of the caller, who owns the threads.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace actpack {

namespace detail {

/// Stands for the body that a verb passes to a loop.
struct LoopBody {
  void operator()(std::int64_t index) const;
};

}  // namespace detail

/// A loop over the pieces of a verb's work: parallel(count, body) calls body(0), …, body(count − 1)
/// once each, in any order and from any threads, and returns when all are done. Bodies throw
/// nothing and allocate nothing, and results do not depend on which thread calls them. An OpenMP
/// loop, a trainer's thread pool and tbb::parallel_for each fit into one lambda: see
/// `examples/threads.cpp`.
template <class F>
concept ParallelFor = requires(F& parallel, std::int64_t count) {
  parallel(count, detail::LoopBody{});
};

/// The default loop: the calling thread does everything.
struct Serial {
  template <class Body>
  void operator()(std::int64_t count, Body body) const {
    for (std::int64_t i = 0; i < count; ++i) {
      body(i);
    }
  }
};

namespace detail {

/// Elements in a piece of work: few enough that two threads share a tensor of 64 KiB, and enough to
/// be worth waking them.
inline constexpr std::int64_t elements_per_piece = 1 << 13;

/// Calls work(begin, end) for intervals that together are units [first, last), through `parallel`
/// if there are several. A unit is `unit_size` elements that one thread must do together.
template <class Work>
void for_each_piece(std::int64_t first, std::int64_t last, std::int64_t unit_size,
                    ParallelFor auto& parallel, Work work) {
  const std::int64_t size = std::max<std::int64_t>(elements_per_piece / unit_size, 1);
  const std::int64_t pieces = (last - first + size - 1) / size;
  if (std::is_same_v<std::remove_cvref_t<decltype(parallel)>, Serial> || pieces <= 1) {
    work(first, last);
    return;
  }
  parallel(pieces, [&](std::int64_t piece) {
    const std::int64_t begin = first + piece * size;
    work(begin, std::min(begin + size, last));
  });
}

}  // namespace detail

}  // namespace actpack
