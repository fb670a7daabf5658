// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Threads that work through a list together: one host thread, or all threads of a device's block.
//
// The threads of a block call its functions in the same order, and every thread gets the same
// results. Control flow between calls is uniform across the block. A device's block is in
// cuda/device_thread_block.hpp.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// A block of one thread.
class OneThread {
 public:
  static constexpr bool is_one_thread = true;

  /// Whether the calling thread writes what all threads have found.
  ACTPACK_HD bool is_leader() const { return true; }

  /// Afterwards every thread can read what any of them wrote before.
  ACTPACK_HD void sync() const {}

  /// Calls f(i) for 0 <= i < count, in any order, and synchronises.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void for_each(std::int64_t count, const F& f) const {
    for (std::int64_t i = 0; i < count; ++i) f(i);
  }

  /// Calls use(i, value(i), sum of the values of all lower indices) for 0 <= i < count, and returns
  /// the sum of all values. `op` adds two values and is associative; `none` is its neutral element.
  /// use(i) may change no other index's value. Synchronises.
  ACTPACK_AS_CALLABLE
  template <class T, class Op, class Value, class Use>
  ACTPACK_HD T scan(std::int64_t count, T none, const Op& op, const Value& value,
                    const Use& use) const {
    T before = none;
    for (std::int64_t i = 0; i < count; ++i) {
      const T own = value(i);
      use(i, own, before);
      before = op(before, own);
    }
    return before;
  }
};

}  // namespace actpack::detail
