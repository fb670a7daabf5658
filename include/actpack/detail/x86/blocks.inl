// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Blocks of elements to codes, and codes to elements.

/// Calls visit(start, first, last, random) for the blocks that hold elements [begin, end) of any
/// group: of the block at `start`, elements [first, last) are among them.
template <class Visit>
void for_each_block(const Noise& noise, bool has_noise, std::int64_t group, std::int64_t group_size,
                    std::int64_t begin, std::int64_t end, Visit visit) {
  const std::int64_t first_call = group * (group_size / elements_per_call);
  NoiseTile tile;
  const auto draw = [&](std::int64_t offset) {
    if (has_noise) {
      noise.draw(first_call + offset / elements_per_half_call, tile);
    }
  };
  for_each_strip<NoiseTile::size>(
      has_noise ? group_size / 2 : group_size, begin, end, draw,
      [&](std::int64_t strip, std::int64_t first, std::int64_t last, int upper) {
        const std::uint8_t* random = upper != 0 ? tile.upper : tile.lower;
        for (std::int64_t start = strip; start < last; start += block) {
          if (first < start + block) {
            visit(start, (std::max)(first, start), (std::min)(last, start + block),
                  random + (start - strip));
          }
        }
      });
}

// ---- Elements to codes.

inline constexpr std::uint32_t two_to_23 = 0x4B000000u;  // its bits

/// 2^23 and the dithers of vector number `Vector` of a block, as integers shifted by
/// `shift_in_position`; to nearest without noise.
template <int Bits, bool HasNoise, int Vector>
inline Floats dithers(const std::uint8_t* random) {
  constexpr int shift = shift_in_position<Bits>;
  const Ints base = broadcast(two_to_23 | (HasNoise ? 0 : half_step << shift));
  if constexpr (!HasNoise) {
    return as_floats(base);
  } else {  // nothing needs the two lowest bits
    const Ints upper_14 = broadcast(0xFFFCu);
    const Ints flips = broadcast_odd(0x00FFu & 0xFFFCu);
    if constexpr (shift == 2) {
      return as_floats(and_xor(spread(random + Vector * lanes), upper_14, bit_or(flips, base)));
    } else {
      return as_floats(
          bit_or(shift_right<2>(and_xor(spread(random + Vector * lanes), upper_14, flips)), base));
    }
  }
}

/// The positions of vector number `Vector` of a block of elements plus their dithers, shifted so
/// that codes are the low bytes of upper halves. Sums are right if `IsExact`, else as `add_about`.
template <int Bits, bool HasNoise, int Vector, bool IsExact, class T, class Encode>
ACTPACK_INLINE inline Ints add_dithers(const T* x, std::int64_t start, const std::uint8_t* random,
                                       const Encode& encode) {
  const std::int64_t element = start + Vector * lanes;
  const Floats dither = dithers<Bits, HasNoise, Vector>(random);
  const Distance of = encode(load(x + element), element);
  return shift_left<2 - shift_in_position<Bits>>(IsExact
                                                     ? add_floor(of.distance, of.steps, dither)
                                                     : add_about(of.distance, of.steps, dither));
}

/// The codes of a block of elements, one a byte, by exact sums.
template <int Bits, bool HasNoise, class T, class Encode>
ACTPACK_NOINLINE Ints encode_block_exactly(const T* x, std::int64_t start,
                                           const std::uint8_t* random, Encode encode) {
  return gather_codes(add_dithers<Bits, HasNoise, 0, true>(x, start, random, encode),
                      add_dithers<Bits, HasNoise, 1, true>(x, start, random, encode),
                      add_dithers<Bits, HasNoise, 2, true>(x, start, random, encode),
                      add_dithers<Bits, HasNoise, 3, true>(x, start, random, encode));
}

