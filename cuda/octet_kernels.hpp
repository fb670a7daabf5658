// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Kernels that take elements as they come, eight neighbours a thread: masks and plain packing. The
// same source for devices and for tests on the host.
#pragma once

#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/cuda/slice_dither.hpp"
#include "actpack/detail/cuda/slice_memory.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"

namespace actpack::detail {

/// Eight neighbours of an array of `numel`, the last octet perhaps short.
struct Octet {
  std::int64_t first;
  int count;  // of its elements that exist

  ACTPACK_HD Octet(std::int64_t index, std::int64_t numel) : first(octet_size * index), count(0) {
    const std::int64_t left = numel - first;
    count = static_cast<int>(left < 0 ? 0 : left < octet_size ? left : octet_size);
  }
};

template <class T>
ACTPACK_HD void load(const T* from, const Octet& octet, float (&values)[octet_size]) {
  if (octet.count == octet_size && is_vector_aligned(from + octet.first)) {
    load_octet(from + octet.first, values);
  } else {
    for (int j = 0; j < octet_size; ++j) {
      values[j] = j < octet.count ? float(from[octet.first + j]) : 0.0f;
    }
  }
}

/// Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD void store(T* to, const Octet& octet, const float (&values)[octet_size]) {
  if (octet.count == octet_size && is_vector_aligned(to + octet.first)) {
    store_octet(to + octet.first, values);
  } else {
    for (int j = 0; j < octet_size; ++j) {
      if (j < octet.count) {
        to[octet.first + j] = T(values[j]);
      }
    }
  }
}

/// The byte of a mask that belongs to an octet.
ACTPACK_HD inline std::uint8_t load_mask(const std::uint32_t* mask, const Octet& octet) {
  return load_from<std::uint8_t>(reinterpret_cast<const std::uint8_t*>(mask) + octet.first / 8);
}
ACTPACK_HD inline void store_mask(std::uint32_t* mask, const Octet& octet, std::uint32_t bits) {
  store_to(reinterpret_cast<std::uint8_t*>(mask) + octet.first / 8,
           static_cast<std::uint8_t>(bits));
}

/// A body of one thread. For masks, count() of them cover whole words.
struct OctetKernel {
  std::int64_t numel;

  static constexpr int blocks_per_multiprocessor = 4;
  ACTPACK_HD static constexpr int lanes() { return 1; }
  ACTPACK_HD std::int64_t count() const { return words_for(numel, 1) * (32 / octet_size); }
};

/// y = max(x, 0) and the mask x > 0.
template <class T>
struct Relu : OctetKernel {
  const T* x;
  T* y;
  std::uint32_t* mask;

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    tile.map([&](int) {
      const Octet octet(index, numel);
      float values[octet_size];
      load(x, octet, values);
      std::uint32_t bits = 0;
      for (int j = 0; j < octet_size; ++j) {
        bits |= values[j] > 0 ? 1u << j : 0u;
        values[j] = values[j] <= 0 ? 0 : values[j];
      }
      store(y, octet, values);
      store_mask(mask, octet, bits);
    });
  }
};

/// dx = dy · scale where the mask is set, else 0.
template <class T>
struct Masked : OctetKernel {
  const T* dy;
  const std::uint32_t* mask;
  T* dx;
  float scale;

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    if (index * octet_size >= numel) {
      return;
    }
    tile.map([&](int) {
      const Octet octet(index, numel);
      const std::uint32_t bits = load_mask(mask, octet);
      float values[octet_size];
      load(dy, octet, values);
      for (int j = 0; j < octet_size; ++j) {
        values[j] = (bits >> j & 1) != 0 ? float{saturate_cast<T>(values[j] * scale)} : 0.0f;
      }
      store(dx, octet, values);
    });
  }
};

/// y = x · scale where a random word is below `threshold`, else 0, and the mask of that. Element 0
/// is number `first` of its tensor.
template <class T, class Noise>
struct Dropout : OctetKernel {
  const T* x;
  T* y;
  std::uint32_t* mask;
  std::uint64_t threshold;
  float scale;
  std::int64_t first;
  Noise noise;

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    const auto& source = noise.resolve();
    tile.map([&](int) {
      const Octet octet(index, numel);
      float values[octet_size];
      load(x, octet, values);
      std::uint32_t bits = 0;
      for (int half = 0; half < 2; ++half) {
        const RandomWords random =
            source.draw(NoiseDomain::dropout, (first + octet.first) / 4 + half);
        for (int i = 0; i < 4; ++i) {
          const int j = 4 * half + i;
          const bool is_kept = random.word[i] < threshold && j < octet.count;
          bits |= is_kept ? 1u << j : 0u;
          values[j] = is_kept ? float{saturate_cast<T>(values[j] * scale)} : 0.0f;
        }
      }
      store(y, octet, values);
      store_mask(mask, octet, bits);
    });
  }
};

/// Packs bytes; of each, the low `bits` bits.
struct Pack : OctetKernel {
  const std::uint8_t* codes;
  int bits;
  std::uint32_t* words;

  /// The octets that cover all words: each has `bits` bytes.
  ACTPACK_HD std::int64_t count() const { return (4 * words_for(numel, bits) + bits - 1) / bits; }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    tile.map([&](int) {
      const Octet octet(index, numel);
      std::uint64_t packed = 0;
      for (int j = 0; j < octet.count; ++j) {
        packed |= (codes[octet.first + j] & std::uint64_t{max_code(bits)}) << (bits * j);
      }
      // At most the bytes of one word. At eight bits, an octet's last word may not exist.
      std::uint8_t* bytes = reinterpret_cast<std::uint8_t*>(words);
      const std::int64_t end = 4 * words_for(numel, bits);
      for (std::int64_t byte = index * bits; byte < (index + 1) * bits && byte < end; ++byte) {
        bytes[byte] = static_cast<std::uint8_t>(packed);
        packed >>= 8;
      }
    });
  }
};

/// Unpacks codes first, first + 1, … of `words` to bytes.
struct Unpack : OctetKernel {
  const std::uint32_t* words;
  int bits;
  std::int64_t first;
  std::uint8_t* codes;

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    tile.map([&](int) {
      const Octet octet(index, numel);
      for (int j = 0; j < octet.count; ++j) {
        codes[octet.first + j] =
            static_cast<std::uint8_t>(extract(words, first + octet.first + j, bits));
      }
    });
  }
};

}  // namespace actpack::detail
