// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// An array on the heap that starts uninitialised: quantizing fills it, so nothing zeroes it first.
// <memory> has one, too, but takes as long to compile as all of a small file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

template <class T>
class HostArray {
  static_assert(std::is_trivially_default_constructible_v<T>);

 public:
  HostArray() = default;
  /// Throws std::invalid_argument if memory has no room for so many addresses.
  explicit HostArray(std::int64_t size) {
    refuse_unless(static_cast<std::uint64_t>(size) <= SIZE_MAX / sizeof(T), size, " elements of ",
                  sizeof(T), " bytes are more than this machine can address");
    data_ = new T[static_cast<std::size_t>(size)];
  }
  HostArray(HostArray&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  HostArray& operator=(HostArray&& other) noexcept {
    delete[] std::exchange(data_, std::exchange(other.data_, nullptr));
    return *this;
  }
  ~HostArray() { delete[] data_; }

  /// Null unless a size was given.
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

}  // namespace actpack::detail
