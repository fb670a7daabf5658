// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// XXH64, the checksum of stored data: public, in wide use, and as fast as memory.
//
// It finds accidents, not forgeries: a change goes unseen with a chance of 2^-64. Source: the
// xxHash specification, version 0.1.1.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/detail/byte_stream.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

namespace xxh64 {

inline constexpr std::uint64_t prime_1 = 0x9E3779B185EBCA87;
inline constexpr std::uint64_t prime_2 = 0xC2B2AE3D27D4EB4F;
inline constexpr std::uint64_t prime_3 = 0x165667B19E3779F9;
inline constexpr std::uint64_t prime_4 = 0x85EBCA77C2B2AE63;
inline constexpr std::uint64_t prime_5 = 0x27D4EB2F165667C5;

constexpr std::uint64_t mix(std::uint64_t lane, std::uint64_t input) {
  return std::rotl(lane + input * prime_2, 31) * prime_1;
}

}  // namespace xxh64

/// Returns the XXH64 of `bytes` [host] with seed 0.
inline std::uint64_t checksum(std::span<const std::byte> bytes) {
  using namespace xxh64;
  const std::byte* next = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t hash = prime_5;
  if (left >= 32) {
    std::uint64_t lanes[4] = {prime_1 + prime_2, prime_2, 0, 0 - prime_1};
    for (; left >= 32; left -= 32) {
      for (std::uint64_t& lane : lanes) {
        lane = mix(lane, load_little_endian<std::uint64_t>(next));
        next += 8;
      }
    }
    hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
           std::rotl(lanes[3], 18);
    for (const std::uint64_t lane : lanes) hash = (hash ^ mix(0, lane)) * prime_1 + prime_4;
  }
  hash += bytes.size();
  for (; left >= 8; left -= 8, next += 8) {
    hash ^= mix(0, load_little_endian<std::uint64_t>(next));
    hash = std::rotl(hash, 27) * prime_1 + prime_4;
  }
  if (left >= 4) {
    hash ^= load_little_endian<std::uint32_t>(next) * prime_1;
    hash = std::rotl(hash, 23) * prime_2 + prime_3;
    left -= 4;
    next += 4;
  }
  for (; left > 0; --left, ++next) {
    hash ^= std::to_integer<std::uint64_t>(*next) * prime_5;
    hash = std::rotl(hash, 11) * prime_1;
  }
  hash = (hash ^ hash >> 33) * prime_2;
  hash = (hash ^ hash >> 29) * prime_3;
  return hash ^ hash >> 32;
}

}  // namespace actpack::detail