/// The same. A sum that is one too large changes a code only where that makes its low half 0.
template <int Bits, bool HasNoise, class T, class Encode>
ACTPACK_INLINE inline Ints encode_block(const T* x, std::int64_t start, const std::uint8_t* random,
                                        const Encode& encode) {
  const Ints a = add_dithers<Bits, HasNoise, 0, false>(x, start, random, encode);
  const Ints b = add_dithers<Bits, HasNoise, 1, false>(x, start, random, encode);
  const Ints c = add_dithers<Bits, HasNoise, 2, false>(x, start, random, encode);
  const Ints d = add_dithers<Bits, HasNoise, 3, false>(x, start, random, encode);
  if constexpr (!has_exact_add) {
    if (has_zero_half(a, b, c, d)) [[unlikely]] {
      return encode_block_exactly<Bits, HasNoise>(x, start, random, encode);
    }
  }
  return gather_codes(a, b, c, d);
}

/// Writes the codes of all elements of a group of any size. `Bits` only chooses the shift of
/// `encode`; the codes have `bits` bits.
template <int Bits, bool HasNoise, class T, class Encode>
void encode_blocks(const T* x, const Group& group, std::int64_t group_size, int bits,
                   const Noise& noise, const Encode& encode, std::uint32_t* words) {
  std::fill_n(words, words_for(group.size, bits), 0u);  // insert_codes adds to them
  auto* bytes = reinterpret_cast<std::uint8_t*>(words);
  for_each_block(
      noise, HasNoise, group.index, group_size, 0, group.size,
      [&](std::int64_t start, std::int64_t first, std::int64_t last, const std::uint8_t* random) {
        T padded[block];
        const T* values = x + start;
        if (last - first < block) {
          std::fill_n(padded, block, x[first]);
          std::copy(x + first, x + last, padded);
          values = padded;
        }
        std::uint8_t signs[block / 8];
        const Ints codes =
            encode_block<Bits, HasNoise>(values, 0, random, encode.with_signs_in(signs));
        if (last - first < block) {
          std::uint8_t in_bytes[block];
          store_bits(in_bytes, codes);
          insert_codes(in_bytes, last - first, bits, words, first);
        } else {
          dispatch_width(bits, [&](auto width) {
            store_codes<decltype(width)::bits>(bytes + start / 8 * bits, codes);
          });
        }
      });
}

/// Writes the codes of the next group of `blocks`.
template <int Bits, bool HasNoise, class T, class Encode>
ACTPACK_INLINE inline void encode_full(const T* x, BlockLoop<HasNoise>& blocks,
                                       const Encode& encode, std::uint32_t* words) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(words);
  blocks.next_group([&](std::int64_t start, const std::uint8_t* random) ACTPACK_INLINE {
    store_codes<Bits>(bytes + start / 8 * Bits,
                      encode_block<Bits, HasNoise>(x, start, random, encode));
  });
}

// ---- Codes to elements.

/// The positions of the codes of vector number `Vector` of a block, less alpha times their dithers,
/// in steps of 2^−15, as `position_of`.
template <int Vector>
inline Floats positions_of(Ints codes, const std::uint8_t* random, Floats minus_alpha) {
  constexpr std::uint32_t two_to_22 = 0x4A800000u;  // its bits: half-integers fit after it
  const Ints twice_dithers =
      and_xor(spread(random + Vector * lanes), broadcast(0xFFFCu),
              bit_or(broadcast_odd(0x00FFu & 0xFFFCu), broadcast(two_to_22)));
  const Floats centred =
      subtract(as_floats(twice_dithers), broadcast(0x1p22f + ((1 << fraction_bits) - 1)));
  return fused(minus_alpha, centred, to_floats(shift_left<fraction_bits + 1>(codes)));
}

