// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Counter-based random bits: a pure function of (seed, offset, index), so noise can be addressed,
// repeated and computed anywhere.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"

namespace actpack {

/// The 128 random bits of one generator call.
struct RandomWords {
  std::uint32_t word[4];
};

/// Returns the Philox4x32 block of counter (`index`: low 64 bits, `offset`: high 64 bits) under the
/// key `seed`. Distinct (seed, offset, index) are distinct (key, counter) pairs, so the streams of
/// two (seed, offset) never overlap. Seven rounds pass BigCrush. Allocates nothing, throws nothing.
/// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
template <int Rounds = 7>
ACTPACK_HD constexpr RandomWords philox4x32(std::uint64_t index, std::uint64_t offset,
                                            std::uint64_t seed) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index);
  std::uint32_t c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(offset);
  std::uint32_t c3 = static_cast<std::uint32_t>(offset >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < Rounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9;  // the golden ratio and √3 − 1: the Weyl sequence of round keys
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace actpack
