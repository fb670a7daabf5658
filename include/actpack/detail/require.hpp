// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How every verb refuses a caller's mistake: one sentence that names the argument and the numbers.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

/// A text or a number in a sentence. It stays a number until the sentence is needed, because
/// turning it into text would be compiled into every call.
struct Fragment {
  enum class Kind { text, integer, natural, real } kind;
  union {
    const char* text;
    std::int64_t integer;
    std::uint64_t natural;
    double real;
  };

  ACTPACK_INLINE Fragment(const char* value) : kind(Kind::text), text(value) {}
  ACTPACK_INLINE Fragment(std::signed_integral auto value) : kind(Kind::integer), integer(value) {}
  ACTPACK_INLINE Fragment(std::unsigned_integral auto value)
      : kind(Kind::natural), natural(value) {}
  ACTPACK_INLINE Fragment(double value) : kind(Kind::real), real(value) {}
  ACTPACK_INLINE Fragment(float value) : Fragment(static_cast<double>(value)) {}
};

/// Throws std::invalid_argument with the fragments joined to a sentence, or prints it and aborts:
/// see ACTPACK_NO_EXCEPTIONS.
[[noreturn]] void refuse(std::initializer_list<Fragment> fragments);

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_TARGET {

/// Refuses the fragments' sentence unless `holds`.
template <class... Values>
void refuse_unless(bool holds, const Values&... fragments) {
  if (!holds) {
    refuse({Fragment(fragments)...});
  }
}

/// Refuses a null pointer to an array that is not empty.
inline void require_memory(const void* pointer, std::int64_t size, const char* name) {
  refuse_unless(pointer != nullptr || size == 0, name, " is null but has ", size, " elements");
}

template <class T>
void require_memory(std::span<T> array, const char* name) {
  require_memory(array.data(), static_cast<std::int64_t>(array.size()), name);
}

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS
#include "actpack/detail/refuse.hpp"
#endif
