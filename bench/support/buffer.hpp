// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Memory to measure in: on huge pages where there are some, and with every page in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace bench {

/// Owns `numel` elements of trivial type T, all bits 0, that start at a huge page.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t numel) : numel_(static_cast<std::size_t>(numel)) {
    const std::size_t bytes = (numel_ * sizeof(T) + huge_page - 1) / huge_page * huge_page;
    data_.reset(static_cast<T*>(std::aligned_alloc(huge_page, bytes)));
    if (bytes > 0 && data_ == nullptr) {
      throw std::bad_alloc();
    }
#ifdef __linux__
    madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a wish: without it the pages are small
#endif
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::span<T> span() { return {data_.get(), numel_}; }
  std::span<const T> span() const { return {data_.get(), numel_}; }
  std::span<T> first(std::int64_t numel) { return span().first(static_cast<std::size_t>(numel)); }

 private:
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };

  std::size_t numel_;
  std::unique_ptr<T, Free> data_;
};

template <class T>
std::int64_t bytes_of(const Buffer<T>& buffer) {
  return static_cast<std::int64_t>(buffer.span().size_bytes());
}

}  // namespace bench
