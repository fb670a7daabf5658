// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Scratch memory of the caller's, cut into arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace actpack::detail {

/// Memory handed out piece by piece from a caller's workspace. Without one, adds up what is needed.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::span<std::byte> memory) : memory_(memory) {}

  /// An array whose elements come into being uninitialised, as bytes make them of types that need
  /// no constructor.
  template <class T>
  std::span<T> take(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignment);
    std::byte* const bytes = memory_.data() == nullptr ? nullptr : aligned() + used_;
    used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    if (bytes == nullptr) return {};
    return {reinterpret_cast<T*>(bytes), count};
  }

  /// Bytes for what was taken, wherever the workspace starts.
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

}  // namespace actpack::detail
