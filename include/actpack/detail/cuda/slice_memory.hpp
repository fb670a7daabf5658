// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Slices and their codes in memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/cuda/slice_codes.hpp"
#include "actpack/detail/cuda/slice_dither.hpp"
#include "actpack/detail/cuda/vectors.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// A slice in a 2-byte type, as it lies in memory: half the registers, and half the comparisons.
template <class T>
struct PairSlice {
  std::uint32_t pair[elements_per_call / 2];

  ACTPACK_HD float operator[](int j) const {
    float first, second;
    split_pair<T>(pair[j / 2], first, second);
    return j % 2 == 0 ? first : second;
  }
};

/// A slice of T in registers.
template <class T>
using SliceOf = std::conditional_t<std::is_same_v<T, float>, Slice, PairSlice<T>>;

/// The T of a Vector, from as many floats.
template <class T>
ACTPACK_HD Vector vector_of(const float* from) {
  Vector vector;
  for (int j = 0; j < 4; ++j) {
    if constexpr (std::is_same_v<T, float>) {
      vector.word[j] = bits_of(from[j]);
    } else {
      vector.word[j] = join_pair<T>(from[2 * j], from[2 * j + 1]);
    }
  }
  return vector;
}

/// Reads an octet of T at an aligned address.
template <class T>
ACTPACK_HD void load_octet(const T* from, float* to) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < octet_size; i += per_vector) {
    const Vector vector = load_vector(from + i);
    for (int j = 0; j < 4; ++j) {
      if constexpr (std::is_same_v<T, float>) {
        to[i + j] = float_of(vector.word[j]);
      } else {
        split_pair<T>(vector.word[j], to[i + 2 * j], to[i + 2 * j + 1]);
      }
    }
  }
}

/// Writes an octet of T at an aligned address.
template <class T>
ACTPACK_HD void store_octet(T* to, const float* from) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < octet_size; i += per_vector) {
    store_vector(to + i, vector_of<T>(from + i));
  }
}

/// Reads the elements of a slice that are present, others as 0; `group` points to the group's
/// element 0, aligned to a Vector or not.
template <class T>
ACTPACK_HD SliceOf<T> load_slice(const T* group, const SliceLocation& location, bool is_aligned) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  SliceOf<T> x{};
  if (location.present == whole_slice && is_aligned) {
    for (int j = 0; j < elements_per_call; j += per_vector) {
      const Vector vector = load_vector(group + location.first[j / octet_size] + j % octet_size);
      for (int i = 0; i < 4; ++i) {
        if constexpr (std::is_same_v<T, float>) {
          x.value[j + i] = float_of(vector.word[i]);
        } else {
          x.pair[j / 2 + i] = vector.word[i];
        }
      }
    }
  } else {
    for (int j = 0; j < elements_per_call; ++j) {
      if ((location.present >> j & 1) != 0) {
        const T value = group[location.first[j / octet_size] + j % octet_size];
        if constexpr (std::is_same_v<T, float>) {
          x.value[j] = value;
        } else {
          x.pair[j / 2] |= std::uint32_t{value.bits} << (j % 2 * 16);
        }
      }
    }
  }
  return x;
}

/// Writes the elements of a slice that are present. Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD void store_slice(T* group, const SliceLocation& location, bool is_aligned,
                            const Slice& x) {
  if (location.present == whole_slice && is_aligned) {
    store_octet(group + location.first[0], x.value);
    store_octet(group + location.first[1], x.value + octet_size);
    return;
  }
  for (int j = 0; j < elements_per_call; ++j) {
    if ((location.present >> j & 1) != 0) {
      group[location.first[j / octet_size] + j % octet_size] = T(x.value[j]);
    }
  }
}

/// Reads a slice's codes from its group's words, of which `num_words` exist; others read as 0.
template <int Bits>
ACTPACK_HD SliceCodes<Bits> load_codes(const std::uint32_t* words, std::uint32_t num_words,
                                       const SliceLocation& location) {
  SliceCodes<Bits> codes{};
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t byte = static_cast<std::uint32_t>(location.first[i]) / 8 * Bits;
    const std::uint32_t word = byte / 4;
    if constexpr (Bits == 8) {
      const std::uint32_t low = word < num_words ? words[word] : 0;
      const std::uint32_t high = word + 1 < num_words ? words[word + 1] : 0;
      codes.octet[i] = low | std::uint64_t{high} << 32;
    } else if (word < num_words) {
      codes.octet[i] =
          load_from<OctetCodes<Bits>>(reinterpret_cast<const std::uint8_t*>(words) + byte);
    }
  }
  return codes;
}

/// Writes a slice's codes to those of its words that exist.
template <int Bits>
ACTPACK_HD void store_codes(std::uint32_t* words, std::uint32_t num_words,
                            const SliceLocation& location, const SliceCodes<Bits>& codes) {
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t byte = static_cast<std::uint32_t>(location.first[i]) / 8 * Bits;
    const std::uint32_t word = byte / 4;
    if constexpr (Bits == 8) {
      for (std::uint32_t half = 0; half < 2; ++half) {
        if (word + half < num_words) {
          words[word + half] = static_cast<std::uint32_t>(codes.octet[i] >> (32 * half));
        }
      }
    } else if (word < num_words) {
      store_to(reinterpret_cast<std::uint8_t*>(words) + byte, codes.octet[i]);
    }
  }
}

}  // namespace actpack::detail
