// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The sentence of a refusal: apart from require.hpp, because <string> and <stdexcept> take longer
// to compile than most of our headers.
#pragma once

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "actpack/detail/require.hpp"

#if !ACTPACK_NO_EXCEPTIONS && defined(__GNUC__) && !defined(__cpp_exceptions)
#error "actpack throws: with -fno-exceptions, define ACTPACK_NO_EXCEPTIONS=1 to abort instead"
#endif

namespace actpack::detail::inline ACTPACK_ONCE {

/// The fewest digits that distinguish `value` from every other of its type.
template <class Number>
std::string to_text(Number value) {
  char text[32];  // -2.2250738585072014e-308 is as long as any
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

inline std::string to_text(const Fragment& fragment) {
  switch (fragment.kind) {
    case Fragment::Kind::text: return fragment.text;
    case Fragment::Kind::integer: return to_text(fragment.integer);
    case Fragment::Kind::natural: return to_text(fragment.natural);
    case Fragment::Kind::real: return to_text(fragment.real);
  }
  return {};
}

ACTPACK_COMPILED_ONCE void refuse(std::initializer_list<Fragment> fragments) {
  std::string sentence = "actpack: ";
  for (const Fragment& fragment : fragments) {
    sentence += to_text(fragment);
  }
#if ACTPACK_NO_EXCEPTIONS
  std::fprintf(stderr, "%s\n", sentence.c_str());
  std::abort();
#else
  throw std::invalid_argument(sentence);
#endif
}

}  // namespace actpack::detail
