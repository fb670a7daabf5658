// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The slices of a group: which lane owns which, and how a lane encodes and decodes its own.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/detail/codes.hpp"
#include "actpack/detail/cuda/slice_codes.hpp"
#include "actpack/detail/cuda/slice_decoders.hpp"
#include "actpack/detail/cuda/slice_dither.hpp"
#include "actpack/detail/cuda/slice_encoders.hpp"
#include "actpack/detail/cuda/slice_memory.hpp"
#include "actpack/detail/cuda/slice_range.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

ACTPACK_HD constexpr int slices_of(const GroupShape& group) {
  return group.group_size / elements_per_call;
}

/// The first elements of an octet, as a mask: those that are in front of element `end` of the
/// group.
ACTPACK_HD constexpr SliceMask octet_before(std::int32_t first, std::int32_t end) {
  const std::int32_t count = end - first;
  return count >= octet_size ? 0xFF : count <= 0 ? 0 : (1u << count) - 1;
}

/// Slice number `index` of a group; elements [begin, end) of the group are present.
ACTPACK_HD constexpr SliceLocation slice_at(const GroupShape& group, int index, std::int32_t begin,
                                            std::int32_t end) {
  SliceLocation location{index, {octet_size * index, group.group_size / 2 + octet_size * index}, 0};
  if (index >= slices_of(group)) {
    return location;
  }
  if (begin == 0 && end == group.group_size) {
    location.present = whole_slice;
  } else {
    for (int i = 0; i < 2; ++i) {
      location.present |=
          (octet_before(location.first[i], end) & ~octet_before(location.first[i], begin))
          << (octet_size * i);
    }
  }
  return location;
}

ACTPACK_HD constexpr std::uint32_t words_of(const GroupShape& group, int bits) {
  return static_cast<std::uint32_t>(words_for(group.size, bits));
}

template <int Shift, class Noise>
ACTPACK_HD SliceDither<Shift> dither_of(const Noise& noise, NoiseDomain domain,
                                        const GroupShape& group, int slice) {
  return noise.template dither<Shift>(domain, group.index * slices_of(group) + slice);
}

/// The end of a lane's slices: one past the first if there are no more slices than lanes. Compilers
/// that know the sizes then drop the loop.
template <class Tile>
ACTPACK_HD int end_of_slices(const Tile& tile, const GroupShape& group, int lane) {
  return slices_of(group) <= tile.lanes() ? lane + 1 : slices_of(group);
}

template <class Load>
ACTPACK_HD auto load_present(const SliceLocation& location, const Load& load) {
  using Elements = decltype(load(location));
  return location.present != 0 ? load(location) : Elements{};
}

/// The first slice of every lane: most often its only one.
template <class Tile, class Load>
ACTPACK_HD auto load_first_slices(const Tile& tile, const GroupShape& group, const Load& load) {
  return tile.map(
      [&](int lane) { return load_present(slice_at(group, lane, 0, group.size), load); });
}

template <class Tile, class Slices, class Load>
ACTPACK_HD ValueRange range_of_group(const Tile& tile, const GroupShape& group,
                                     const Slices& first_slices, const Load& load) {
  const auto ranges = tile.map(
      [&](int lane, const auto& first_slice) {
        ValueRange range = range_of(first_slice, slice_at(group, lane, 0, group.size).present);
        for (int slice = lane + tile.lanes(); slice < end_of_slices(tile, group, lane);
             slice += tile.lanes()) {
          const SliceLocation location = slice_at(group, slice, 0, group.size);
          if (location.present != 0) {
            range = join(range, range_of(load(location), location.present));
          }
        }
        return range;
      },
      first_slices);
  return tile.reduce(ranges, [](ValueRange a, ValueRange b) { return join(a, b); });
}

