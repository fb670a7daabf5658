// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Files that are read whole, and files that change all at once: a program that fails or is killed
// leaves the earlier contents.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace trainer {

// A file that cannot be used: one line that says which file and why.
class FileError : public std::runtime_error {
 public:
  FileError(const std::filesystem::path& file, const std::string& what)
      : std::runtime_error(file.string() + ": " + what) {}

  // Of the system's call that failed last.
  static FileError of_system(const std::filesystem::path& file, const char* what) {
    return {file, std::string(what) + ": " + std::strerror(errno)};
  }
};

// The bytes of a regular file. Throws FileError.
inline std::string read_file(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw FileError::of_system(path, "cannot be opened");
  }
  if (!std::filesystem::is_regular_file(path)) {  // others may never end
    throw FileError(path, "is not a regular file");
  }
  std::ostringstream bytes;
  errno = 0;
  if (file.peek() != std::ifstream::traits_type::eof()) {
    bytes << file.rdbuf();
  }
  if (errno != 0 || !bytes) {
    throw FileError::of_system(path, "cannot be read");
  }
  return std::move(bytes).str();
}

// Gives a file new contents at once: they are written beside it, in a file of this process's own,
// which takes its name when it is whole and on the disk. Without any, only tries whether that would
// work. Devices and pipes, which have no contents to lose, are written as they are. Throws
// FileError, and leaves the file as it was.
inline void replace_file(const std::string& path, const std::string* contents) {
  std::error_code ignored;
  const std::filesystem::path resolved = std::filesystem::weakly_canonical(path, ignored);
  const std::string target = resolved.empty() ? path : resolved.string();  // a link stays one
  struct stat before {};
  const bool is_new = stat(target.c_str(), &before) != 0;
  const bool is_replaced = is_new || S_ISREG(before.st_mode);
  const std::string aside =
      is_replaced ? target + "." + std::to_string(getpid()) + ".part" : target;
  const int file =
      !is_new && access(target.c_str(), W_OK) != 0
          ? -1
          : open(aside.c_str(), O_WRONLY | O_CLOEXEC | (is_replaced ? O_CREAT | O_TRUNC : 0), 0666);
  bool is_done = file >= 0;
  for (std::size_t at = 0; is_done && contents != nullptr && at < contents->size();) {
    const ssize_t written = write(file, contents->data() + at, contents->size() - at);
    is_done = written >= 0 || errno == EINTR;
    at += static_cast<std::size_t>(std::max<ssize_t>(written, 0));
  }
  if (is_done && contents != nullptr && is_replaced) {
    is_done = (is_new || fchmod(file, before.st_mode & 07777) == 0) && fsync(file) == 0 &&
              std::rename(aside.c_str(), target.c_str()) == 0;
  }
  const FileError error = FileError::of_system(path, "cannot be written");
  if (file >= 0) {
    close(file);
    if (is_replaced && (contents == nullptr || !is_done)) {
      unlink(aside.c_str());
    }
  }
  if (!is_done) {
    throw error;
  }
}

// Throws FileError, before work whose results will go there, if they could not.
inline void require_writable(const std::string& path) { replace_file(path, nullptr); }

// The file holds what write(stream) writes, or throws FileError and holds what it did.
template <class Write>
void write_file(const std::string& path, const Write& write) {
  std::ostringstream stream;
  write(stream);
  const std::string contents = std::move(stream).str();
  replace_file(path, &contents);
}

}  // namespace trainer
