// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Kernels that walk a tensor group by group. The same source for devices and for tests on the host.
//
// Each exists twice: flat, for whole groups of 256 that follow each other without gaps, and for
// rows of any size, width and group size.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/cuda/group.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/smallest_positive.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude_view.hpp"
#include "tile_kernel.hpp"

namespace actpack::detail {

// One group into or out of a packed tensor of either form.

/// The words that a group's codes begin with, in its own width and at one bit.
struct GroupWords {
  std::int64_t codes, signs;
};

template <class Tile, class Noise, class Load>
ACTPACK_HD void encode_into(const PackedView& out, const Tile& tile, const GroupShape& group,
                            GroupWords first, const Noise& noise, const Load& load) {
  quantize_group(tile, group, noise, load, out.words + first.codes, out.params + group.index);
}

template <class Tile, class Noise, class Load>
ACTPACK_HD void encode_into(const SignMagnitudeView& out, const Tile& tile, const GroupShape& group,
                            GroupWords first, const Noise& noise, const Load& load) {
  encode_group(tile, group, noise, load, out.sign_words + first.signs,
               out.magnitude_words + first.codes, out.params + group.index);
}

/// The options of decoding: the share of the dither to take out, and the fate of negatives.
struct DecodeOptions {
  float alpha;
  NegativeSide negative_side;
};

template <class T, class Tile, class Noise, class Store>
ACTPACK_HD void decode_from(const ConstPackedView& in, const Tile& tile, const GroupShape& group,
                            GroupWords first, std::int32_t begin, std::int32_t end,
                            const Noise& noise, const DecodeOptions& options, const Store& store) {
  dequantize_group<T>(tile, group, begin, end, noise, options.alpha, in.words + first.codes,
                      in.params[group.index], store);
}

template <class T, class Tile, class Noise, class Store>
ACTPACK_HD void decode_from(const ConstSignMagnitudeView& in, const Tile& tile,
                            const GroupShape& group, GroupWords first, std::int32_t begin,
                            std::int32_t end, const Noise& noise, const DecodeOptions& options,
                            const Store& store) {
  decode_group<T>(tile, group, begin, end, noise, options.alpha, options.negative_side,
                  in.sign_words + first.signs, in.magnitude_words + first.codes,
                  in.params[group.index], store);
}

// Flat tensors: whole groups of 256 without gaps. Everything about a group but its number is a
// constant.

inline constexpr std::int32_t flat_group_size = 256;
inline constexpr int flat_lanes = tile_lanes(flat_group_size);

/// 40 registers a thread; 80 for sign-magnitude contexts.
template <class View>
inline constexpr int flat_blocks =
    std::is_same_v<View, PackedView> || std::is_same_v<View, ConstPackedView> ? 6 : 3;

/// Groups of one block. A flat kernel has work for all of them: a test for the last group would
/// make every branch look divergent to the compiler and cost a tenth of the instructions.
inline constexpr std::int64_t flat_multiple = block_threads / flat_lanes;

template <int Bits>
ACTPACK_HD GroupShape flat_shape(std::int64_t index) {
  return {index, flat_group_size, flat_group_size, Bits};
}

template <int Bits>
ACTPACK_HD GroupWords flat_words(std::int64_t index) {
  return {index * (flat_group_size / 32 * Bits), index * (flat_group_size / 32)};
}

/// Encodes the groups of `x`, which is aligned to a Vector.
template <class T, class View, class Noise, int Bits>
struct EncodeFlat {
  const T* x;
  View out;
  Noise noise;

  static constexpr int blocks_per_multiprocessor = flat_blocks<View>;
  ACTPACK_HD static constexpr int lanes() { return flat_lanes; }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    const T* elements = x + index * flat_group_size;
    encode_into(out, tile, flat_shape<Bits>(index), flat_words<Bits>(index), noise.resolve(),
                [&](const SliceLocation& slice) { return load_slice(elements, slice, true); });
  }
};

/// Writes a whole slice at an aligned address, as store_slice does, by all lanes of a warp
/// together. An octet of floats is a sector of memory, 32 bytes, and takes two instructions. Each
/// would write half a sector in every lane, which costs as much as whole ones. So neighbours
/// exchange halves, and each instruction writes the sectors of every other lane.
template <class T, class Tile>
ACTPACK_HD void store_flat(const Tile& tile, T* group, const SliceLocation& slice, const Slice& x) {
  if constexpr (std::is_same_v<T, float> && !std::is_same_v<Tile, HostWarpTile>) {
    constexpr int half = octet_size / 2;
    const bool is_odd = slice.index % 2 != 0;
    for (int i = 0; i < 2; ++i) {
      const Vector first = vector_of<T>(x.value + i * octet_size);
      const Vector second = vector_of<T>(x.value + i * octet_size + half);
      const Vector own = is_odd ? second : first;
      const Vector other = tile.exchange(is_odd ? first : second, 1);
      T* to = group + slice.first[i] - (is_odd ? half : 0);
      store_vector(to, is_odd ? other : own);
      store_vector(to + octet_size, is_odd ? own : other);
    }
  } else {
    store_slice(group, slice, true, x);
  }
}

