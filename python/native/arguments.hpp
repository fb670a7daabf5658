// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How the C functions refuse what C cannot rule out and the library's verbs cannot see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "actpack/layout.hpp"

namespace actpack_python {

// Throws std::invalid_argument with the parts joined to a sentence unless `holds`.
template <class... Parts>
void refuse_unless(bool holds, const Parts&... parts) {
  if (!holds) {
    std::ostringstream sentence;
    ((sentence << "actpack: ") << ... << parts);
    throw std::invalid_argument(sentence.str());
  }
}

inline void require_flag(const char* name, std::int32_t flag) {
  refuse_unless(flag == 0 || flag == 1, name, " = ", flag, " is neither 0 nor 1");
}

inline void require_numel(const char* name, std::int64_t numel) {
  constexpr std::int64_t most = actpack::Layout::max_numel;
  refuse_unless(numel >= 0 && numel <= most, name, " = ", numel, " is not in [0, ", most, "]");
}

inline void require_aligned(const char* name, const void* pointer, std::int64_t alignment) {
  refuse_unless(reinterpret_cast<std::intptr_t>(pointer) % alignment == 0, name,
                " is not aligned to ", alignment, " bytes");
}

// Refuses an array that is missing, unless it is empty, or misaligned.
inline void require_array(const char* name, const void* pointer, std::int64_t numel,
                          std::int64_t alignment) {
  refuse_unless(pointer != nullptr || numel == 0, name, " is null but has ", numel, " elements");
  require_aligned(name, pointer, alignment);
}

template <class Struct>
const Struct& require_struct(const char* name, const Struct* pointer) {
  refuse_unless(pointer != nullptr, name, " is null");
  require_aligned(name, pointer, alignof(Struct));
  return *pointer;
}

}  // namespace actpack_python
