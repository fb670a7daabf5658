// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The sentence of a refusal: apart from require.hpp, because <string> and <stdexcept> take longer
// to compile than most of our headers.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "actpack/detail/require.hpp"

namespace actpack::detail {

inline std::string to_string(const Fragment& fragment) {
  switch (fragment.kind) {
    case Fragment::Kind::text: return fragment.text;
    case Fragment::Kind::integer: return std::to_string(fragment.integer);
    case Fragment::Kind::natural: return std::to_string(fragment.natural);
    case Fragment::Kind::real: return std::to_string(fragment.real);
  }
  return {};
}

ACTPACK_COMPILED_ONCE void refuse(std::initializer_list<Fragment> fragments) {
  std::string sentence = "actpack: ";
  for (const Fragment& fragment : fragments) {
    sentence += to_string(fragment);
  }
  throw std::invalid_argument(sentence);
}

}  // namespace actpack::detail
