// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How every verb refuses a caller's mistake: one sentence that names the argument and the numbers.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

namespace actpack::detail {

/// A text or a number in a sentence, not yet put into words: that would be compiled for every call.
class Part {
 public:
  Part(const char* text) : kind_(Kind::text), text_(text) {}
  Part(std::signed_integral auto number) : kind_(Kind::integer), integer_(number) {}
  Part(std::unsigned_integral auto number) : kind_(Kind::natural), natural_(number) {}
  Part(double number) : kind_(Kind::real), real_(number) {}

  std::string to_string() const {
    switch (kind_) {
      case Kind::text: return text_;
      case Kind::integer: return std::to_string(integer_);
      case Kind::natural: return std::to_string(natural_);
      case Kind::real: return std::to_string(real_);
    }
    return {};
  }

 private:
  enum class Kind { text, integer, natural, real } kind_;
  union {
    const char* text_;
    std::int64_t integer_;
    std::uint64_t natural_;
    double real_;
  };
};

[[noreturn]] inline void refuse(std::initializer_list<Part> parts) {
  std::string sentence = "actpack: ";
  for (const Part& part : parts) {
    sentence += part.to_string();
  }
  throw std::invalid_argument(sentence);
}

/// Throws std::invalid_argument with the parts joined to a sentence unless `holds`.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) {
    refuse({Part(parts)...});
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
