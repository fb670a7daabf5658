// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Reads IDX files, the format of MNIST and its relatives: a big-endian header, then bytes,
// compressed by gzip.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace trainer {

// The user named data that cannot be used: one line that says which file and what is wrong with it.
class DataError : public std::runtime_error {
 public:
  DataError(const std::filesystem::path& file, const std::string& what)
      : std::runtime_error(file.string() + ": " + what) {}
};

// An IDX file's dimensions and the bytes after them.
struct Idx {
  std::vector<std::int64_t> sizes;
  std::vector<std::uint8_t> values;
};

inline std::vector<std::uint8_t> read_gzip(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) {
    throw DataError(path, "no such file");
  }
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (file == nullptr) {
    throw DataError(path, "cannot be opened");
  }
  constexpr unsigned piece = 1 << 20;
  std::vector<std::uint8_t> bytes;
  for (int read = piece; read > 0;) {
    const std::size_t size = bytes.size();
    bytes.resize(size + piece);
    read = gzread(file.get(), bytes.data() + size, piece);
    bytes.resize(size + static_cast<std::size_t>(std::max(read, 0)));
  }
  int error = Z_OK;
  const std::string message = gzerror(file.get(), &error);
  if (error == Z_BUF_ERROR) {
    throw DataError(path, "truncated: the gzip stream ends after " + std::to_string(bytes.size()) +
                              " bytes of data");
  }
  if (error != Z_OK) {
    throw DataError(path, "damaged gzip stream: " + message);
  }
  return bytes;
}

// Reads a file whose first four bytes are `magic`; its last byte is the number of dimensions.
// Throws DataError.
inline Idx read_idx(const std::filesystem::path& path, std::uint32_t magic) {
  Idx idx;
  idx.values = read_gzip(path);
  std::size_t at = 0;
  const auto next = [&]() -> std::uint32_t {
    if (at + 4 > idx.values.size()) {
      throw DataError(path, "truncated: " + std::to_string(idx.values.size()) +
                                " bytes are too few for a header");
    }
    std::uint32_t number = 0;
    for (const std::size_t end = at + 4; at < end; ++at) {
      number = number << 8 | idx.values[at];
    }
    return number;
  };
  const std::uint32_t found = next();
  if (found != magic) {
    throw DataError(path, "mislabelled: magic number " + std::to_string(found) + ", expected " +
                              std::to_string(magic));
  }
  double numel = 1;  // four-byte sizes can multiply beyond any integer
  for (std::uint32_t dimension = 0; dimension < (magic & 0xFF); ++dimension) {
    idx.sizes.push_back(next());
    numel *= static_cast<double>(idx.sizes.back());
  }
  idx.values.erase(idx.values.begin(), idx.values.begin() + static_cast<std::ptrdiff_t>(at));
  const double size = static_cast<double>(idx.values.size());
  if (size != numel) {
    throw DataError(path, (size < numel ? "truncated: " : "too long: ") +
                              std::to_string(idx.values.size()) + " bytes of data, " +
                              "the header promises " +
                              std::to_string(static_cast<std::uint64_t>(std::min(numel, 1e18))));
  }
  return idx;
}

}  // namespace trainer
