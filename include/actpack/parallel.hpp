// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How a host verb hands its work to a loop of the caller, who owns the threads.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

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

}  // namespace actpack
