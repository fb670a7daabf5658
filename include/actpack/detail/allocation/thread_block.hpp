// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Who works through a list: one thread, or all threads of a device's block together.
//
// The threads of a crew call its functions in the same order, and what those return is the same for
// all of them. In between, they all do alike. That of a device is in cuda/device_crew.hpp.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

namespace actpack::detail {

/// A crew of one.
class SoloCrew {
 public:
  static constexpr bool is_alone = true;

  /// Whether the calling thread is to write what all have found.
  ACTPACK_HD bool leads() const { return true; }

  /// What any of them wrote before, all can read afterwards.
  ACTPACK_HD void meet() const {}

  /// Calls f(i) for 0 <= i < count, in any order. All meet at the end.
  ACTPACK_AS_CALLABLE
  template <class F>
  ACTPACK_HD void for_each(std::int64_t count, const F& f) const {
    for (std::int64_t i = 0; i < count; ++i) f(i);
  }

  /// Calls use(i, value(i), what the values of all lower indices come to) for 0 <= i < count, and
  /// returns what all come to, by an associative `op` whose neutral element is `none`. use(i) may
  /// change no other index's value. All meet at the end.
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
