// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Affine codes of groups: the loops of affine_groups.hpp, in vectors.

/// Turns values into positions: as `Encoder`, for parameters that need no special care.
struct AffineEncode {
  Floats min, steps;

  template <class Add>
  ACTPACK_INLINE Ints operator()(Floats x, std::int64_t, Floats dithers, Add add) const {
    return add(subtract(x, min), steps, dithers);
  }
  const AffineEncode& with_signs_in(std::uint8_t*) const { return *this; }
};

/// Turns codes of `Bits` bits into values: as `Decoder`, far from overflow.
template <int Bits, bool IsSubtractive, class T>
struct AffineDecode {
  static constexpr bool is_subtractive = IsSubtractive;
  static constexpr bool has_levels = !IsSubtractive && has_table<Bits>;
  Floats scale, min, minus_alpha;
  Floats levels;  // a table of values by code, rounded

  AffineDecode(GroupParams params, float alpha)
      : scale(broadcast(IsSubtractive ? params.scale * 0x1p-15f : float{params.scale})),
        min(broadcast(params.min)), minus_alpha(broadcast(-alpha)), levels(min) {
    if constexpr (has_levels) {
      levels = rounded<T>(fused(to_floats(table_codes<Bits>()), scale, min));
    }
  }

  ACTPACK_INLINE Floats operator()(Floats positions, std::int64_t) const {
    return fused(positions, scale, min);
  }
  const AffineDecode& with_padded_signs(std::int64_t, std::int64_t, std::uint8_t*) const {
    return *this;
  }
};

/// Whether `AffineEncode` serves a group: four times its steps per unit are finite, and it is
/// neither near overflow nor poisoned (NaN compares false).
inline bool is_plain(GroupParams params) {
  return (params.scale == 0 || params.scale > smallest_scale) &&
         !is_near_overflow(params.scale, params.min);
}

/// As `fit_params` and `affine_encode`, for a group in each lane.
template <int Bits>
struct AffineFits {
  alignas(64) GroupParams params[lanes];
  alignas(64) float min[lanes];
  alignas(64) float steps[lanes];
  std::uint32_t plain;  // a bit for each lane: whether the others are right

  explicit AffineFits(const Ranges& ranges) {
    const Floats lowest = load(ranges.min);
    const Floats highest = load(ranges.max);
    const Ints stored_min = round_down(add_floats(lowest, broadcast(0.0f)));
    const Scales<Bits> scales(subtract_up(highest, as_floats(stored_min)));
    store_bits(params, bit_or(shift_right<16>(scales.scale), stored_min));
    store_bits(min, stored_min);
    store(steps, scales.steps);
    plain = are_ordinary(lowest, highest) & scales.are_finite();
  }
  AffineEncode encode(int lane) const { return {broadcast(min[lane]), broadcast(steps[lane])}; }
};

template <int Bits>
AffineEncode affine_encode(GroupParams params) {
  constexpr float unit = 1 << shift_in_position<Bits>;
  return {broadcast(params.min), broadcast(unit * steps_per_unit(params.scale))};
}

/// Writes the codes of one group of any kind.
template <class T>
ACTPACK_NOINLINE void quantize_any(const T* x, const Group& group, std::int64_t group_size,
                                   int bits, GroupParams params, const Rounding& rounding,
                                   const Noise& noise, std::uint32_t* words) {
  if (!is_plain(params)) {
    DitherTile tile(rounding);
    quantize_group(tile, x, group, {0, bits}, group_size, params, words);
    return;
  }
  const auto quantize_parts = [&](auto width, auto has_noise) {
    constexpr int same_shift = decltype(width)::bits;
    encode_parts<same_shift, has_noise.value>(x, group, group_size, bits, noise,
                                              affine_encode<same_shift>(params), words);
  };
  if (bits == 8) {
    rounding.is_stochastic ? quantize_parts(Width<8>{}, std::true_type{})
                           : quantize_parts(Width<8>{}, std::false_type{});
  } else {
    rounding.is_stochastic ? quantize_parts(Width<4>{}, std::true_type{})
                           : quantize_parts(Width<4>{}, std::false_type{});
  }
}

/// Quantizes `count` full groups in sequence, from number `group` of the tensor on.
template <int Bits, bool HasNoise, class T>
void quantize_full(const T* x, std::int64_t group, std::int64_t count, std::int64_t group_size,
                   const Rounding& rounding, const Noise& noise, Footprint footprint,
                   GroupParams* params, std::uint32_t* words) {
  BlockLoop<HasNoise> blocks(noise, group, group_size);
  for_each_batch(x, count, group_size, footprint, [&](const Batch<T>& batch) {
    const AffineFits<Bits> fits(batch.ranges);
    for (int lane = 0; lane < batch.size; ++lane) {
      batch.prefetch(lane);
      const T* values = batch.group(lane);
      if ((fits.plain >> lane & 1) != 0 && has_whole_blocks<HasNoise>(group_size)) [[likely]] {
        *params = fits.params[lane];
        encode_full<Bits>(values, blocks, fits.encode(lane), words);
      } else {
        const ValueRange range = batch.ranges.of(lane);
        *params = fit_params(range.min, range.max, Bits);
        blocks.skip_group();
        Group whole{};
        whole.index = group;
        whole.size = group_size;
        quantize_any(values, whole, group_size, Bits, *params, rounding, noise, words);
      }
      ++group;
      ++params;
      words += group_size / 32 * Bits;
    }
  });
}

