// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The outermost part of a program: its arguments, its errors in one line, and the files that it
// leaves.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <span>
#include <stdexcept>
#include <string>

namespace trainer {

// Calls body(arguments after the program's name) and returns its exit status. An exception becomes
// one line on the standard error output, and a failure.
template <class Body>
int run_program(const char* name, int count, const char* const* arguments, const Body& body) {
  try {
    return body(std::span(arguments, static_cast<std::size_t>(count)).subspan(1));
  } catch (const std::exception& error) {
    std::cerr << name << ": " << error.what() << "\n";
    return EXIT_FAILURE;
  }
}

inline std::ofstream open_for_writing(const std::string& path) {
  std::ofstream file(path);
  if (!file) {
    throw std::runtime_error("--json " + path + ": cannot be written");
  }
  return file;
}

// A JSON file and a picture beside it, in .svg.
struct ResultFiles {
  explicit ResultFiles(const std::string& json_path)
      : picture_path(std::filesystem::path(json_path).replace_extension(".svg").string()),
        json(open_for_writing(json_path)), picture(open_for_writing(picture_path)) {}

  std::string picture_path;
  std::ofstream json;
  std::ofstream picture;
};

}  // namespace trainer
