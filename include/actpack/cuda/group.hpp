// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One group, worked on by a team of lanes: what the library's kernels are made of, and anybody's
// may be. A kernel that computes activations can pack them in the same pass, and one that needs
// them can unpack them as it goes.
//
// Every function here is called by all lanes of a team together. For a group size of 32 … 512 in
// powers of two the natural team has group_size / 16 lanes (team_lanes()), so that each has one
// slice: half a warp for 256. Nothing needs shared memory, allocates or synchronises beyond the
// team's shuffles.
#pragma once

#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/cuda/team.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

// A lane's part of a group, and how it gets into registers and out of them.
using detail::load_slice;
using detail::NegativeSide;
using detail::SlicePlace;
using detail::store_slice;

/// One group, as a team sees it.
struct GroupShape {
  std::int64_t index;             // in the tensor: names its noise
  std::int32_t size;              // elements that exist; 0: the team only keeps others company
  std::int32_t group_size = 256;  // a positive multiple of 32
  std::int32_t bits = 2;          // 1, 2, 4 or 8
};

/// Returns the number of lanes that share a group: one for each slice where that is a power of two,
/// else a warp, whose lanes take several slices or none.
ACTPACK_HD constexpr int team_lanes(std::int32_t group_size) {
  const int slices = group_size / detail::elements_per_call;
  return slices < warp_size && (slices & (slices - 1)) == 0 ? slices : warp_size;
}

namespace detail {

ACTPACK_HD constexpr int slices_of(const GroupShape& group) {
  return group.group_size / elements_per_call;
}

/// The first elements of a run, as a mask: those that are in front of element `end` of the group.
ACTPACK_HD constexpr SliceMask run_before(std::int32_t first, std::int32_t end) {
  const std::int32_t count = end - first;
  return count >= run_size ? 0xFF : count <= 0 ? 0 : (1u << count) - 1;
}

/// Slice number `index` of a group, of which elements [begin, end) are wanted.
ACTPACK_HD constexpr SlicePlace slice_at(const GroupShape& group, int index, std::int32_t begin,
                                         std::int32_t end) {
  SlicePlace place{index, {run_size * index, group.group_size / 2 + run_size * index}, 0};
  if (index >= slices_of(group)) {
    return place;
  }
  if (begin == 0 && end == group.group_size) {
    place.present = whole_slice;
  } else {
    for (int i = 0; i < 2; ++i) {
      place.present |= (run_before(place.first[i], end) & ~run_before(place.first[i], begin))
                       << (run_size * i);
    }
  }
  return place;
}

ACTPACK_HD constexpr std::uint32_t words_of(const GroupShape& group, int bits) {
  return static_cast<std::uint32_t>(words_for(group.size, bits));
}

template <int Shift, class Noise>
ACTPACK_HD SliceDither<Shift> dither_of(const Noise& noise, const GroupShape& group, int slice) {
  return noise.template dither<Shift>(group.index * slices_of(group) + slice);
}

/// Where a lane's slices end: behind the first if there are no more slices than lanes, which spares
/// compilers that know the sizes a loop.
template <class Team>
ACTPACK_HD int end_of_slices(const Team& team, const GroupShape& group, int lane) {
  return slices_of(group) <= team.lanes() ? lane + 1 : slices_of(group);
}

template <class Load>
ACTPACK_HD auto load_present(const SlicePlace& place, const Load& load) {
  using Elements = decltype(load(place));
  return place.present != 0 ? load(place) : Elements{};
}

/// The range of a group and, of every lane, its first slice: most often its only one.
template <class Team, class Load>
ACTPACK_HD auto load_first_slices(const Team& team, const GroupShape& group, const Load& load) {
  return team.map(
      [&](int lane) { return load_present(slice_at(group, lane, 0, group.size), load); });
}

template <class Team, class Slices, class Load>
ACTPACK_HD ValueRange range_of_group(const Team& team, const GroupShape& group,
                                     const Slices& first_slices, const Load& load) {
  const auto ranges = team.map(
      [&](int lane, const auto& first_slice) {
        ValueRange range = range_of(first_slice, slice_at(group, lane, 0, group.size).present);
        for (int slice = lane + team.lanes(); slice < end_of_slices(team, group, lane);
             slice += team.lanes()) {
          const SlicePlace place = slice_at(group, slice, 0, group.size);
          if (place.present != 0) {
            range = join(range, range_of(load(place), place.present));
          }
        }
        return range;
      },
      first_slices);
  return team.reduce(ranges, [](ValueRange a, ValueRange b) { return join(a, b); });
}

/// Calls visit(place, slice) for a lane's slices, the first of which is at hand.
template <class Team, class Elements, class Load, class Visit>
ACTPACK_HD void for_each_slice(const Team& team, const GroupShape& group, int lane,
                               const Elements& first_slice, const Load& load, Visit visit) {
  const int end = end_of_slices(team, group, lane);
  int slice = lane;
  do {  // most often once
    const SlicePlace place = slice_at(group, slice, 0, group.size);
    if (slice < slices_of(group)) {
      visit(place, slice == lane ? first_slice : load_present(place, load));
    }
    slice += team.lanes();
  } while (slice < end);
}

/// Calls visit(place) for those of a lane's slices that hold some of elements [begin, end).
template <class Team, class Visit>
ACTPACK_HD void for_each_slice(const Team& team, const GroupShape& group, int lane,
                               std::int32_t begin, std::int32_t end, Visit visit) {
  const int last = end_of_slices(team, group, lane);
  int slice = lane;
  do {  // most often once
    const SlicePlace place = slice_at(group, slice, begin, end);
    if (place.present != 0) {
      visit(place);
    }
    slice += team.lanes();
  } while (slice < last);
}

/// Where decoding puts elements, in units of `unit` steps above the smallest: at their codes'
/// levels for NearestNoise, else there less `alpha` times the dither that encoding added.
template <int Bits, class Noise>
class Places {
  static constexpr bool is_plain = std::is_same_v<Noise, NearestNoise>;

