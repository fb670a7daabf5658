// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks where the trainer looks for data, and that it says in one line what is wrong with a file.
#include <doctest/doctest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/data.hpp"
#include "common/idx.hpp"

namespace {

using namespace trainer;
namespace fs = std::filesystem;

// A folder of this test's own, gone with it.
struct Folder {
  fs::path path =
      fs::temp_directory_path() / ("actpack_train_data_test_" + std::to_string(getpid()));

  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

using Bytes = std::vector<std::uint8_t>;

Bytes idx_bytes(const std::vector<std::uint32_t>& header, const Bytes& values) {
  Bytes bytes;
  for (const std::uint32_t number : header) {
    for (const int shift : {24, 16, 8, 0}) {
      bytes.push_back(static_cast<std::uint8_t>(number >> shift));
    }
  }
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

void write_gzip(const fs::path& path, const Bytes& bytes) {
  const gzFile file = gzopen(path.c_str(), "wb");
  REQUIRE(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) ==
          static_cast<int>(bytes.size()));
  REQUIRE(gzclose(file) == Z_OK);
}

Bytes image_bytes(std::uint32_t count) {
  Bytes values;
  for (std::uint32_t i = 0; i < count * 784; ++i) {
    values.push_back(static_cast<std::uint8_t>(i * 7 % 251));
  }
  return values;
}

void write_data_set(const fs::path& folder, std::uint32_t train = 3, std::uint32_t test = 2) {
  fs::create_directories(folder);
  write_gzip(folder / "train-images-idx3-ubyte.gz",
             idx_bytes({2051, train, 28, 28}, image_bytes(train)));
  write_gzip(folder / "train-labels-idx1-ubyte.gz", idx_bytes({2049, train}, Bytes(train, 9)));
  write_gzip(folder / "t10k-images-idx3-ubyte.gz",
             idx_bytes({2051, test, 28, 28}, image_bytes(test)));
  write_gzip(folder / "t10k-labels-idx1-ubyte.gz", idx_bytes({2049, test}, Bytes(test, 0)));
}

// The complaint about loading `folder`; empty if there is none.
std::string complaint(const fs::path& folder) {
  try {
    load_data(folder.string(), "", "");
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("data: images and labels come out as they were written") {
  const Folder folder;
  write_data_set(folder.path);
  const Data data = load_data(folder.path.string(), "", "");
  CHECK(std::ranges::equal(data.train.pixels.span(), image_bytes(3)));
  CHECK(data.train.labels == Bytes{9, 9, 9});
  CHECK(data.test.pixels.images() == 2);
  CHECK(data.test.labels == Bytes{0, 0});
  CHECK(contains(data.origin, folder.path.string()));
}

TEST_CASE("data: the named folder comes first, then the environment's, then the downloaded one") {
  const Folder folder;
  const fs::path named = folder.path / "named";
  const fs::path environment = folder.path / "environment";
  const fs::path downloaded = folder.path / "downloaded";
  write_data_set(named / "fashion-mnist", 4);
  write_data_set(environment, 5);
  write_data_set(downloaded, 6);
  const auto count = [](const fs::path& a, const fs::path& b, const fs::path& c) {
    return load_data(a.string(), b.string(), c.string()).train.labels.size();
  };
  CHECK(count(named, environment, downloaded) == 4);
  CHECK(count("", environment, downloaded) == 5);
  CHECK(count("", folder.path / "nowhere", downloaded) == 6);
  CHECK(count("", "", downloaded) == 6);
}

TEST_CASE("data: without a folder it is generated, and the origin says so") {
  for (const Data& data : {load_data("", "", ""), load_data("none", "/nowhere", "/nowhere")}) {
    CHECK(contains(data.origin, "generated"));
    CHECK(data.train.labels.size() == static_cast<std::size_t>(data.train.pixels.images()));
    for (std::uint8_t kind = 0; kind < 10; ++kind) {
      CHECK(std::ranges::count(data.train.labels, kind) > 400);
    }
    CHECK(data.test.labels.size() == 1000);
  }
}

TEST_CASE("data: a named folder without the data set is an error that names it") {
  const Folder folder;
  CHECK(contains(complaint(folder.path), folder.path.string()));
  CHECK(contains(complaint(folder.path / "nowhere"), "nowhere"));
}

TEST_CASE("data: a missing file is named") {
  for (const char* name : {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
                           "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"}) {
    const Folder folder;
    write_data_set(folder.path);
    fs::remove(folder.path / name);
    CHECK(complaint(folder.path) == (folder.path / name).string() + ": no such file");
  }
}

TEST_CASE("data: wrong contents are one line that names the file and what is wrong") {
  struct Case {
    const char* file;
    Bytes bytes;
    const char* complaint;
  };
  const std::array cases{
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2049, 3}, Bytes(3, 0)),
           "magic number 2049, expected 2051"},
      Case{"train-labels-idx1-ubyte.gz", idx_bytes({2051, 3}, Bytes(3, 0)),
           "magic number 2051, expected 2049"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, 3}, {}), "too few for a header"},
      Case{"train-images-idx3-ubyte.gz", {}, "too few for a header"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, 4, 28, 28}, image_bytes(3)),
           "truncated: 2352 bytes of data, the header promises 3136"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, 2, 28, 28}, image_bytes(3)),
           "too long: 2352"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, ~0u, ~0u, ~0u}, image_bytes(3)),
           "truncated"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, 3, 16, 49}, image_bytes(3)), "16 x 49"},
      Case{"train-images-idx3-ubyte.gz", idx_bytes({2051, 0, 28, 28}, {}), "no images"},
      Case{"train-labels-idx1-ubyte.gz", idx_bytes({2049, 3}, {1, 10, 2}), "label 10 at index 1"},
      Case{"t10k-labels-idx1-ubyte.gz", idx_bytes({2049, 3}, {1, 2, 3}), "3 labels, but"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.complaint);
    const Folder folder;
    write_data_set(folder.path);
    write_gzip(folder.path / wrong.file, wrong.bytes);
    const std::string line = complaint(folder.path);
    CAPTURE(line);
    CHECK(contains(line, wrong.complaint));
    CHECK(line.starts_with((folder.path / wrong.file).string() + ": "));
    CHECK_FALSE(contains(line, "\n"));
  }
}

