// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shared by the tests of the trainers: a folder of a test's own, whole programs, and what is in a
// checkpoint.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace support {

// Gone with this object.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("actpack_trainers_test_" + std::to_string(getpid()));

  Folder() { std::filesystem::create_directories(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }

  std::string operator/(const std::string& name) const { return (path / name).string(); }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      all.push_back(entry.path().filename().string());
    }
    return all;
  }
};

inline std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What a command leaves: its exit status as a shell has it, and both of its outputs.
struct Outcome {
  int status = 0;
  std::string output;
};

inline Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* const pipe = popen(("exec 2>&1; " + command).c_str(), "r");
  std::array<char, 4096> piece{};
  for (std::size_t size = 1; size > 0;) {
    size = std::fread(piece.data(), 1, piece.size(), pipe);
    outcome.output.append(piece.data(), size);
  }
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

// A checkpoint's names and bytes, without what differs between two runs that compute the same.
inline std::vector<std::pair<std::string, std::string>> entries_of(const std::string& path) {
  const std::string bytes = contents_of(path);
  std::vector<std::pair<std::string, std::string>> entries;
  for (std::size_t at = bytes.find('\n') + 1; at < bytes.size();) {
    const std::size_t end = bytes.find('\n', at);
    const std::string line = bytes.substr(at, end - at);
    const std::size_t second = line.rfind(' ');
    const std::size_t first = line.rfind(' ', second - 1);
    const std::size_t size = std::stoul(line.substr(first)) * std::stoul(line.substr(second));
    if (!contains(line, "seconds") && !contains(line, "peak bytes")) {
      entries.emplace_back(line, bytes.substr(end + 1, size));
    }
    at = end + 1 + size;
  }
  return entries;
}

}  // namespace support
