// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How every verb refuses a caller's mistake: one sentence that names the argument and the numbers.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace actpack::detail {

template <class Part>
std::string to_text(const Part& part) {
  if constexpr (std::is_arithmetic_v<Part>) {
    return std::to_string(part);
  } else {
    return part;
  }
}

/// Throws std::invalid_argument with the parts joined to a sentence unless `holds`.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) {
    throw std::invalid_argument("actpack: " + (to_text(parts) + ...));
  }
}

/// Refuses a null pointer to an array that is not empty.
inline void require_memory(const void* pointer, std::int64_t size, const char* name) {
  require(pointer != nullptr || size == 0, name, " is null but has ", size, " elements");
}

template <class T>
void require_memory(std::span<T> array, const char* name) {
  require_memory(array.data(), static_cast<std::int64_t>(array.size()), name);
}

}  // namespace actpack::detail
