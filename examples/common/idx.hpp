// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Reads IDX files, the format of MNIST and its relatives: a big-endian header, then bytes,
// compressed by gzip.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "common/files.hpp"

namespace trainer {

// The bytes that a gzip file stands for, as many as are asked for.
class GzipReader {
 public:
  explicit GzipReader(const std::filesystem::path& path)
      : path_(path), compressed_(read_file(path)) {
    constexpr int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&stream_, gzip_only) != Z_OK) {
      throw std::bad_alloc();
    }
  }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;
  ~GzipReader() { inflateEnd(&stream_); }

  std::size_t compressed_size() const { return compressed_.size(); }

  // Returns how many bytes there were: less than asked for at the end only, whose checksum is then
  // known to be right. Throws FileError.
  std::size_t read(std::span<std::uint8_t> bytes) {
    constexpr std::size_t piece = 1 << 30;  // zlib counts in 32 bits
    std::size_t size = 0;
    while (size < bytes.size() && !is_over_) {
      stream_.next_in = reinterpret_cast<Bytef*>(compressed_.data() + at_);
      stream_.avail_in = static_cast<uInt>(std::min(compressed_.size() - at_, piece));
      stream_.next_out = bytes.data() + size;
      stream_.avail_out = static_cast<uInt>(std::min(bytes.size() - size, piece));
      const int result = inflate(&stream_, Z_NO_FLUSH);
      at_ = static_cast<std::size_t>(reinterpret_cast<char*>(stream_.next_in) - compressed_.data());
      size = static_cast<std::size_t>(stream_.next_out - bytes.data());
      if (result == Z_STREAM_END) {
        is_over_ = at_ == compressed_.size();
        inflateReset(&stream_);  // another stream may follow, and nothing else
      } else if (result == Z_BUF_ERROR) {
        throw FileError(path_, "truncated: the gzip stream has no end");
      } else if (result != Z_OK) {
        throw FileError(path_, std::string("damaged gzip stream: ") +
                                   (stream_.msg != nullptr ? stream_.msg : "no reason given"));
      }
    }
    return size;
  }

 private:
  std::filesystem::path path_;
  std::string compressed_;
  std::size_t at_ = 0;
  bool is_over_ = false;
  z_stream stream_{};
};

// An IDX file's first dimension, and all its bytes after the header.
struct Idx {
  std::int64_t count = 0;
  std::vector<std::uint8_t> values;
};

// Reads a file, and no more of it than its header promises: its first four bytes are `magic`, the
// last of which is the number of dimensions; all but the first are `item`. Throws FileError.
inline Idx read_idx(const std::filesystem::path& path, std::uint32_t magic,
                    const std::vector<std::uint32_t>& item) {
  GzipReader file(path);
  const auto next = [&]() -> std::uint32_t {
    std::array<std::uint8_t, 4> bytes{};
    if (file.read(bytes) < bytes.size()) {
      throw FileError(path, "truncated: too few bytes for a header");
    }
    return std::accumulate(bytes.begin(), bytes.end(), std::uint32_t{0},
                           [](std::uint32_t high, std::uint8_t low) { return high << 8 | low; });
  };
  if (const std::uint32_t found = next(); found != magic) {
    throw FileError(path, "mislabelled: magic number " + std::to_string(found) + ", expected " +
                              std::to_string(magic));
  }
  Idx idx{.count = next(), .values = {}};
  std::size_t numel = static_cast<std::size_t>(idx.count);
  for (const std::uint32_t size : item) {
    if (const std::uint32_t found = next(); found != size) {
      throw FileError(path, "an item's size is " + std::to_string(found) + ", expected " +
                                std::to_string(size));
    }
    numel *= size;
  }
  const auto promised = std::to_string(numel) + " bytes of data, as the header promises";
  // No gzip stream is 1032 times as long as its file.
  if (numel / 1032 > file.compressed_size()) {
    throw FileError(path, "truncated: too short for " + promised);
  }
  idx.values.resize(numel);
  if (const std::size_t size = file.read(idx.values); size < numel) {
    throw FileError(path, "truncated: " + std::to_string(size) + " instead of " + promised);
  }
  if (std::array<std::uint8_t, 1> more{}; file.read(more) != 0) {
    throw FileError(path, "too long: more than " + promised);
  }
  return idx;
}

}  // namespace trainer
