// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Text for people and for programs: printf into a string, and JSON.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace trainer {

// printf into a string of at most 255 characters.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

// JSON's quoted string, where U+FFFD stands for each byte that is not part of UTF-8; and its
// number, where null stands for what is not finite.
std::string quoted(const std::string& text);
std::string number(double value);

// An array and an object of values that are JSON already: in one line, or with `indent` spaces
// before each value on a line of its own.
std::string json_array(const std::vector<std::string>& values, int indent = 0);
using JsonMembers = std::vector<std::pair<std::string_view, std::string>>;
std::string json_object(const JsonMembers& members, int indent = 0);

template <class T>
std::string json_numbers(const std::vector<T>& values) {
  std::vector<std::string> texts;
  texts.reserve(values.size());
  for (const T& value : values) {
    if constexpr (std::is_integral_v<T>) {
      texts.push_back(std::to_string(value));
    } else {
      texts.push_back(number(value));
    }
  }
  return json_array(texts);
}

}  // namespace trainer