/// Calls visit(location, slice) for a lane's slices, given the first.
template <class Tile, class Elements, class Load, class Visit>
ACTPACK_HD void for_each_slice(const Tile& tile, const GroupShape& group, int lane,
                               const Elements& first_slice, const Load& load, Visit visit) {
  const int end = end_of_slices(tile, group, lane);
  int slice = lane;
  do {  // most often once
    const SliceLocation location = slice_at(group, slice, 0, group.size);
    if (slice < slices_of(group)) {
      visit(location, slice == lane ? first_slice : load_present(location, load));
    }
    slice += tile.lanes();
  } while (slice < end);
}

/// Calls visit(location) for each slice of a lane that holds some of elements [begin, end).
template <class Tile, class Visit>
ACTPACK_HD void for_each_slice(const Tile& tile, const GroupShape& group, int lane,
                               std::int32_t begin, std::int32_t end, Visit visit) {
  const int last = end_of_slices(tile, group, lane);
  int slice = lane;
  do {  // most often once
    const SliceLocation location = slice_at(group, slice, begin, end);
    if (location.present != 0) {
      visit(location);
    }
    slice += tile.lanes();
  } while (slice < last);
}

/// The distances of decoded elements from the smallest, in units of `unit` steps: their codes'
/// levels for NearestNoise, else those less `alpha` times the dither that encoding added.
template <int Bits, NoiseDomain Domain, class Noise>
class DecodedSteps {
  static constexpr bool is_plain = std::is_same_v<Noise, NearestNoise>;

 public:
  static constexpr float unit = is_plain ? 1 : position_unit;

  ACTPACK_HD DecodedSteps(const Noise& noise, float alpha) : noise_(noise), alpha_(alpha) {}

  ACTPACK_HD Slice of(const SliceCodes<Bits>& codes, const GroupShape& group,
                      const SliceLocation& location) const {
    if constexpr (is_plain) {
      return levels_of<Bits>(codes);
    } else {
      return positions_of<Bits>(codes, dither_of<16>(noise_, Domain, group, location.index),
                                alpha_);
    }
  }

 private:
  const Noise& noise_;
  float alpha_;
};

/// Fits a group's parameters and encodes it: writes `params`, and calls write(location, elements,
/// codes) for each slice, by the lane that owns it.
template <template <int> class Encoder, class Tile, class Noise, class Load, class Params,
          class Write>
ACTPACK_HD void encode_slices(const Tile& tile, const GroupShape& group, const Noise& noise,
                              const Load& load, Params* params, const Write& write) {
  const auto first_slices = load_first_slices(tile, group, load);
  const ValueRange range = range_of_group(tile, group, first_slices, load);
  tile.map(
      [&](int lane, const auto& first_slice) {
        dispatch_width(group.bits, [&](auto width) {
          constexpr int bits = decltype(width)::bits;
          const Encoder<bits> encoder(range);
          if (lane == 0 && group.size > 0) {
            store_to(params, encoder.params());
          }
          for_each_slice(tile, group, lane, first_slice, load,
                         [&](const SliceLocation& location, const auto& x) {
                           const auto dither = dither_of<code_shift<bits>>(
                               noise, Encoder<bits>::domain, group, location.index);
                           write(location, x,
                                 encode_slice<bits>(x, location.present, encoder, dither));
                         });
        });
      },
      first_slices);
}

/// Reads and decodes the slices that hold elements [begin, end): calls store(location, slice).
template <class T, NoiseDomain Domain, class Tile, class Noise, class DecoderOf, class Store>
ACTPACK_HD void decode_slices(const Tile& tile, const GroupShape& group, std::int32_t begin,
                              std::int32_t end, const Noise& noise, float alpha,
                              const std::uint32_t* words, const DecoderOf& decoder_of,
                              const Store& store) {
  tile.map([&](int lane) {
    dispatch_width(group.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const DecodedSteps<bits, Domain, Noise> steps(noise, alpha);
      for_each_slice(tile, group, lane, begin, end, [&](const SliceLocation& location) {
        const auto codes = load_codes<bits>(words, words_of(group, bits), location);
        decode_slice<T>(steps.of(codes, group, location), decoder_of(width, steps.unit, location),
                        [&](const Slice& x) { store(location, x); });
      });
    });
  });
}

}  // namespace actpack::detail