/// Decodes groups to `x`, which is aligned to a Vector.
template <class T, class View, class Noise, int Bits>
struct DecodeFlat {
  View in;
  T* x;
  Noise noise;
  DecodeOptions options;

  static constexpr int blocks_per_multiprocessor = flat_blocks<View>;
  ACTPACK_HD static constexpr int lanes() { return flat_lanes; }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    T* elements = x + index * flat_group_size;
    decode_from<T>(in, tile, flat_shape<Bits>(index), flat_words<Bits>(index), 0, flat_group_size,
                   noise.resolve(), options, [&](const SliceLocation& slice, const Slice& values) {
                     store_flat(tile, elements, slice, values);
                   });
  }
};

// Rows.

/// These kernels hold all widths and need many registers.
inline constexpr int row_blocks = 2;

/// Walks groups [first_group, end_group) of a tensor of any layout.
struct RowWalk {
  std::int64_t groups_per_row, first_group, end_group;

  /// The group of a tile; of size 0 past the last.
  ACTPACK_HD Group group_of(const Layout& layout, std::int64_t index) const {
    const std::int64_t number = first_group + index;
    if (number >= end_group) {
      return Group{};
    }
    // If the operands fit, a 32-bit division takes a fraction of the time.
    const bool is_small = (number | groups_per_row) >> 32 == 0;
    const std::int64_t row =
        is_small ? static_cast<std::uint32_t>(number) / static_cast<std::uint32_t>(groups_per_row)
                 : number / groups_per_row;
    return group_at(layout, number, row, (number - row * groups_per_row) * layout.group_size);
  }
};

ACTPACK_HD inline CodeLocation locate_codes(const ConstPackedView& view, const Group& group) {
  return locate(view, group);
}
ACTPACK_HD inline CodeLocation locate_codes(const ConstSignMagnitudeView& view,
                                            const Group& group) {
  return locate(view.layout, group, view.layout.bits);
}

/// One group of a view: its elements, its shape, and the words that its codes begin with.
struct LocatedGroup {
  Group group;
  GroupShape shape;
  GroupWords words;

  /// The group of a tile; of size 0 past the last.
  template <class View>
  ACTPACK_HD LocatedGroup(const View& view, const RowWalk& walk, std::int64_t index)
      : group(walk.group_of(view.layout, index)) {
    const CodeLocation codes = group.size > 0 ? locate_codes(view, group) : CodeLocation{0, 1};
    shape = {group.index, static_cast<std::int32_t>(group.size), view.layout.group_size,
             codes.bits};
    words = {codes.word, locate(view.layout, group, 1).word};
  }
};

/// The number of a tensor's element within a group, or the end of the group that is nearest to it.
ACTPACK_HD inline std::int32_t group_element(const Group& group, std::int64_t element) {
  const std::int64_t e = element - group.first;
  return static_cast<std::int32_t>(e < 0 ? 0 : e < group.size ? e : group.size);
}

/// Encodes groups of whole rows; `x` points to the tensor's element 0, which may not exist.
template <class T, class View, class Noise>
struct EncodeRows {
  const T* x;
  View out;
  Noise noise;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return tile_lanes(out.layout.group_size); }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    const auto& source = noise.resolve();
    const LocatedGroup at(out, walk, index);
    const T* elements = x + at.group.first;
    const bool is_aligned = is_vector_aligned(elements);
    encode_into(out, tile, at.shape, at.words, source, [&](const SliceLocation& slice) {
      return load_slice(elements, slice, is_aligned);
    });
  }
};

/// Leaves decoded values as they are.
struct NoEpilogue {
  ACTPACK_HD void operator()(Slice&, const SliceLocation&, std::int64_t) const {}
};

/// Decodes elements [first, end) of a tensor; `x` points to its element 0, which may not exist.
template <class T, class View, class Noise, class Epilogue>
struct DecodeRows {
  View in;
  T* x;
  std::int64_t first, end;
  Noise noise;
  DecodeOptions options;
  Epilogue epilogue;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return tile_lanes(in.layout.group_size); }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    const auto& source = noise.resolve();
    const LocatedGroup at(in, walk, index);
    if (at.group.size == 0) {
      return;
    }
    T* elements = x + at.group.first;
    const bool is_aligned = is_vector_aligned(elements);
    decode_from<T>(in, tile, at.shape, at.words, group_element(at.group, first),
                   group_element(at.group, end), source, options,
                   [&](const SliceLocation& slice, Slice values) {
                     epilogue(values, slice, at.group.first);
                     store_slice(elements, slice, is_aligned, values);
                   });
  }
};

