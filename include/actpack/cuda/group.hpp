// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One group, worked on by a warp tile: the building blocks of the library's kernels, and of yours.
// A kernel that computes activations can pack them in the same pass, and one that needs them can
// unpack them as it goes.
//
// All lanes of a tile call every function here together. For a group size of 32 … 512 in powers of
// two the natural tile has group_size / 16 lanes (tile_lanes()), so that each has one slice: half a
// warp for 256. Nothing needs shared memory, allocates, or synchronises beyond the tile's shuffles.
#pragma once

#include <cstdint>

#include "actpack/affine.hpp"
#include "actpack/config.hpp"
#include "actpack/cuda/slice.hpp"
#include "actpack/cuda/warp_tile.hpp"
#include "actpack/detail/cuda/group_slices.hpp"
#include "actpack/detail/cuda/slice_memory.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack {

// How a slice gets into registers and out of them, and which elements a lane's slice holds: for
// kernels that load something else of the same elements.
using detail::load_slice;
using detail::NegativeSide;
using detail::slice_at;
using detail::store_slice;

/// Quantizes one group: writes its words_for(size, bits) `words` and its `params`.
///
/// `load(location)` returns the elements of a slice: an actpack::Slice, or anything that
/// load_slice returns. The SliceLocation says which elements those are; the ones that are
/// not present may hold anything. It is called by the lane that owns the slice, once if the tile
/// has a lane for every slice, else twice. `noise` has been resolved. The words are those of the
/// host's `quantize`, whatever the tile.
template <class Tile, class Noise, class Load>
ACTPACK_HD void quantize_group(const Tile& tile, const GroupShape& group, const Noise& noise,
                               const Load& load, std::uint32_t* words, GroupParams* params) {
  detail::encode_slices<detail::AffineSliceEncoder>(
      tile, group, noise, load, params,
      [&](const SliceLocation& location, const auto&, const auto& codes) {
        detail::store_codes(words, detail::words_of(group, codes.bits), location, codes);
      });
}

/// Decodes elements [begin, end) of one group: calls `store(location, slice)` for the slices that
/// hold some of them, by the lane that owns the slice. Values are float, none beyond the finite
/// values of T. `noise` is NearestNoise for plain decoding, else the one used for encoding,
/// resolved, and `alpha` the share of it that is taken out.
template <class T, class Tile, class Noise, class Store>
ACTPACK_HD void dequantize_group(const Tile& tile, const GroupShape& group, std::int32_t begin,
                                 std::int32_t end, const Noise& noise, float alpha,
                                 const std::uint32_t* words, GroupParams params,
                                 const Store& store) {
  detail::decode_slices<T, NoiseDomain::values>(
      tile, group, begin, end, noise, alpha, words,
      [&](auto width, float unit, const SliceLocation&) {
        return detail::AffineSliceDecoder<decltype(width)::bits>(params, unit);
      },
      store);
}

/// Encodes one group of a sign-magnitude context, as `quantize_group` does an affine one.
template <class Tile, class Noise, class Load>
ACTPACK_HD void encode_group(const Tile& tile, const GroupShape& group, const Noise& noise,
                             const Load& load, std::uint32_t* sign_words,
                             std::uint32_t* magnitude_words, SignMagnitudeParams* params) {
  detail::encode_slices<detail::SideSliceEncoder>(
      tile, group, noise, load, params,
      [&](const SliceLocation& location, const auto& y, const auto& codes) {
        detail::store_codes(sign_words, detail::words_of(group, 1), location,
                            detail::signs_of(y, location.present));
        detail::store_codes(magnitude_words, detail::words_of(group, codes.bits), location, codes);
      });
}

/// Decodes elements [begin, end) of one group of a sign-magnitude context, as `dequantize_group`
/// does of an affine one; what is not positive gives 0 if `negative_side` says so.
template <class T, class Tile, class Noise, class Store>
ACTPACK_HD void decode_group(const Tile& tile, const GroupShape& group, std::int32_t begin,
                             std::int32_t end, const Noise& noise, float alpha,
                             NegativeSide negative_side, const std::uint32_t* sign_words,
                             const std::uint32_t* magnitude_words, SignMagnitudeParams params,
                             const Store& store) {
  detail::decode_slices<T, NoiseDomain::magnitudes>(
      tile, group, begin, end, noise, alpha, magnitude_words,
      [&](auto width, float unit, const SliceLocation& location) {
        const auto signs = detail::load_codes<1>(sign_words, detail::words_of(group, 1), location);
        return detail::SideSliceDecoder<decltype(width)::bits>(
            params, negative_side, unit, signs.octet[0] | std::uint32_t{signs.octet[1]} << 8);
      },
      store);
}

}  // namespace actpack
