// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Sign-magnitude codes of groups: the loops of sign_magnitude_groups.hpp, in vectors.

/// Turns values into positions: as `SideEncoder`. Writes the sign bits, too, of elements whose
/// first one is in byte 0 of `signs`.
struct SideEncode {
  Floats positive_steps, negative_steps;
  std::uint8_t* signs;

  template <class Add>
  ACTPACK_INLINE Ints operator()(Floats y, std::int64_t element, Floats dithers, Add add) const {
    const Lanes positive = is_positive(y);
    store_lanes(signs + element / 8, positive);
    return add(magnitude(y), select(positive, positive_steps, negative_steps), dithers);
  }
  SideEncode with_signs_in(std::uint8_t* bytes) const {
    return {positive_steps, negative_steps, bytes};
  }
};

/// Turns codes into values: as `SideDecoder`, far from overflow.
template <bool IsSubtractive>
struct SideDecode {
  static constexpr bool is_subtractive = IsSubtractive;
  static constexpr bool has_levels = false;  // they depend on the sign
  Floats positive_scale, negative_scale, minus_alpha;
  const std::uint8_t* signs;

  SideDecode(SignMagnitudeParams params, NegativeSide negative_side, float alpha,
             const std::uint32_t* sign_words)
      : positive_scale(broadcast(unit * params.positive)),
        negative_scale(
            broadcast(negative_side == NegativeSide::zero ? 0 : -unit * params.negative)),
        minus_alpha(broadcast(-alpha)), signs(reinterpret_cast<const std::uint8_t*>(sign_words)) {}

  ACTPACK_INLINE Floats operator()(Floats positions, std::int64_t element) const {
    const Lanes is_positive = load_lanes(signs + element / 8);
    return without_negative_zero(
        multiply(positions, select(is_positive, positive_scale, negative_scale)));
  }
  SideDecode with_padded_signs(std::int64_t start, std::int64_t last, std::uint8_t* padded) const {
    std::copy(signs + start / 8, signs + (last + 7) / 8, padded);
    SideDecode other = *this;
    other.signs = padded;
    return other;
  }

 private:
  static constexpr float unit = IsSubtractive ? 0x1p-15f : 1.0f;
};

/// Writes the sign bits of `size` elements.
template <class T>
void write_signs(const T* y, std::int64_t size, std::uint32_t* words) {
  std::int64_t first = 0;
  for (; first + 32 <= size; first += 32) {
    *words++ = positive_bits(y + first);
  }
  fill_mask(words, size - first, [&](std::int64_t e) { return y[first + e] > 0; });
}

/// Whether `SideEncode` serves a group: four times the steps per unit of either side are finite;
/// not if it is poisoned (NaN compares false).
inline bool is_plain(SignMagnitudeParams params) {
  const auto has_steps = [](float scale) { return scale == 0 || scale > smallest_scale; };
  return has_steps(params.positive) && has_steps(params.negative);
}

/// As `fit_sides` and `side_encode`, for a group in each lane.
template <int Bits>
struct SideFits {
  alignas(64) SignMagnitudeParams params[lanes];
  alignas(64) float positive_steps[lanes];
  alignas(64) float negative_steps[lanes];
  std::uint32_t plain;  // a bit for each lane: whether the others are right

  explicit SideFits(const Ranges& ranges) {
    const Floats zero = broadcast(0.0f);
    const Floats min = load(ranges.min);
    const Floats max = load(ranges.max);
    const Scales<Bits> positive(maximum(zero, max));
    const Scales<Bits> negative(maximum(zero, subtract(zero, min)));
    store_bits(params, bit_or(shift_right<16>(positive.scale), negative.scale));
    store(positive_steps, positive.steps);
    store(negative_steps, negative.steps);
    plain = are_ordinary(min, max) & positive.are_finite() & negative.are_finite();
  }
  SideEncode encode(int lane, std::uint32_t* signs) const {
    return {broadcast(positive_steps[lane]), broadcast(negative_steps[lane]),
            reinterpret_cast<std::uint8_t*>(signs)};
  }
};

