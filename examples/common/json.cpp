// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Writes numbers, strings, arrays and objects.

#include "common/json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
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

// The bytes of the character that `text` starts with; 0 if they are not UTF-8's for it.
std::size_t utf8_size(std::string_view text) {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  if (byte(0) < 0x80) {
    return 1;
  }
  for (const std::size_t size : {2U, 3U, 4U}) {
    const std::uint32_t mark = 0xF00U >> size & 0xFF;  // the first byte's upper size + 1 bits
    if ((byte(0) & (mark | mark >> 1)) != mark) {
      continue;
    }
    std::uint32_t code = byte(0) & ~mark;
    for (std::size_t i = 1; i < size; ++i) {
      if ((byte(i) & 0xC0) != 0x80) {
        return 0;
      }
      code = code << 6 | (byte(i) & 0x3F);
    }
    const std::uint32_t least = size == 2 ? 0x80 : size == 3 ? 0x800 : 0x10000;
    return code >= least && code <= 0x10FFFF && code >> 11 != 0x1B ? size : 0;  // no surrogates
  }
  return 0;
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
  for (std::string_view rest = text; !rest.empty();) {
    const char c = rest.front();
    const std::size_t size = utf8_size(rest);
    if (size == 0) {
      out += "\uFFFD";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += format("\\u%04x", static_cast<unsigned>(c));
    } else {
      out += c == '"' || c == '\\' ? "\\" : "";
      out += rest.substr(0, size);
    }
    rest.remove_prefix(std::max<std::size_t>(size, 1));
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