template <class T>
void quantize_groups(const T* x, const PackedView& out, const Rounding& rounding,
                     ElementInterval elements, Footprint footprint) {
  const Noise noise(rounding);
  const std::int64_t group_size = out.layout.group_size;
  GroupCursor cursor(out.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    const CodePlace place = place_of(out, group);
    const T* values = x + (group.first - elements.first);
    GroupParams* params = out.params + group.index;
    std::uint32_t* words = out.words + place.word;
    const std::int64_t count = cursor.full_groups(out.row_bits == nullptr);
    if (count == 0) {
      const ValueRange range = range_of_vectors(values, group.size);
      *params = fit_params(range.min, range.max, place.bits);
      quantize_any(values, group, group_size, place.bits, *params, rounding, noise, words);
      cursor.skip(1);
      continue;
    }
    dispatch_width(place.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const auto quantize_run =
          rounding.is_stochastic ? quantize_full<bits, true, T> : quantize_full<bits, false, T>;
      quantize_run(values, group.index, count, group_size, rounding, noise, footprint, params,
                   words);
    });
    cursor.skip(count);
  }
}

/// Decodes elements [begin, end) of one group of any kind.
template <class T>
ACTPACK_NOINLINE void dequantize_any(const ConstPackedView& in, const Group& group,
                                     const CodePlace& place, const Decoding& decoding,
                                     const Noise& noise, std::int64_t begin, std::int64_t end,
                                     T* x) {
  const GroupParams params = in.params[group.index];
  const auto decode_plainly_or_not = [&](const auto& decode) {
    decode_parts(in.words + place.word, group, in.layout.group_size, place.bits, noise, decode,
                 begin, end, x);
  };
  if (is_near_overflow(params.scale, params.min)) {  // or poisoned
    DitherTile tile(decoding.rounding);
    dequantize_group(tile, in, group, place, decoding, begin, end, x);
  } else if (decoding.is_subtractive()) {
    decode_plainly_or_not(AffineDecode<8, true, T>(params, decoding.alpha));
  } else {
    decode_plainly_or_not(AffineDecode<8, false, T>(params, 0));
  }
}

/// Decodes `count` full groups in sequence, from `group` on.
template <int Bits, bool IsSubtractive, class T>
void dequantize_full(const ConstPackedView& in, Group group, CodePlace place, std::int64_t count,
                     const Decoding& decoding, const Noise& noise, bool is_streamed, T* x) {
  const std::int64_t group_size = in.layout.group_size;
  const std::int64_t last = group.index + count;
  BlockLoop<IsSubtractive> blocks(noise, group.index, group_size);
  for (; group.index < last; ++group.index) {
    const GroupParams params = in.params[group.index];
    if (!is_near_overflow(params.scale, params.min) && has_whole_blocks<IsSubtractive>(group_size))
        [[likely]] {
      decode_full<Bits>(in.words + place.word, blocks,
                        AffineDecode<Bits, IsSubtractive, T>(params, decoding.alpha), is_streamed,
                        x);
    } else {
      blocks.skip_group();
      dequantize_any(in, group, place, decoding, noise, 0, group_size, x);
    }
    place.word += group_size / 32 * Bits;
    x += group_size;
  }
}

template <class T>
void dequantize_groups(const ConstPackedView& in, T* x, const Decoding& decoding,
                       ElementInterval elements, Footprint footprint) {
  const Noise noise(decoding.rounding);
  GroupCursor cursor(in.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    const CodePlace place = place_of(in, group);
    T* values = x + (group.first - elements.first);
    const std::int64_t count = cursor.full_groups(in.row_bits == nullptr);
    if (count == 0) {
      const ElementInterval part = part_of(group, elements);
      dequantize_any(in, group, place, decoding, noise, part.first, part.end, values);
      cursor.skip(1);
      continue;
    }
    dispatch_width(place.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const auto dequantize_run = decoding.is_subtractive() ? dequantize_full<bits, true, T>
                                                            : dequantize_full<bits, false, T>;
      dequantize_run(in, group, place, count, decoding, noise, is_streamed(values, footprint),
                     values);
    });
    cursor.skip(count);
  }
  if (footprint == Footprint::memory) {
    _mm_sfence();
  }
}
