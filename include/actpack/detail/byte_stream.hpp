// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Numbers as plain bytes, eight each and the least significant first on every machine.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

class ByteWriter {
 public:
  void put(std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
      bytes_.push_back(static_cast<std::byte>(value >> shift));
    }
  }
  void put(std::int64_t value) { put(static_cast<std::uint64_t>(value)); }
  void put(double value) { put(std::bit_cast<std::uint64_t>(value)); }

  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  /// `name` is what errors call the bytes.
  ByteReader(std::span<const std::byte> bytes, const char* name) : bytes_(bytes), name_(name) {}

  std::uint64_t get() {
    require(bytes_.size() - next_ >= 8, name_, " ends after ", bytes_.size(), " bytes, too early");
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 8) {
      value |= std::to_integer<std::uint64_t>(bytes_[next_++]) << shift;
    }
    return value;
  }
  std::int64_t get_integer() { return static_cast<std::int64_t>(get()); }
  double get_double() { return std::bit_cast<double>(get()); }

  void require_end() const {
    require(next_ == bytes_.size(), name_, " has ", bytes_.size(), " bytes instead of ", next_);
  }

 private:
  std::span<const std::byte> bytes_;
  const char* name_;
  std::size_t next_ = 0;
};

}  // namespace actpack::detail::inline ACTPACK_TARGET
