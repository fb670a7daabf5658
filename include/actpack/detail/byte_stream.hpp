// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Numbers as plain bytes, the least significant first on every machine.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "actpack/affine.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline constexpr bool is_little_endian = std::endian::native == std::endian::little;

template <std::unsigned_integral T>
T load_little_endian(const std::byte* bytes) {
  T value = 0;
  if constexpr (is_little_endian) {
    std::memcpy(&value, bytes, sizeof value);
  } else {
    for (std::size_t i = sizeof value; i-- > 0;) {
      value = static_cast<T>(value << 8 | std::to_integer<T>(bytes[i]));
    }
  }
  return value;
}

template <std::unsigned_integral T>
void store_little_endian(T value, std::byte* bytes) {
  if constexpr (is_little_endian) {
    std::memcpy(bytes, &value, sizeof value);
  } else {
    for (std::size_t i = 0; i < sizeof value; ++i)
      bytes[i] = static_cast<std::byte>(value >> 8 * i);
  }
}

/// Arrays take whole multiples of this many bytes, the last of them zeros.
inline constexpr std::int64_t array_alignment = 8;

constexpr std::int64_t padded_size(std::int64_t bytes) {
  return (bytes + array_alignment - 1) / array_alignment * array_alignment;
}

/// Fills memory from its start. Precondition: it has room for all that is put.
class ByteWriter {
 public:
  explicit ByteWriter(std::span<std::byte> bytes) : next_(bytes.data()) {}

  void put(std::unsigned_integral auto value) {
    store_little_endian(value, next_);
    next_ += sizeof value;
  }
  void put(std::int32_t value) { put(static_cast<std::uint32_t>(value)); }
  void put(std::int64_t value) { put(static_cast<std::uint64_t>(value)); }
  void put(double value) { put(std::bit_cast<std::uint64_t>(value)); }
  void put(GroupParams params) {
    put(params.scale.bits);
    put(params.min.bits);
  }
  void put(SignMagnitudeParams params) {
    put(params.positive.bits);
    put(params.negative.bits);
  }

  /// Puts `count` values and pads them with zeros.
  template <class T>
  void put_array(const T* values, std::int64_t count) {
    const std::size_t size = sizeof(T) * static_cast<std::size_t>(count);
    if constexpr (is_little_endian) {
      if (size != 0) std::memcpy(next_, values, size);
      next_ += size;
    } else {
      for (std::int64_t i = 0; i < count; ++i) put(values[i]);
    }
    for (std::size_t i = size; i % array_alignment != 0; ++i) *next_++ = std::byte{0};
  }

 private:
  std::byte* next_;
};

/// Reads what a ByteWriter wrote. Never reads beyond `bytes`: throws std::invalid_argument instead.
class ByteReader {
 public:
  /// `name` is what errors call the bytes.
  ByteReader(std::span<const std::byte> bytes, const char* name) : bytes_(bytes), name_(name) {}

  template <std::unsigned_integral T>
  T get() {
    return load_little_endian<T>(take(sizeof(T)));
  }
  std::int64_t get_integer() { return static_cast<std::int64_t>(get<std::uint64_t>()); }
  double get_double() { return std::bit_cast<double>(get<std::uint64_t>()); }

  /// Returns the start of an array of `size` bytes, whose padding it checks.
  const std::byte* get_array(std::int64_t size) {
    const std::byte* const array = take(padded_size(size));
    for (std::int64_t i = size; i < padded_size(size); ++i) {
      refuse_unless(array[i] == std::byte{0}, name_, " has padding that is not 0");
    }
    return array;
  }

  void require_end() const {
    refuse_unless(bytes_.empty(), name_, " has ", bytes_.size(), " bytes too many");
  }

 private:
  const std::byte* take(std::int64_t size) {
    refuse_unless(size <= static_cast<std::int64_t>(bytes_.size()), name_, " lacks ",
                  size - static_cast<std::int64_t>(bytes_.size()), " bytes at its end");
    const std::byte* const taken = bytes_.data();
    bytes_ = bytes_.subspan(static_cast<std::size_t>(size));
    return taken;
  }

  std::span<const std::byte> bytes_;  // not read yet
  const char* name_;
};

}  // namespace actpack::detail
