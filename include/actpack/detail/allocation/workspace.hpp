// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Scratch memory that the caller owns, cut into arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "actpack/config.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Hands out a caller's workspace array by array. Without memory, it adds up the bytes needed.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::span<std::byte> memory) : memory_(memory) {}

  /// Returns an uninitialised array: T needs no constructor.
  template <class T>
  std::span<T> take(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignment);
    std::byte* const bytes = memory_.data() == nullptr ? nullptr : aligned() + used_;
    used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    if (bytes == nullptr) return {};
    return {reinterpret_cast<T*>(bytes), count};
  }

  /// The bytes for all arrays taken, wherever the workspace starts.
  std::size_t size() const { return used_ + alignment; }

 private:
  static constexpr std::size_t alignment = 64;

  std::byte* aligned() const {
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (alignment - start % alignment) % alignment;
  }

  std::span<std::byte> memory_;
  std::size_t used_ = 0;
};

/// A workspace of our own. `new` leaves bytes uninitialised; std::vector would write them all.
class UninitialisedBytes {
 public:
  explicit UninitialisedBytes(std::size_t size) : bytes_(new std::byte[size]), size_(size) {}
  ~UninitialisedBytes() { delete[] bytes_; }
  UninitialisedBytes(const UninitialisedBytes&) = delete;
  UninitialisedBytes& operator=(const UninitialisedBytes&) = delete;

  std::span<std::byte> span() const { return {bytes_, size_}; }

 private:
  std::byte* bytes_;
  std::size_t size_;
};

}  // namespace actpack::detail
