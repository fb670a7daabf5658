// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How host and device verbs refuse a view whose layout is wrong or whose arrays are missing.
#pragma once

#include "actpack/detail/require.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_arrays(const ConstPackedView& view) {
  view.layout.validate();
  require_memory(view.words, view.layout.num_words(), "words");
  require_memory(view.params, view.layout.num_groups(), "params");
  refuse_unless(
      (view.row_bits == nullptr) == (view.row_offsets == nullptr) || view.layout.rows == 0,
      "row_bits is ", view.row_bits == nullptr ? "null" : "set", " but row_offsets is ",
      view.row_offsets == nullptr ? "null" : "set");
}

inline void require_arrays(const ConstSignMagnitudeView& view) {
  view.layout.validate();
  require_memory(view.sign_words, view.layout.with_bits(1).num_words(), "sign_words");
  require_memory(view.magnitude_words, view.layout.num_words(), "magnitude_words");
  require_memory(view.params, view.layout.num_groups(), "params");
}

}  // namespace actpack::detail
