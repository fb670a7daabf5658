// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the kernels do that walk a tensor group by group: the same source for devices and for tests
// on the host.
//
// Two forms of each: a flat one for whole groups of 256 that follow each other without gaps, and
// one for rows of any size, width and group size.
#pragma once

#include <cstdint>
#include <type_traits>

#include "actpack/cuda/group.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude.hpp"
#include "block.hpp"

namespace actpack::detail {

// One group into or out of a packed tensor of either kind.

/// The words a group's codes begin with: in its own width, and at one bit.
struct GroupWords {
  std::int64_t codes, signs;
};

template <class Team, class Noise, class Load>
ACTPACK_HD void encode_into(const PackedView& out, const Team& team, const GroupShape& group,
                            GroupWords first, const Noise& noise, const Load& load) {
  quantize_group(team, group, noise, load, out.words + first.codes, out.params + group.index);
}

template <class Team, class Noise, class Load>
ACTPACK_HD void encode_into(const SignMagnitudeView& out, const Team& team, const GroupShape& group,
                            GroupWords first, const Noise& noise, const Load& load) {
  encode_group(team, group, noise, load, out.sign_words + first.signs,
               out.magnitude_words + first.codes, out.params + group.index);
}

/// What decoding may be told: the share of the dither to take out, and what becomes of negatives.
struct DecodeOptions {
  float alpha;
  NegativeSide negative_side;
};

template <class T, class Team, class Noise, class Store>
ACTPACK_HD void decode_from(const ConstPackedView& in, const Team& team, const GroupShape& group,
                            GroupWords first, std::int32_t begin, std::int32_t end,
                            const Noise& noise, const DecodeOptions& options, const Store& store) {
  dequantize_group<T>(team, group, begin, end, noise, options.alpha, in.words + first.codes,
                      in.params[group.index], store);
}

template <class T, class Team, class Noise, class Store>
ACTPACK_HD void decode_from(const ConstSignMagnitudeView& in, const Team& team,
                            const GroupShape& group, GroupWords first, std::int32_t begin,
                            std::int32_t end, const Noise& noise, const DecodeOptions& options,
                            const Store& store) {
  decode_group<T>(team, group, begin, end, noise, options.alpha, options.negative_side,
                  in.sign_words + first.signs, in.magnitude_words + first.codes,
                  in.params[group.index], store);
}

// Flat tensors: whole groups of 256 without gaps, of which everything but the number is a constant.

inline constexpr std::int32_t flat_group_size = 256;
inline constexpr int flat_lanes = team_lanes(flat_group_size);

/// 40 registers a thread; 80 for sign-magnitude contexts.
template <class View>
inline constexpr int flat_blocks =
    std::is_same_v<View, PackedView> || std::is_same_v<View, ConstPackedView> ? 6 : 3;

/// Groups of one block, all of which a flat kernel has work for: a test for the last one would make
/// every branch look divergent to the compiler and cost a tenth of the instructions.
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

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    const T* elements = x + index * flat_group_size;
    encode_into(out, team, flat_shape<Bits>(index), flat_words<Bits>(index), noise.resolve(),
                [&](const SlicePlace& slice) { return load_slice(elements, slice, true); });
  }
};