/// Multiplies, shifts and masks decoded values: see DecodingEpilogue (cuda/quantize.hpp).
template <class T>
struct ChannelEpilogue {
  const float* scale;
  const float* shift;
  std::int64_t channels, inner;
  const std::uint32_t* mask;

  ACTPACK_HD void operator()(Slice& x, const SliceLocation& location,
                             std::int64_t group_first) const {
    const std::int64_t first[2] = {group_first + location.first[0],
                                   group_first + location.first[1]};
    Channel channel[2] = {channel_at(first[0]), channel_at(first[1])};
    for (int j = 0; j < elements_per_call; ++j) {
      const int octet = j / octet_size;
      if ((location.present >> j & 1) != 0) {
        x.value[j] = apply(x.value[j], channel[octet].index, first[octet] + j % octet_size);
      }
      channel[octet] = next(channel[octet]);
    }
  }

 private:
  /// The channel of an element, and how many elements of it follow in a row, itself included.
  struct Channel {
    std::int64_t index, left;
  };

  ACTPACK_HD Channel channel_at(std::int64_t element) const {
    const std::int64_t block = element / inner;
    return {block % channels, (block + 1) * inner - element};
  }
  ACTPACK_HD Channel next(Channel c) const {
    const std::int64_t following = c.index + 1 == channels ? 0 : c.index + 1;
    return c.left == 1 ? Channel{following, inner} : Channel{c.index, c.left - 1};
  }
  ACTPACK_HD float apply(float value, std::int64_t channel, std::int64_t element) const {
    if (mask != nullptr && extract(mask, element, 1) == 0) {
      return 0;
    }
    return saturate_cast<T>(fma(value, scale != nullptr ? scale[channel] : 1.0f,
                                shift != nullptr ? shift[channel] : 0.0f));
  }
};

/// Decodes all of `in` plainly, except that a positive value rounded to 0 becomes the smallest
/// positive number.
template <class T>
struct DecodeKeepingSigns {
  ConstSignMagnitudeView in;
  T* x;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return tile_lanes(in.layout.group_size); }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    const LocatedGroup at(in, walk, index);
    if (at.group.size == 0) {
      return;
    }
    T* elements = x + at.group.first;
    const bool is_aligned = is_vector_aligned(elements);
    decode_from<T>(in, tile, at.shape, at.words, 0, at.shape.size, NearestNoise{},
                   {0, NegativeSide::kept}, [&](const SliceLocation& slice, Slice values) {
                     keep_signs(values, slice, at);
                     store_slice(elements, slice, is_aligned, values);
                   });
  }

 private:
  ACTPACK_HD void keep_signs(Slice& values, const SliceLocation& slice,
                             const LocatedGroup& at) const {
    const auto signs = load_codes<1>(in.sign_words + at.words.signs, words_of(at.shape, 1), slice);
    for (int j = 0; j < elements_per_call; ++j) {
      if ((signs.octet[j / octet_size] >> j % octet_size & 1) != 0) {
        values.value[j] = float{nonzero(T(values[j]), smallest_positive<T>())};
      }
    }
  }
};

/// Writes dx = dy where the sign of a context is positive, else 0; NaN where its group is poisoned.
template <class T>
struct ReluBackwardRows {
  const T* dy;
  ConstSignMagnitudeView in;
  T* dx;
  std::int64_t first, end;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return tile_lanes(in.layout.group_size); }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile& tile, std::int64_t index) const {
    const LocatedGroup at(in, walk, index);
    if (at.group.size == 0) {
      return;
    }
    const T* from = dy + at.group.first;
    T* to = dx + at.group.first;
    const std::uint32_t* signs = in.sign_words + at.words.signs;
    const bool poisoned = is_poisoned(in.params[at.group.index]);
    const bool is_aligned = is_vector_aligned(from) && is_vector_aligned(to);
    tile.map([&](int lane) {
      for_each_slice(
          tile, at.shape, lane, group_element(at.group, first), group_element(at.group, end),
          [&](const SliceLocation& location) {
            const auto codes = load_codes<1>(signs, words_of(at.shape, 1), location);
            const auto gradient = load_slice(from, location, is_aligned);
            Slice x;
            for (int j = 0; j < elements_per_call; ++j) {
              const bool pass = (codes.octet[j / octet_size] >> j % octet_size & 1) != 0;
              x.value[j] = poisoned ? float{poisoned_params.scale} : pass ? gradient[j] : 0.0f;
            }
            store_slice(to, location, is_aligned, x);
          });
    });
  }
};

}  // namespace actpack::detail