/// Without a place for signs yet.
template <int Bits>
SideEncode side_encode(SignMagnitudeParams params) {
  constexpr float unit = 1 << shift_in_position<Bits>;
  return {broadcast(unit * steps_per_unit(params.positive)),
          broadcast(unit * steps_per_unit(params.negative)), nullptr};
}

/// Writes the codes of one group of any kind.
template <class T>
ACTPACK_NOINLINE void encode_any(const T* y, const Group& group, const Layout& layout,
                                 SignMagnitudeParams params, const Rounding& rounding,
                                 const Noise& noise, std::uint32_t* signs,
                                 std::uint32_t* magnitudes) {
  if (!is_plain(params)) {
    DitherTile tile(rounding);
    encode_group(tile, y, group, layout, params, signs, magnitudes);
    return;
  }
  write_signs(y, group.size, signs);
  const auto encode_magnitudes = [&](auto width, auto has_noise) {
    constexpr int same_shift = decltype(width)::bits;
    encode_parts<same_shift, has_noise.value>(y, group, layout.group_size, layout.bits, noise,
                                              side_encode<same_shift>(params), magnitudes);
  };
  if (layout.bits == 8) {
    rounding.is_stochastic ? encode_magnitudes(Width<8>{}, std::true_type{})
                           : encode_magnitudes(Width<8>{}, std::false_type{});
  } else {
    rounding.is_stochastic ? encode_magnitudes(Width<4>{}, std::true_type{})
                           : encode_magnitudes(Width<4>{}, std::false_type{});
  }
}

/// Encodes `count` full groups in sequence, from `group` on; `y` is the first value.
template <int Bits, bool HasNoise, class T>
void encode_full_groups(const T* y, const SignMagnitudeView& out, const Group& group,
                        std::int64_t count, const Rounding& rounding, const Noise& noise,
                        Footprint footprint) {
  const std::int64_t group_size = out.layout.group_size;
  const SignMagnitudePlace place(out.layout, group);
  std::uint32_t* signs = out.sign_words + place.sign_word;
  std::uint32_t* magnitudes = out.magnitude_words + place.magnitude_word;
  BlockLoop<HasNoise> blocks(noise, group.index, group_size);
  Group whole = group;
  for_each_batch(y, count, group_size, footprint, [&](const Batch<T>& batch) {
    const SideFits<Bits> fits(batch.ranges);
    for (int lane = 0; lane < batch.size; ++lane) {
      batch.prefetch(lane);
      const T* values = batch.group(lane);
      SignMagnitudeParams& params = out.params[whole.index];
      if ((fits.plain >> lane & 1) != 0 && has_whole_blocks<HasNoise>(group_size)) [[likely]] {
        params = fits.params[lane];
        encode_full<Bits>(values, blocks, fits.encode(lane, signs), magnitudes);
      } else {
        params = fit_sides(batch.ranges.of(lane), Bits);
        blocks.skip_group();
        encode_any(values, whole, out.layout, params, rounding, noise, signs, magnitudes);
      }
      ++whole.index;
      signs += group_size / 32;
      magnitudes += group_size / 32 * Bits;
    }
  });
}

template <class T>
void encode_groups(const T* y, const SignMagnitudeView& out, const Rounding& rounding,
                   ElementInterval elements, Footprint footprint) {
  const Noise noise(rounding);
  GroupCursor cursor(out.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    const T* values = y + (group.first - elements.first);
    const std::int64_t count = cursor.full_groups(true);
    if (count == 0) {
      const SignMagnitudePlace place(out.layout, group);
      const SignMagnitudeParams params =
          fit_sides(range_of_vectors(values, group.size), out.layout.bits);
      out.params[group.index] = params;
      encode_any(values, group, out.layout, params, rounding, noise,
                 out.sign_words + place.sign_word, out.magnitude_words + place.magnitude_word);
      cursor.advance();
      continue;
    }
    dispatch_width(out.layout.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const auto encode_run = rounding.is_stochastic ? encode_full_groups<bits, true, T>
                                                     : encode_full_groups<bits, false, T>;
      encode_run(values, out, group, count, rounding, noise, footprint);
    });
    cursor.skip(count);
  }
}