/// Returns vector number `Vector` of a block of elements, rounded. decode(positions, element): the
/// values of `lanes` elements from `element` on, at their codes or, if `is_subtractive`, at
/// `positions_of`.
template <int Bits, int Vector, class T, class Decode>
ACTPACK_INLINE inline Floats decode_vector(const std::uint8_t* codes, const std::uint8_t* random,
                                           const Decode& decode, std::int64_t start) {
  constexpr int first = Vector * lanes;
  codes += first / 8 * Bits;
  if constexpr (Decode::is_subtractive) {
    const Floats positions =
        positions_of<Vector>(load_codes<Bits>(codes), random, decode.minus_alpha);
    return rounded<T>(decode(positions, start + first));
  } else if constexpr (Decode::has_levels) {
    return look_up<Bits>(decode.levels, load_shifted<Bits>(codes));
  } else {
    return rounded<T>(decode(to_floats(load_codes<Bits>(codes)), start + first));
  }
}

/// Writes a block of elements, past the caches if `is_streamed`.
template <int Bits, class T, class Decode>
ACTPACK_INLINE inline void decode_block(const std::uint8_t* codes, const std::uint8_t* random,
                                        const Decode& decode, std::int64_t start, bool is_streamed,
                                        T* x) {
  const Floats a = decode_vector<Bits, 0, T>(codes, random, decode, start);
  const Floats b = decode_vector<Bits, 1, T>(codes, random, decode, start);
  const Floats c = decode_vector<Bits, 2, T>(codes, random, decode, start);
  const Floats d = decode_vector<Bits, 3, T>(codes, random, decode, start);
  if (is_streamed) {
    stream_rounded(x, a);
    stream_rounded(x + lanes, b);
    stream_rounded(x + 2 * lanes, c);
    stream_rounded(x + 3 * lanes, d);
  } else {
    store_rounded(x, a);
    store_rounded(x + lanes, b);
    store_rounded(x + 2 * lanes, c);
    store_rounded(x + 3 * lanes, d);
  }
}

/// Whether to write full groups that start at x past the caches.
template <class T>
bool is_streamed(const T* x, Footprint footprint) {
  return footprint == Footprint::memory && reinterpret_cast<std::uintptr_t>(x) % 64 == 0;
}

/// Copies a block of codes to bytes.
template <int Bits>
void unpack_block(const std::uint8_t* from, std::uint8_t* codes) {
  const auto third_bytes = [&](int first) {
    return shift_left<16>(load_codes<Bits>(from + first / 8 * Bits));
  };
  store_bits(codes, gather_codes(third_bytes(0), third_bytes(lanes), third_bytes(2 * lanes),
                                 third_bytes(3 * lanes)));
}

/// Writes the elements of a group of any size that are in `interval`; `x` is where its element 0 is
/// or would be.
template <class T, class Decode>
void decode_blocks(const std::uint32_t* words, const Group& group, std::int64_t group_size,
                   int bits, const Noise& noise, const Decode& decode, ElementInterval interval,
                   T* x) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(words);
  for_each_block(
      noise, Decode::is_subtractive, group.index, group_size, interval.first, interval.end,
      [&](std::int64_t start, std::int64_t first, std::int64_t last, const std::uint8_t* random) {
        std::uint8_t codes[block] = {};
        std::uint8_t signs[block / 8] = {};
        const auto padded = decode.with_padded_signs(start, last, signs);
        if (last - first == block) {
          dispatch_width(bits, [&](auto width) {
            unpack_block<decltype(width)::bits>(bytes + start / 8 * bits, codes);
          });
          decode_block<8>(codes, random, padded, 0, false, x + start);
        } else {
          extract_codes(words, first, last - first, bits, codes + (first - start));
          T values[block];
          decode_block<8>(codes, random, padded, 0, false, values);
          std::copy(values + (first - start), values + (last - start), x + first);
        }
      });
}

/// Writes all elements of the next group of `blocks`.
template <int Bits, class T, class Decode>
ACTPACK_INLINE inline void decode_full(const std::uint32_t* words,
                                       BlockLoop<Decode::is_subtractive>& blocks,
                                       const Decode& decode, bool is_streamed, T* x) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(words);
  blocks.next_group([&](std::int64_t start, const std::uint8_t* random) ACTPACK_INLINE {
    decode_block<Bits>(bytes + start / 8 * Bits, random, decode, start, is_streamed, x + start);
  });
}