/// As store_slice, of a whole slice at an aligned address, by all lanes of a warp together. A run
/// of floats is a sector of memory, 32 bytes, and takes two instructions, which would write half a
/// sector in every lane: as costly as whole ones. So neighbours exchange halves, and each
/// instruction writes the sectors of every other lane.
template <class T, class Team>
ACTPACK_HD void store_flat(const Team& team, T* group, const SlicePlace& slice, const Slice& x) {
  if constexpr (std::is_same_v<T, float> && !std::is_same_v<Team, HostTeam>) {
    constexpr int half = run_size / 2;
    const bool is_odd = slice.index % 2 != 0;
    for (int i = 0; i < 2; ++i) {
      const Vector first = vector_of<T>(x.value + i * run_size);
      const Vector second = vector_of<T>(x.value + i * run_size + half);
      const Vector kept = is_odd ? second : first;
      const Vector other = team.exchange(is_odd ? first : second, 1);
      T* to = group + slice.first[i] - (is_odd ? half : 0);
      store_vector(to, is_odd ? other : kept);
      store_vector(to + run_size, is_odd ? kept : other);
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

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    T* elements = x + index * flat_group_size;
    decode_from<T>(in, team, flat_shape<Bits>(index), flat_words<Bits>(index), 0, flat_group_size,
                   noise.resolve(), options, [&](const SlicePlace& slice, const Slice& values) {
                     store_flat(team, elements, slice, values);
                   });
  }
};

// Rows.

/// As many registers as they like: all widths are in one kernel.
inline constexpr int row_blocks = 2;

/// Walks groups [first_group, end_group) of a tensor of any layout.
struct RowWalk {
  std::int64_t groups_per_row, first_group, end_group;

  /// The group of a team; of size 0 behind the last.
  ACTPACK_HD Group group_of(const Layout& layout, std::int64_t index) const {
    const std::int64_t number = first_group + index;
    if (number >= end_group) {
      return Group{};
    }
    // Divided as 32-bit numbers where they are, which takes a fraction of the time.
    const bool is_small = (number | groups_per_row) >> 32 == 0;
    const std::int64_t row =
        is_small ? static_cast<std::uint32_t>(number) / static_cast<std::uint32_t>(groups_per_row)
                 : number / groups_per_row;
    return group_at(layout, number, row, (number - row * groups_per_row) * layout.group_size);
  }
};

ACTPACK_HD inline GroupShape shape_of(const Layout& layout, const Group& group, int bits) {
  return {group.index, static_cast<std::int32_t>(group.size), layout.group_size, bits};
}

ACTPACK_HD inline CodeLocation code_place(const ConstPackedView& view, const Group& group) {
  return locate(view, group);
}
ACTPACK_HD inline CodeLocation code_place(const ConstSignMagnitudeView& view, const Group& group) {
  return locate(view.layout, group, view.layout.bits);
}

ACTPACK_HD inline GroupWords words_of(const Layout& layout, const Group& group,
                                      CodeLocation place) {
  return {place.word, locate(layout, group, 1).word};
}

/// Where an element of the tensor is in a group, or on which end of it.
ACTPACK_HD inline std::int32_t group_element(const Group& group, std::int64_t element) {
  const std::int64_t e = element - group.first;
  return static_cast<std::int32_t>(e < 0 ? 0 : e < group.size ? e : group.size);
}

/// Encodes groups of whole rows; `x` is where the tensor's element 0 is or would be.
template <class T, class View, class Noise>
struct EncodeRows {
  const T* x;
  View out;
  Noise noise;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return team_lanes(out.layout.group_size); }

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    const auto& source = noise.resolve();
    const Group group = walk.group_of(out.layout, index);
    const CodeLocation place = group.size > 0 ? code_place(out, group) : CodeLocation{0, 1};
    const T* elements = x + group.first;
    const bool is_aligned = is_vector_aligned(elements);
    encode_into(out, team, shape_of(out.layout, group, place.bits),
                words_of(out.layout, group, place), source,
                [&](const SlicePlace& slice) { return load_slice(elements, slice, is_aligned); });
  }
};

/// What decoding does to values before it stores them: nothing.
struct NoEpilogue {
  ACTPACK_HD void operator()(Slice&, const SlicePlace&, std::int64_t) const {}
};

/// Decodes elements [first, end) of a tensor; `x` is where its element 0 is or would be.
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
  ACTPACK_HD int lanes() const { return team_lanes(in.layout.group_size); }

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    const auto& source = noise.resolve();
    const Group group = walk.group_of(in.layout, index);
    if (group.size == 0) {
      return;
    }
    const CodeLocation place = code_place(in, group);
    T* elements = x + group.first;
    const bool is_aligned = is_vector_aligned(elements);
    decode_from<T>(in, team, shape_of(in.layout, group, place.bits),
                   words_of(in.layout, group, place), group_element(group, first),
                   group_element(group, end), source, options,
                   [&](const SlicePlace& slice, Slice values) {
                     epilogue(values, slice, group.first);
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

  ACTPACK_HD void operator()(Slice& x, const SlicePlace& place, std::int64_t group_first) const {
    const std::int64_t first[2] = {group_first + place.first[0], group_first + place.first[1]};
    Channel channel[2] = {channel_at(first[0]), channel_at(first[1])};
    for (int j = 0; j < elements_per_call; ++j) {
      const int run = j / run_size;
      if ((place.present >> j & 1) != 0) {
        x.value[j] = apply(x.value[j], channel[run].index, first[run] + j % run_size);
      }
      channel[run] = next(channel[run]);
    }
  }

 private:
  /// The channel of an element, and the elements of it that follow in a row, itself included.
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

/// Writes dx = dy where the sign of a context is positive, else 0; NaN where its group is poisoned.
template <class T>
struct ReluBackwardRows {
  const T* dy;
  ConstSignMagnitudeView in;
  T* dx;
  std::int64_t first, end;
  RowWalk walk;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD int lanes() const { return team_lanes(in.layout.group_size); }

  template <class Team>
  ACTPACK_HD void operator()(const Team& team, std::int64_t index) const {
    const Group group = walk.group_of(in.layout, index);
    if (group.size == 0) {
      return;
    }
    const GroupShape shape = shape_of(in.layout, group, 1);
    const std::uint32_t* signs = in.sign_words + locate(in.layout, group, 1).word;
    const bool poisoned = is_poisoned(in.params[group.index]);
    const bool is_aligned =
        is_vector_aligned(dy + group.first) && is_vector_aligned(dx + group.first);
    team.map([&](int lane) {
      for_each_slice(
          team, shape, lane, group_element(group, first), group_element(group, end),
          [&](const SlicePlace& place) {
            const auto codes = load_codes<1>(signs, words_of(shape, 1), place);
            const auto gradient = load_slice(dy + group.first, place, is_aligned);
            Slice x;
            for (int j = 0; j < elements_per_call; ++j) {
              const bool pass = (codes.run[j / run_size] >> j % run_size & 1) != 0;
              x.value[j] = poisoned ? float{poisoned_params.scale} : pass ? gradient[j] : 0.0f;
            }
            store_slice(dx + group.first, place, is_aligned, x);
          });
    });
  }
};

}  // namespace actpack::detail