TEST_CASE("data: a gzip stream cut short or damaged is named") {
  const Folder folder;
  write_data_set(folder.path);
  const fs::path path = folder.path / "train-images-idx3-ubyte.gz";
  std::ifstream file(path, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{12}}) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, size);
    CAPTURE(complaint(folder.path));
    CHECK(contains(complaint(folder.path), path.string() + ": truncated"));
  }
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;  // the checksum
  std::ofstream(path, std::ios::binary) << damaged;
  CHECK(contains(complaint(folder.path), path.string() + ": damaged"));
}

TEST_CASE("data: pixels are scaled to zero mean and unit variance") {
  const PixelScale scale = measure_pixels(Bytes{0, 0, 100, 100});
  std::vector<float> values(2);
  scale(Bytes{0, 100}, values);
  CHECK(values[0] == doctest::Approx(-1));
  CHECK(values[1] == doctest::Approx(1));
}

TEST_CASE("data: a limit keeps the first images") {
  Batch data = generate_data(20, 1);
  const Batch whole = generate_data(20, 1);
  limit(data, 30);
  CHECK(data.labels.size() == 20);
  limit(data, 7);
  CHECK(data.pixels.images() == 7);
  CHECK(std::ranges::equal(data.labels, std::span(whole.labels).first(7)));
  CHECK(std::ranges::equal(data.pixels.span(), whole.pixels.span().first(7 * 784)));
}

}  // namespace
