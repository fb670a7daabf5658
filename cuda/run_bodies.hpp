// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the kernels do that take elements as they come, eight neighbours a thread: masks and plain
// packing. The same source for devices and for tests on the host.
#pragma once

#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/cuda/slice.hpp"

namespace actpack::detail {

/// Eight neighbours of an array of `numel`, the last run perhaps short.
struct Run {
  std::int64_t first;
  int count;  // of its elements that exist

  ACTPACK_HD Run(std::int64_t index, std::int64_t numel) : first(run_size * index), count(0) {
    const std::int64_t left = numel - first;
    count = static_cast<int>(left < 0 ? 0 : left < run_size ? left : run_size);
  }
};

/// Reads a run of T at an aligned address.
template <class T>
ACTPACK_HD void load_run(const T* from, float* to) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < run_size; i += per_vector) {
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

template <class T>
ACTPACK_HD void load(const T* from, const Run& run, float (&values)[run_size]) {
  if (run.count == run_size && is_vector_aligned(from + run.first)) {
    load_run(from + run.first, values);
  } else {
    for (int j = 0; j < run_size; ++j) {
      values[j] = j < run.count ? float(from[run.first + j]) : 0.0f;
    }
  }
}

/// Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD void store(T* to, const Run& run, const float (&values)[run_size]) {
  if (run.count == run_size && is_vector_aligned(to + run.first)) {
    store_run(to + run.first, values);
  } else {
    for (int j = 0; j < run_size; ++j) {
      if (j < run.count) {
        to[run.first + j] = T(values[j]);
      }
    }
  }
}

/// The byte of a mask that belongs to a run.
ACTPACK_HD inline std::uint8_t load_mask(const std::uint32_t* mask, const Run& run) {
  return load_from<std::uint8_t>(reinterpret_cast<const std::uint8_t*>(mask) + run.first / 8);
}
ACTPACK_HD inline void store_mask(std::uint32_t* mask, const Run& run, std::uint32_t bits) {
  store_to(reinterpret_cast<std::uint8_t*>(mask) + run.first / 8, static_cast<std::uint8_t>(bits));
}

/// Bodies of one thread: for masks, count() of them cover whole words.
struct RunBody {
  std::int64_t numel;

  static constexpr int blocks_per_multiprocessor = 4;
  ACTPACK_HD static constexpr int lanes() { return 1; }
  ACTPACK_HD std::int64_t count() const { return words_for(numel, 1) * (32 / run_size); }
};

/// y = max(x, 0) and the mask x > 0.
template <class T>
struct Relu : RunBody {
  const T* x;
  T* y;
  std::uint32_t* mask;

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    team.map([&](int) {
      const Run run(index, numel);
      float values[run_size];
      load(x, run, values);
      std::uint32_t bits = 0;
      for (int j = 0; j < run_size; ++j) {
        bits |= values[j] > 0 ? 1u << j : 0u;
        values[j] = values[j] <= 0 ? 0 : values[j];
      }
      store(y, run, values);
      store_mask(mask, run, bits);
    });
  }
};

/// dx = dy · scale where the mask is set, else 0.
template <class T>
struct Masked : RunBody {
  const T* dy;
  const std::uint32_t* mask;
  T* dx;
  float scale;

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    if (index * run_size >= numel) {
      return;
    }
    team.map([&](int) {
      const Run run(index, numel);
      const std::uint32_t bits = load_mask(mask, run);
      float values[run_size];
      load(dy, run, values);
      for (int j = 0; j < run_size; ++j) {
        values[j] = (bits >> j & 1) != 0 ? float{saturate_cast<T>(values[j] * scale)} : 0.0f;
      }
      store(dx, run, values);
    });
  }
};

/// y = x · scale where a random word is below `threshold`, else 0, and the mask of that; element 0
/// is number `first` of its tensor.
template <class T, class Noise>
struct Dropout : RunBody {
  const T* x;
  T* y;
  std::uint32_t* mask;
  std::uint64_t threshold;
  float scale;
  std::int64_t first;
  Noise noise;

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    const auto& source = noise.resolve();
    team.map([&](int) {
      const Run run(index, numel);
      float values[run_size];
      load(x, run, values);
      std::uint32_t bits = 0;
      for (int half = 0; half < 2; ++half) {
        const RandomWords random = source.draw((first + run.first) / 4 + half);
        for (int i = 0; i < 4; ++i) {
          const int j = 4 * half + i;
          const bool is_kept = random.word[i] < threshold && j < run.count;
          bits |= is_kept ? 1u << j : 0u;
          values[j] = is_kept ? float{saturate_cast<T>(values[j] * scale)} : 0.0f;
        }
      }
      store(y, run, values);
      store_mask(mask, run, bits);
    });
  }
};

/// Packs bytes; of each, the low `bits` bits.
struct Pack : RunBody {
  const std::uint8_t* codes;
  int bits;
  std::uint32_t* words;

  /// Runs that cover all words: a run has `bits` bytes.
  ACTPACK_HD std::int64_t count() const { return (4 * words_for(numel, bits) + bits - 1) / bits; }

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    if (index >= count()) {
      return;
    }
    team.map([&](int) {
      const Run run(index, numel);
      std::uint64_t piece = 0;
      for (int j = 0; j < run.count; ++j) {
        piece |= (codes[run.first + j] & std::uint64_t{max_code(bits)}) << (bits * j);
      }
      // Bytes of one word at most: of a run of eight bytes, the last word may not exist.
      std::uint8_t* bytes = reinterpret_cast<std::uint8_t*>(words);
      const std::int64_t end = 4 * words_for(numel, bits);
      for (std::int64_t byte = index * bits; byte < (index + 1) * bits && byte < end; ++byte) {
        bytes[byte] = static_cast<std::uint8_t>(piece);
        piece >>= 8;
      }
    });
  }
};

/// Unpacks codes first, first + 1, … of `words` to bytes.
struct Unpack : RunBody {
  const std::uint32_t* words;
  int bits;
  std::int64_t first;
  std::uint8_t* codes;

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    team.map([&](int) {
      const Run run(index, numel);
      for (int j = 0; j < run.count; ++j) {
        codes[run.first + j] =
            static_cast<std::uint8_t>(extract(words, first + run.first + j, bits));
      }
    });
  }
};

}  // namespace actpack::detail
