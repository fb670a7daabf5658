// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The groups of a tensor to codes and back: the loops of group_codec.hpp, in vectors.

/// Writes the codes of one group of any kind, whose parameters are written.
template <class T, class Codes>
ACTPACK_NOINLINE void encode_any(const T* x, const Group& group, std::int64_t group_size,
                                 const Rounding& rounding, const Noise& noise, Codes codes) {
  if (is_near_overflow(*codes.params)) {
    DitherTile tile(rounding, Codes::domain);
    encode_group(tile, x, group, group_size, codes);
    return;
  }
  write_signs(x, group.size, codes);
  const auto encode_words = [&](auto width, auto has_noise) {
    constexpr int same_shift = decltype(width)::bits;
    encode_blocks<same_shift, has_noise.value>(x, group, group_size, codes.bits, noise,
                                               encode_by<same_shift>(*codes.params), codes.words);
  };
  if (codes.bits == 8) {
    rounding.is_stochastic ? encode_words(Width<8>{}, std::true_type{})
                           : encode_words(Width<8>{}, std::false_type{});
  } else {
    rounding.is_stochastic ? encode_words(Width<4>{}, std::true_type{})
                           : encode_words(Width<4>{}, std::false_type{});
  }
}

/// Encodes `count` consecutive full groups, from number `group` of the tensor on.
template <int Bits, bool HasNoise, class T, class Codes>
void encode_full_groups(const T* x, std::int64_t group, std::int64_t count, std::int64_t group_size,
                        const Rounding& rounding, const Noise& noise, Footprint footprint,
                        Codes codes) {
  BlockLoop<HasNoise> blocks(noise, group, group_size);
  for_each_batch(x, count, group_size, footprint, [&](const Batch<T>& batch) {
    const Fits<Bits, Codes> fits(batch.ranges);
    for (int lane = 0; lane < batch.size; ++lane) {
      batch.prefetch(lane);
      const T* values = batch.group(lane);
      if ((fits.plain >> lane & 1) != 0 && has_whole_blocks<HasNoise>(group_size)) [[likely]] {
        *codes.params = fits.params[lane];
        encode_full<Bits>(values, blocks, fits.encode(lane, codes), codes.words);
      } else {
        *codes.params = codes.fit(batch.ranges.of(lane));
        blocks.skip_group();
        Group whole{};
        whole.index = group;
        whole.size = group_size;
        encode_any(values, whole, group_size, rounding, noise, codes);
      }
      ++group;
      codes.template skip_group<Bits>(group_size);
    }
  });
}

template <class View, class T>
void encode_groups(const T* x, const View& out, const Rounding& rounding, ElementInterval elements,
                   Footprint footprint) {
  const Noise noise(rounding, CodesOf<View>::domain);
  const std::int64_t group_size = out.layout.group_size;
  GroupCursor cursor(out.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    const T* values = x + (group.first - elements.first);
    const auto codes = codes_of(out, group);
    const std::int64_t count = cursor.full_groups(has_one_width(out));
    if (count == 0) {
      *codes.params = codes.fit(range_of_vectors(values, group.size));
      encode_any(values, group, group_size, rounding, noise, codes);
      cursor.skip(1);
      continue;
    }
    dispatch_width(codes.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      using Codes = CodesOf<View>;
      const auto encode = rounding.is_stochastic ? encode_full_groups<bits, true, T, Codes>
                                                 : encode_full_groups<bits, false, T, Codes>;
      encode(values, group.index, count, group_size, rounding, noise, footprint, codes);
    });
    cursor.skip(count);
  }
}

/// Decodes the elements of one group of any kind that are in `interval`.
template <class T, class Codes>
ACTPACK_NOINLINE void decode_any(const Codes& codes, const Group& group, std::int64_t group_size,
                                 const Decoding& decoding, const Noise& noise,
                                 ElementInterval interval, T* x) {
  const auto decode_words = [&](const auto& decode) {
    decode_blocks(codes.words, group, group_size, codes.bits, noise, decode, interval, x);
  };
  if (is_near_overflow(*codes.params)) {
    DitherTile tile(decoding.rounding, Codes::domain);
    decode_group(tile, codes, group, group_size, decoding, interval, x);
  } else if (decoding.is_subtractive()) {
    decode_words(decode_by<8, true, T>(codes, decoding.alpha));
  } else {
    decode_words(decode_by<8, false, T>(codes, 0));
  }
}

/// Decodes `count` consecutive full groups, from number `group` of the tensor on.
template <int Bits, bool IsSubtractive, class T, class Codes>
void decode_full_groups(Codes codes, std::int64_t group, std::int64_t count,
                        std::int64_t group_size, const Decoding& decoding, const Noise& noise,
                        bool is_streamed, T* x) {
  BlockLoop<IsSubtractive> blocks(noise, group, group_size);
  for (std::int64_t i = 0; i < count; ++i) {
    if (!is_near_overflow(*codes.params) && has_whole_blocks<IsSubtractive>(group_size))
        [[likely]] {
      decode_full<Bits>(codes.words, blocks,
                        decode_by<Bits, IsSubtractive, T>(codes, decoding.alpha), is_streamed, x);
    } else {
      blocks.skip_group();
      Group whole{};
      whole.index = group + i;
      whole.size = group_size;
      decode_any(codes, whole, group_size, decoding, noise, {0, group_size}, x);
    }
    codes.template skip_group<Bits>(group_size);
    x += group_size;
  }
}

template <class View, class T>
void decode_groups(const View& in, T* x, const Decoding& decoding, ElementInterval elements,
                   Footprint footprint) {
  const Noise noise(decoding.rounding, CodesOf<View>::domain);
  const std::int64_t group_size = in.layout.group_size;
  GroupCursor cursor(in.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    T* values = x + (group.first - elements.first);
    const auto codes = codes_of(in, group);
    const std::int64_t count = cursor.full_groups(has_one_width(in));
    if (count == 0) {
      decode_any(codes, group, group_size, decoding, noise, interval_in(group, elements), values);
      cursor.skip(1);
      continue;
    }
    dispatch_width(codes.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      using Codes = CodesOf<View>;
      const auto decode = decoding.is_subtractive() ? decode_full_groups<bits, true, T, Codes>
                                                    : decode_full_groups<bits, false, T, Codes>;
      decode(codes, group.index, count, group_size, decoding, noise, is_streamed(values, footprint),
             values);
    });
    cursor.skip(count);
  }
  if (footprint == Footprint::memory) {
    _mm_sfence();
  }
}
