// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A lane's share of a group: sixteen elements, which one call of the generator serves, where they
// lie, and the noise that rounds them.
#pragma once

#include <cstdint>

#include "actpack/config.hpp"
#include "actpack/cuda/warp_tile.hpp"
#include "actpack/detail/cuda/slice_dither.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// The elements of a group that one call of the generator serves. Slice i of a group of G elements
/// holds two octets of neighbours: elements 8i … 8i + 7, then G/2 + 8i … G/2 + 8i + 7.
struct Slice {
  float value[detail::elements_per_call];

  ACTPACK_HD float operator[](int j) const { return value[j]; }
};

/// A set of elements of a slice: bit j for value[j].
using SliceMask = std::uint32_t;
inline constexpr SliceMask whole_slice = 0xFFFF;

/// Which elements of its group a slice holds, and which of them exist.
struct SliceLocation {
  int index;     // in the group: which call of the generator it is
  int first[2];  // elements of the group that its octets start with
  SliceMask present;
};

/// One group, as a tile sees it.
struct GroupShape {
  std::int64_t index;             // in the tensor: names its noise
  std::int32_t size;              // elements that exist; 0: the tile joins shuffles, no more
  std::int32_t group_size = 256;  // a positive multiple of 32
  std::int32_t bits = 2;          // 1, 2, 4 or 8
};

/// Returns the number of lanes that share a group: one for each slice where that is a power of two,
/// else a warp, whose lanes take several slices or none.
ACTPACK_HD constexpr int tile_lanes(std::int32_t group_size) {
  const int slices = group_size / detail::elements_per_call;
  return slices < warp_size && (slices & (slices - 1)) == 0 ? slices : warp_size;
}

// The noise of a Rounding in a kernel: one of three types, so that no lane pays for the others. A
// kernel calls resolve() once, and the result draws the dithers.

/// Rounding::nearest().
struct NearestNoise {
  ACTPACK_HD NearestNoise resolve() const { return {}; }

  template <int Shift>
  ACTPACK_HD detail::SliceDither<Shift> dither(NoiseDomain, std::int64_t) const {
    return {};
  }
};

/// Rounding::stochastic(seed, offset), its round keys made beforehand.
struct SeededNoise {
  PhiloxKeys<> keys;
  std::uint64_t offset;

  ACTPACK_HD SeededNoise(std::uint64_t seed, std::uint64_t stream_offset)
      : keys(seed), offset(stream_offset) {}

  ACTPACK_HD const SeededNoise& resolve() const { return *this; }

  ACTPACK_HD RandomWords draw(NoiseDomain domain, std::int64_t call) const {
    return philox4x32(detail::call_index(domain, call), offset, keys);
  }

  template <int Shift>
  ACTPACK_HD detail::SliceDither<Shift> dither(NoiseDomain domain, std::int64_t call) const {
    return detail::SliceDither<Shift>(draw(domain, call));
  }
};

/// Any stochastic Rounding, {seed, offset} being read from device memory if it says so.
struct StochasticNoise {
  SeededNoise seeded;
  const std::uint64_t* device_seed_and_offset;

  ACTPACK_HD SeededNoise resolve() const {
    return device_seed_and_offset == nullptr
               ? seeded
               : SeededNoise(device_seed_and_offset[0], device_seed_and_offset[1]);
  }
};

}  // namespace actpack