 public:
  static constexpr float unit = is_plain ? 1 : position_unit;

  ACTPACK_HD Places(const Noise& noise, float alpha) : noise_(noise), alpha_(alpha) {}

  ACTPACK_HD Slice of(const SlicePieces<Bits>& codes, const GroupShape& group,
                      const SlicePlace& place) const {
    if constexpr (is_plain) {
      return levels_of<Bits>(codes);
    } else {
      return positions_of<Bits>(codes, dither_of<16>(noise_, group, place.index), alpha_);
    }
  }

 private:
  const Noise& noise_;
  float alpha_;
};

}  // namespace detail

// Which elements a lane's slice holds: for kernels that load something else of the same elements.
using detail::slice_at;

namespace detail {

/// Fits a group's parameters and encodes it: writes `params`, and calls write(place, elements,
/// codes) for each slice, by the lane that owns it.
template <template <int> class Encoder, class Team, class Noise, class Load, class Params,
          class Write>
ACTPACK_HD void encode_slices(const Team& team, const GroupShape& group, const Noise& noise,
                              const Load& load, Params* params, const Write& write) {
  const auto first_slices = load_first_slices(team, group, load);
  const ValueRange range = range_of_group(team, group, first_slices, load);
  team.map(
      [&](int lane, const auto& first_slice) {
        dispatch_width(group.bits, [&](auto width) {
          constexpr int bits = decltype(width)::bits;
          const Encoder<bits> encoder(range);
          if (lane == 0 && group.size > 0) {
            store_to(params, encoder.params());
          }
          for_each_slice(
              team, group, lane, first_slice, load, [&](const SlicePlace& place, const auto& x) {
                const auto dither = dither_of<code_shift<bits>>(noise, group, place.index);
                write(place, x, encode_slice<bits>(x, place.present, encoder, dither));
              });
        });
      },
      first_slices);
}

/// Reads, places and decodes the slices of elements [begin, end): calls store(place, slice).
template <class T, class Team, class Noise, class DecoderOf, class Store>
ACTPACK_HD void decode_slices(const Team& team, const GroupShape& group, std::int32_t begin,
                              std::int32_t end, const Noise& noise, float alpha,
                              const std::uint32_t* words, const DecoderOf& decoder_of,
                              const Store& store) {
  team.map([&](int lane) {
    dispatch_width(group.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const Places<bits, Noise> places(noise, alpha);
      for_each_slice(team, group, lane, begin, end, [&](const SlicePlace& place) {
        const auto codes = load_codes<bits>(words, words_of(group, bits), place);
        decode_slice<T>(places.of(codes, group, place), decoder_of(width, places.unit, place),
                        [&](const Slice& x) { store(place, x); });
      });
    });
  });
}

}  // namespace detail

