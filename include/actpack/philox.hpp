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

/// The keys of all rounds. They follow from the seed alone, so compute them once for many calls.
template <int Rounds = 7>
struct PhiloxKeys {
  std::uint32_t key[static_cast<unsigned>(Rounds)][2];

  ACTPACK_CORE constexpr explicit PhiloxKeys(std::uint64_t seed) : key{} {
    std::uint32_t k0 = static_cast<std::uint32_t>(seed);
    std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
    for (auto& round : key) {
      round[0] = k0;
      round[1] = k1;
      k0 += 0x9E3779B9;  // the golden ratio and √3 − 1: a Weyl sequence
      k1 += 0xBB67AE85;
    }
  }
};

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// Both halves of a product of two words.
struct WideProduct {
  std::uint32_t low, high;

  ACTPACK_CORE constexpr WideProduct(std::uint32_t a, std::uint32_t b) : low(0), high(0) {
    const std::uint64_t product = std::uint64_t{a} * b;
    low = static_cast<std::uint32_t>(product);
    high = static_cast<std::uint32_t>(product >> 32);
  }
};

}  // namespace actpack::detail

namespace actpack {

/// Returns the Philox4x32 block of counter (`index`: low 64 bits, `offset`: high 64 bits) under the
/// key that `keys` were made from. Distinct (seed, offset, index) are distinct (key, counter)
/// pairs, so the streams of two (seed, offset) never overlap. Seven rounds pass BigCrush. Allocates
/// nothing, throws nothing. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
/// as 1, 2, 3", SC'11.
template <int Rounds>
ACTPACK_CORE constexpr RandomWords philox4x32(std::uint64_t index, std::uint64_t offset,
                                              const PhiloxKeys<Rounds>& keys) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index);
  std::uint32_t c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(offset);
  std::uint32_t c3 = static_cast<std::uint32_t>(offset >> 32);
  for (const auto& key : keys.key) {
    const detail::WideProduct p0(0xD2511F53, c0);
    const detail::WideProduct p1(0xCD9E8D57, c2);
    c0 = p1.high ^ c1 ^ key[0];
    c2 = p0.high ^ c3 ^ key[1];
    c1 = p1.low;
    c3 = p0.low;
  }
  return {{c0, c1, c2, c3}};
}

/// The same, from the key `seed` itself.
template <int Rounds = 7>
ACTPACK_CORE constexpr RandomWords philox4x32(std::uint64_t index, std::uint64_t offset,
                                              std::uint64_t seed) {
  return philox4x32(index, offset, PhiloxKeys<Rounds>(seed));
}

}  // namespace actpack
