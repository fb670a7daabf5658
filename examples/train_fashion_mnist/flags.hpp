// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a trainer's command line is made of.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace trainer {

class OptionError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One flag: what --help says, and what its value does. A setter that returns false refuses the
// value.
struct Flag {
  std::string_view name;
  std::string_view values;
  std::string_view help;
  std::string_view expected;
  std::function<bool(std::string_view)> set;
};

// Sets `target` if `text` is a whole number of at least `least` and nothing else.
template <class T>
bool parse_number(std::string_view text, T least, T& target) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least) {
    return false;
  }
  target = number;
  return true;
}

// Sets `target` to whether `text` is `yes`, if it is that or `no`.
inline bool parse_choice(std::string_view text, std::string_view yes, std::string_view no,
                         bool& target) {
  target = text == yes;
  return text == yes || text == no;
}

// The lines of --help.
inline std::string describe(const std::vector<Flag>& flags) {
  std::string text;
  for (const Flag& flag : flags) {
    std::string left = "  " + std::string(flag.name) + " " + std::string(flag.values);
    left.resize(std::max<std::size_t>(left.size() + 2, 36), ' ');
    text += left + std::string(flag.help) + "\n";
  }
  return text;
}

// Sets what the arguments say; returns false, having set no more, where help is asked for. Throws
// OptionError, in one line with flag and value, for what is not understood.
inline bool set_flags(const std::vector<Flag>& known, std::span<const char* const> arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string name = arguments[i];
    if (name == "--help" || name == "-h") {
      return false;
    }
    const auto flag = std::ranges::find(known, name, &Flag::name);
    if (flag == known.end()) {
      throw OptionError(name + ": unknown flag (--help lists them)");
    }
    if (++i == arguments.size()) {
      throw OptionError(name + ": needs a value: " + std::string(flag->expected));
    }
    if (!flag->set(arguments[i])) {
      throw OptionError(name + " " + arguments[i] + ": expected " + std::string(flag->expected));
    }
  }
  return true;
}

}  // namespace trainer