/// Quantizes one group: writes its words_for(size, bits) `words` and its `params`.
///
/// `load(place)` returns the elements of a slice: an actpack::Slice, or anything that
/// load_slice returns. The SlicePlace says which elements those are; the ones that are
/// not present may hold anything. It is called by the lane that owns the slice, once if the team
/// has a lane for every slice, else twice. `noise` has been resolved. The words are those of the
/// host's `quantize`, whatever the team.
template <class Team, class Noise, class Load>
ACTPACK_HD void quantize_group(const Team& team, const GroupShape& group, const Noise& noise,
                               const Load& load, std::uint32_t* words, GroupParams* params) {
  detail::encode_slices<detail::AffineSliceEncoder>(
      team, group, noise, load, params,
      [&](const SlicePlace& place, const auto&, const auto& codes) {
        detail::store_codes(words, detail::words_of(group, codes.bits), place, codes);
      });
}

/// Decodes elements [begin, end) of one group: calls `store(place, slice)` for the slices that hold
/// some of them, by the lane that owns the slice. Values are float, none beyond the finite values
/// of T. `noise` is NearestNoise for plain decoding, else the one used for encoding, resolved, and
/// `alpha` the share of it that is taken out.
template <class T, class Team, class Noise, class Store>
ACTPACK_HD void dequantize_group(const Team& team, const GroupShape& group, std::int32_t begin,
                                 std::int32_t end, const Noise& noise, float alpha,
                                 const std::uint32_t* words, GroupParams params,
                                 const Store& store) {
  detail::decode_slices<T>(
      team, group, begin, end, noise, alpha, words,
      [&](auto width, float unit, const SlicePlace&) {
        return detail::AffineSliceDecoder<decltype(width)::bits>(params, unit);
      },
      store);
}

/// Encodes one group of a sign-magnitude context, as `quantize_group` does an affine one.
template <class Team, class Noise, class Load>
ACTPACK_HD void encode_group(const Team& team, const GroupShape& group, const Noise& noise,
                             const Load& load, std::uint32_t* sign_words,
                             std::uint32_t* magnitude_words, SignMagnitudeParams* params) {
  detail::encode_slices<detail::SideSliceEncoder>(
      team, group, noise, load, params,
      [&](const SlicePlace& place, const auto& y, const auto& codes) {
        detail::store_codes(sign_words, detail::words_of(group, 1), place,
                            detail::signs_of(y, place.present));
        detail::store_codes(magnitude_words, detail::words_of(group, codes.bits), place, codes);
      });
}

/// Decodes elements [begin, end) of one group of a sign-magnitude context, as `dequantize_group`
/// does of an affine one; what is not positive gives 0 if `negative_side` says so.
template <class T, class Team, class Noise, class Store>
ACTPACK_HD void decode_group(const Team& team, const GroupShape& group, std::int32_t begin,
                             std::int32_t end, const Noise& noise, float alpha,
                             NegativeSide negative_side, const std::uint32_t* sign_words,
                             const std::uint32_t* magnitude_words, SignMagnitudeParams params,
                             const Store& store) {
  detail::decode_slices<T>(
      team, group, begin, end, noise, alpha, magnitude_words,
      [&](auto width, float unit, const SlicePlace& place) {
        const auto signs = detail::load_codes<1>(sign_words, detail::words_of(group, 1), place);
        return detail::SideSliceDecoder<decltype(width)::bits>(
            params, negative_side, unit, signs.run[0] | std::uint32_t{signs.run[1]} << 8);
      },
      store);
}

}  // namespace actpack
