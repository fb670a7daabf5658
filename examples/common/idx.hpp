// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Reads IDX files, the format of MNIST and its relatives: a big-endian header, then bytes,
// compressed by gzip.
#pragma once

#include <cstdint>
#include <filesystem>
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

// An IDX file's dimensions and the bytes behind them.
struct Idx {
  std::vector<std::int64_t> sizes;
  std::vector<std::uint8_t> values;
};

// Reads a file whose first four bytes are `magic`; its last byte is the number of dimensions.
// Throws DataError.
Idx read_idx(const std::filesystem::path& path, std::uint32_t magic);

}  // namespace trainer
