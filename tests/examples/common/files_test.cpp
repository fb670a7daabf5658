// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that a file is read whole or not at all, and that it keeps its contents until all new ones
// are there.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <string>

#include "common/files.hpp"
#include "examples/support.hpp"

namespace {

using namespace trainer;
using namespace support;
namespace fs = std::filesystem;

// What FileError says; empty if there is none.
template <class Call>
std::string complaint(const Call& call) {
  try {
    call();
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

void write_text(const std::string& path, const std::string& text) {
  write_file(path, [&](std::ostream& out) { out << text; });
}

// As on a full disk: no file grows beyond so many bytes.
struct SmallDisk {
  rlimit before{};

  explicit SmallDisk(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() { setrlimit(RLIMIT_FSIZE, &before); }
};

TEST_CASE("files: what is written is what is read, and nothing else is left") {
  const Folder folder;
  const std::string path = folder / "file";
  for (const std::string& text :
       {std::string(), std::string("a\0b", 3), std::string(300'000, 'x')}) {
    require_writable(path);
    write_text(path, text);
    CHECK(read_file(path) == text);
    CHECK(folder.names() == std::vector<std::string>{"file"});
  }
}

TEST_CASE("files: asking whether a file can be written changes nothing") {
  const Folder folder;
  require_writable(folder / "new");
  CHECK(folder.names().empty());
  write_text(folder / "old", "old");
  require_writable(folder / "old");
  CHECK(contents_of(folder / "old") == "old");
}

TEST_CASE(
    "files: a write that fails halfway leaves the earlier contents, and says file and reason") {
  const Folder folder;
  const std::string path = folder / "results.json";
  write_text(path, "earlier");
  const SmallDisk disk(10'000);
  require_writable(path);
  CHECK(complaint([&] { write_text(path, std::string(10'001, 'x')); }) ==
        path + ": cannot be written: File too large");
  CHECK(contents_of(path) == "earlier");
  CHECK(folder.names().size() == 1);
  write_text(path, std::string(10'000, 'x'));
  CHECK(contents_of(path).size() == 10'000);
}

TEST_CASE("files: a place where nothing can be written is refused before the work") {
  const Folder folder;
  write_text(folder / "file", "no folder");
  CHECK(complaint([&] { require_writable(folder / "file/x.json"); }) ==
        (folder / "file/x.json") + ": cannot be written: Not a directory");
  CHECK(complaint([&] { require_writable(folder / "nowhere/x.json"); }) ==
        (folder / "nowhere/x.json") + ": cannot be written: No such file or directory");
  CHECK(complaint([&] { require_writable(folder.path.string()); }) ==
        folder.path.string() + ": cannot be written: Is a directory");
  CHECK(contains(complaint([&] { require_writable(folder / std::string(300, 'x')); }), "too long"));
}

TEST_CASE("files: a device stays one, and tells that it is full") {
  write_text("/dev/null", "lost");
  CHECK(fs::is_character_file("/dev/null"));
  require_writable("/dev/full");
  CHECK(complaint([] { write_text("/dev/full", "x"); }) ==
        "/dev/full: cannot be written: No space left on device");
  CHECK(fs::is_character_file("/dev/full"));
}

TEST_CASE("files: a link stays a link, and a private file private") {
  const Folder folder;
  write_text(folder / "file", "old");
  fs::permissions(folder / "file", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("file", folder / "link");
  write_text(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(contents_of(folder / "file") == "new");
  struct stat status {};
  REQUIRE(stat((folder / "file").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("files: what cannot be read is an error with its reason, not an empty file") {
  const Folder folder;
  CHECK(complaint([&] { read_file(folder / "nowhere"); }) ==
        (folder / "nowhere") + ": cannot be opened: No such file or directory");
  CHECK(complaint([&] { read_file(folder.path); }) ==
        folder.path.string() + ": is not a regular file");
  CHECK(complaint([] { read_file("/dev/zero"); }) == "/dev/zero: is not a regular file");
  // Its first page is nobody's memory.
  CHECK(complaint([] { read_file("/proc/self/mem"); }) ==
        "/proc/self/mem: cannot be read: Input/output error");
}

}  // namespace