/// Decodes elements [begin, end) of one group of any kind.
template <class T>
ACTPACK_NOINLINE void decode_any(const ConstSignMagnitudeView& in, const Group& group,
                                 const Decoding& decoding, NegativeSide negative_side,
                                 const Noise& noise, std::int64_t begin, std::int64_t end, T* y) {
  const SignMagnitudeParams params = in.params[group.index];
  const SignMagnitudePlace place(in.layout, group);
  const std::uint32_t* signs = in.sign_words + place.sign_word;
  const auto decode_plainly_or_not = [&](const auto& decode) {
    decode_parts(in.magnitude_words + place.magnitude_word, group, in.layout.group_size,
                 in.layout.bits, noise, decode, begin, end, y);
  };
  if (is_near_overflow(params)) {  // or poisoned
    DitherTile tile(decoding.rounding);
    decode_group(tile, in, group, decoding, negative_side, begin, end, y);
  } else if (decoding.is_subtractive()) {
    decode_plainly_or_not(SideDecode<true>(params, negative_side, decoding.alpha, signs));
  } else {
    decode_plainly_or_not(SideDecode<false>(params, negative_side, 0, signs));
  }
}

/// Decodes `count` full groups in sequence, from `group` on.
template <int Bits, bool IsSubtractive, class T>
void decode_full_groups(const ConstSignMagnitudeView& in, Group group, std::int64_t count,
                        const Decoding& decoding, NegativeSide negative_side, const Noise& noise,
                        bool is_streamed, T* y) {
  const std::int64_t group_size = in.layout.group_size;
  const SignMagnitudePlace place(in.layout, group);
  const std::uint32_t* signs = in.sign_words + place.sign_word;
  const std::uint32_t* magnitudes = in.magnitude_words + place.magnitude_word;
  BlockLoop<IsSubtractive> blocks(noise, group.index, group_size);
  for (std::int64_t i = 0; i < count; ++i) {
    const SignMagnitudeParams params = in.params[group.index];
    if (!is_near_overflow(params) && has_whole_blocks<IsSubtractive>(group_size)) [[likely]] {
      decode_full<Bits>(magnitudes, blocks,
                        SideDecode<IsSubtractive>(params, negative_side, decoding.alpha, signs),
                        is_streamed, y);
    } else {
      blocks.skip_group();
      decode_any(in, group, decoding, negative_side, noise, 0, group_size, y);
    }
    signs += group_size / 32;
    magnitudes += group_size / 32 * Bits;
    y += group_size;
    ++group.index;
    group.column += group_size;
  }
}

template <class T>
void decode_groups(const ConstSignMagnitudeView& in, T* y, const Decoding& decoding,
                   NegativeSide negative_side, ElementInterval elements, Footprint footprint) {
  const Noise noise(decoding.rounding);
  GroupCursor cursor(in.layout, elements);
  while (cursor.has_group()) {
    const Group group = cursor.group();
    T* values = y + (group.first - elements.first);
    const std::int64_t count = cursor.full_groups(true);
    if (count == 0) {
      const ElementInterval part = part_of(group, elements);
      decode_any(in, group, decoding, negative_side, noise, part.first, part.end, values);
      cursor.advance();
      continue;
    }
    dispatch_width(in.layout.bits, [&](auto width) {
      constexpr int bits = decltype(width)::bits;
      const auto decode_run = decoding.is_subtractive() ? decode_full_groups<bits, true, T>
                                                        : decode_full_groups<bits, false, T>;
      decode_run(in, group, count, decoding, negative_side, noise, is_streamed(values, footprint),
                 values);
    });
    cursor.skip(count);
  }
  if (footprint == Footprint::memory) {
    _mm_sfence();
  }
}
