// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Writes numbers, strings, arrays and objects.

#include "common/json.hpp"

#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace trainer {
namespace {

std::string enclosed(char open, const std::vector<std::string>& items, char close, int indent) {
  const auto line = [&](int spaces) {
    return indent == 0 ? std::string()
                       : std::string("\n").append(static_cast<std::size_t>(spaces), ' ');
  };
  std::string text(1, open);
  for (const std::string& item : items) {
    text += (&item == &items.front() ? "" : indent == 0 ? ", " : ",") + line(indent) + item;
  }
  return text + line(indent - 2) + close;
}

}  // namespace

std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

std::string number(double value) { return std::isfinite(value) ? format("%.9g", value) : "null"; }

std::string json_array(const std::vector<std::string>& values, int indent) {
  return enclosed('[', values, ']', indent);
}

std::string json_object(const JsonMembers& members, int indent) {
  std::vector<std::string> items;
  for (const auto& [name, value] : members) {
    items.push_back(quoted(std::string(name)) + ": " + value);
  }
  return enclosed('{', items, '}', indent);
}

}  // namespace trainer
