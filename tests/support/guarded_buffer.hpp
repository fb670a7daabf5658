// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Memory between guard bytes, so that a test sees every write outside a span and every write at
// all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace support {

// `size` elements of T, aligned as T needs and no better, filled with a recognisable byte. The
// guards are checked by check() and again when the buffer dies.
template <class T>
class GuardedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit GuardedBuffer(std::size_t size)
      : size_(size), storage_(new std::uint8_t[guard_size + size * sizeof(T) + guard_size]) {
    std::memset(storage_.get(), guard, guard_size);
    std::memset(storage_.get() + guard_size, untouched, size * sizeof(T));
    std::memset(storage_.get() + guard_size + size * sizeof(T), guard, guard_size);
  }
  explicit GuardedBuffer(std::int64_t size) : GuardedBuffer(static_cast<std::size_t>(size)) {}
  explicit GuardedBuffer(const std::vector<T>& values) : GuardedBuffer(values.size()) {
    if (size_ != 0) std::memcpy(data(), values.data(), size_ * sizeof(T));
  }
  GuardedBuffer(GuardedBuffer&&) noexcept = default;
  ~GuardedBuffer() {
    if (storage_) check();
  }

  T* data() { return reinterpret_cast<T*>(storage_.get() + guard_size); }
  const T* data() const { return reinterpret_cast<const T*>(storage_.get() + guard_size); }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }
  std::vector<T> values() const { return std::vector<T>(data(), data() + size_); }

  void check() const {
    const bool guards_intact =
        count(0, guard_size, guard) == guard_size &&
        count(guard_size + size_ * sizeof(T), guard_size, guard) == guard_size;
    CHECK(guards_intact);
  }
  bool is_untouched() const {
    return count(guard_size, size_ * sizeof(T), untouched) == size_ * sizeof(T);
  }

 private:
  // new aligns to 16 bytes, so that ours start one alignment of T past a vector's boundary.
  static constexpr std::size_t guard_size = 64 + alignof(T);
  static constexpr std::uint8_t guard = 0xA5;
  static constexpr std::uint8_t untouched = 0x5C;

  std::size_t count(std::size_t first, std::size_t bytes, std::uint8_t value) const {
    std::size_t equal = 0;
    for (std::size_t byte = first; byte < first + bytes; ++byte) {
      equal += storage_[byte] == value ? 1 : 0;
    }
    return equal;
  }

  std::size_t size_;
  std::unique_ptr<std::uint8_t[]> storage_;
};

// The same, its first element aligned to 16 bytes or, as in GuardedBuffer, deliberately not.
template <class T>
class PlacedBuffer {
 public:
  PlacedBuffer(std::int64_t numel, bool is_aligned)
      : skipped_(is_aligned ? (16 - alignof(T)) / sizeof(T) : 0),
        buffer_(skipped_ + static_cast<std::size_t>(numel)), before_(buffer_.values()) {
    before_.resize(skipped_);
    REQUIRE((reinterpret_cast<std::uintptr_t>(data()) % 16 == 0) == is_aligned);
  }
  PlacedBuffer(const std::vector<T>& values, bool is_aligned)
      : PlacedBuffer(static_cast<std::int64_t>(values.size()), is_aligned) {
    std::ranges::copy(values, data());
  }
  PlacedBuffer(const PlacedBuffer&) = delete;
  PlacedBuffer& operator=(const PlacedBuffer&) = delete;
  ~PlacedBuffer() {
    const bool is_front_intact =
        std::memcmp(buffer_.data(), before_.data(), skipped_ * sizeof(T)) == 0;
    CHECK(is_front_intact);
  }

  T* data() { return buffer_.data() + skipped_; }
  std::span<T> span() { return buffer_.span().subspan(skipped_); }

 private:
  std::size_t skipped_;
  GuardedBuffer<T> buffer_;
  std::vector<T> before_;
};

template <class T>
bool have_same_bytes(const GuardedBuffer<T>& a, const GuardedBuffer<T>& b) {
  return a.span().size() == b.span().size() &&
         (a.span().empty() || std::memcmp(a.data(), b.data(), a.span().size_bytes()) == 0);
}

}  // namespace support
