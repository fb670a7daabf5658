// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a fuzz target is made of: an input read as numbers, claims that end the program, and memory
// between fences.
//
// A target defines LLVMFuzzerTestOneInput. libFuzzer calls it where clang links that in; replay.cpp
// calls it otherwise.
#pragma once

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "support/data.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

namespace fuzz {

// Ends the program, with the claim that does not hold, so that the fuzzer keeps the input.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::cerr << "claim: ";
  (std::cerr << ... << parts) << std::endl;
  std::abort();
}

// Whether call() throws std::invalid_argument. Any other exception ends the program.
template <class Call>
bool refuses(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Reads an input from its start. Once it is used up, every number is 0: the plainest choice.
class Input {
 public:
  Input(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes, size) {}

  std::size_t left() const { return bytes_.size(); }
  std::span<const std::uint8_t> take(std::size_t size) {
    const auto taken = bytes_.first(std::min(size, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  std::span<const std::uint8_t> rest() { return take(left()); }

  // Any bit pattern of T.
  template <class T>
  T number() {
    std::array<std::uint8_t, sizeof(T)> bytes{};
    std::ranges::copy(take(sizeof(T)), bytes.begin());
    return std::bit_cast<T>(bytes);
  }
  // In [least, most], from as few bytes as that takes.
  template <class T>
  T between(T least, std::type_identity_t<T> most) {
    const std::uint64_t largest =
        static_cast<std::uint64_t>(most) - static_cast<std::uint64_t>(least);
    std::uint64_t drawn = 0;
    for (std::uint64_t left = largest; left > 0; left >>= 8)
      drawn = drawn << 8 | number<std::uint8_t>();
    if (largest + 1 != 0) drawn %= largest + 1;
    return static_cast<T>(static_cast<std::uint64_t>(least) + drawn);
  }
  bool one_in(int count) { return between(0, count - 1) == count - 1; }
  bool flag() { return one_in(2); }
  template <class Choices>
  auto pick(const Choices& choices) {
    return *(std::begin(choices) + between<std::ptrdiff_t>(0, std::ssize(choices) - 1));
  }
  support::Generator generator() { return support::Generator(number<std::uint64_t>()); }

 private:
  std::span<const std::uint8_t> bytes_;
};

// A number of any kind: small, a bound of its type or next to one, a power of two, anything.
inline std::int64_t hostile_integer(Input& input) {
  constexpr std::uint64_t bounds[] = {0,
                                      1,
                                      0x7FFFFFFF,
                                      0x80000000,
                                      0xFFFFFFFF,
                                      std::uint64_t{1} << 48,
                                      0x7FFFFFFFFFFFFFFF,
                                      0x8000000000000000};
  switch (input.between(0, 4)) {
    case 0: return input.between<std::int64_t>(-4, 300);
    case 1:
      return static_cast<std::int64_t>(input.pick(bounds) + input.number<std::uint8_t>() - 128);
    case 2: return static_cast<std::int64_t>(std::uint64_t{1} << input.between(0, 63));
    case 3: return input.between<std::int64_t>(-70'000, 70'000);
    default: return input.number<std::int64_t>();
  }
}

inline double hostile_double(Input& input) {
  constexpr double choices[] = {0.0,
                                1.0,
                                -0.0,
                                -1.0,
                                0.5,
                                5e-324,
                                1e-310,
                                1e308,
                                1e140,
                                1e141,
                                0x1p960,
                                0x1p961,
                                1 - 0x1p-53,
                                std::numeric_limits<double>::infinity(),
                                -std::numeric_limits<double>::infinity(),
                                std::numeric_limits<double>::quiet_NaN()};
  return input.flag() ? input.number<double>() : input.pick(choices);
}

// `size` elements of T between fences, filled with one byte. Their address is any multiple of T's
// alignment: `shift` elements after one of 64 bytes. Where the library is built with
// AddressSanitizer, it reports whoever reads or writes a fence; elsewhere a write is seen when the
// memory is given back.
template <class T>
class Fenced {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit Fenced(std::size_t size, std::size_t shift = 0, std::uint8_t fill = 0)
      : size_(size), bytes_(new std::uint8_t[most_before(shift) + size * sizeof(T) + fence]) {
    const std::size_t misalignment = reinterpret_cast<std::uintptr_t>(bytes_.get()) % alignment;
    first_ = fence + (alignment - misalignment) % alignment + shift * sizeof(T);
    std::memset(bytes_.get(), mark, first_);
    std::memset(bytes_.get() + first_, fill, size * sizeof(T));
    std::memset(bytes_.get() + end(), mark, fence);
    ASAN_POISON_MEMORY_REGION(bytes_.get(), first_);
    ASAN_POISON_MEMORY_REGION(bytes_.get() + end(), fence);
  }
  explicit Fenced(std::int64_t size, std::size_t shift = 0, std::uint8_t fill = 0)
      : Fenced(static_cast<std::size_t>(size), shift, fill) {}
  template <class Values>
  static Fenced copy_of(const Values& values, std::size_t shift = 0) {
    Fenced copy(std::size(values), shift);
    std::copy(std::begin(values), std::end(values), copy.data());
    return copy;
  }
  Fenced(Fenced&&) noexcept = default;
  Fenced& operator=(Fenced&&) = delete;
  ~Fenced() {
    if (bytes_ == nullptr) return;
    ASAN_UNPOISON_MEMORY_REGION(bytes_.get(), end() + fence);
    const auto is_mark = [](std::uint8_t byte) { return byte == mark; };
    check(std::all_of(bytes_.get(), bytes_.get() + first_, is_mark) &&
              std::all_of(bytes_.get() + end(), bytes_.get() + end() + fence, is_mark),
          "nothing is written beside the ", size_, " elements of an array");
  }

  T* data() { return reinterpret_cast<T*>(bytes_.get() + first_); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.get() + first_); }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }
  std::span<const T> view() const { return span(); }
  std::span<const std::uint8_t> bytes() const { return {bytes_.get() + first_, size_ * sizeof(T)}; }
  std::vector<T> values() const { return {data(), data() + size_}; }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t fence = 64;
  static constexpr std::uint8_t mark = 0xA5;

  static std::size_t most_before(std::size_t shift) {
    return fence + alignment + shift * sizeof(T);
  }
  std::size_t end() const { return first_ + size_ * sizeof(T); }

  std::size_t size_;
  std::size_t first_ = 0;
  std::unique_ptr<std::uint8_t[]> bytes_;
};

}  // namespace fuzz
