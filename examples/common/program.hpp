// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The outermost part of a program: its arguments, its errors in one line, and the files that it
// leaves.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "common/files.hpp"

namespace trainer {

// Calls body(arguments after the program's name) and returns its exit status. An exception becomes
// one line on the standard error output, and a failure; so does standard output that got lost.
template <class Body>
int run_program(const char* name, int count, const char* const* arguments, const Body& body) {
  for (const int signal :
       {SIGPIPE, SIGXFSZ}) {  // the write that fails says it, too, and work goes on
    std::signal(signal, SIG_IGN);
  }
  try {
    const int status = body(std::span(arguments, static_cast<std::size_t>(count)).subspan(1));
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {  // std::cout writes there
      throw std::runtime_error("standard output could not be written");
    }
    return status;
  } catch (const std::bad_alloc&) {
    std::cerr << name << ": out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << name << ": " << error.what() << "\n";
  }
  return EXIT_FAILURE;
}

// A JSON file and a picture beside it, in .svg.
class ResultFiles {
 public:
  // Throws FileError, before the work, if they could not be written after it.
  explicit ResultFiles(const std::string& json_path)
      : json_(json_path),
        picture_(std::filesystem::path(json_path).replace_extension(".svg").string()) {
    require_writable(json_);
    require_writable(picture_);
  }

  // Both functions write to a stream.
  template <class WriteJson, class WritePicture>
  void write(const WriteJson& write_json, const WritePicture& write_picture) const {
    write_file(json_, write_json);
    write_file(picture_, write_picture);
    std::cout << "Results in " << json_ << ", a picture in " << picture_ << std::endl;
  }

 private:
  std::string json_;
  std::string picture_;
};

}  // namespace trainer
