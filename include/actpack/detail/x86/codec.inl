// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What all kernels on groups share: the range of some elements, their random bits, and the loops
// that turn elements into codes and codes into elements.

// ---- Ranges.

/// As `range_of` of 2-byte types, but a zero may have either sign. Of numbers' bits as integers,
/// the largest signed one is the largest number unless all are negative, the largest unsigned one
/// is the smallest number if any is negative, and the smallest unsigned one is either otherwise;
/// NaN is beyond ±∞ in each of the three orders.
template <class T>
ACTPACK_NOINLINE ValueRange range_of_vectors(const T* x, std::int64_t size) {
  constexpr int step = static_cast<int>(sizeof(Ints) / sizeof(T));
  if (size < step) {
    return range_of(x, size);
  }
  Ints least = load_bits(x);
  Ints most = least;
  Ints most_signed = least;
  const auto add = [&](const T* elements) {
    const Ints bits = load_bits(elements);
    least = min_unsigned16(least, bits);
    most = max_unsigned16(most, bits);
    most_signed = max_signed16(most_signed, bits);
  };
#pragma GCC unroll 4
  for (std::int64_t i = step; i + step <= size; i += step) {
    add(x + i);
  }
  if (size % step != 0) {
    add(x + size - step);
  }
  // Complements turn largest into smallest.
  constexpr std::uint32_t sign = 0x8000;
  const std::uint32_t smallest = least_of(least);
  const std::uint32_t largest = least_of(bit_xor(most, broadcast(0xFFFFFFFFu))) ^ 0xFFFF;
  const std::uint32_t largest_signed =
      least_of(bit_xor(most_signed, broadcast(0x7FFF7FFFu))) ^ 0x7FFF;
  const std::uint32_t min = (largest & sign) != 0 ? largest : smallest;
  const std::uint32_t max = (largest_signed & sign) == 0 ? largest_signed : smallest;
  return {T::from_bits(static_cast<std::uint16_t>(min)),
          T::from_bits(static_cast<std::uint16_t>(max))};
}

/// Of floats by their values: two operations a vector, and one for two that looks for NaN.
template <>
ACTPACK_NOINLINE inline ValueRange range_of_vectors(const float* x, std::int64_t size) {
  if (size < lanes) {
    return range_of(x, size);
  }
  const float* last = x + size - lanes;
  Floats least[2] = {load(x), load(last)};  // two, as each operation takes several cycles
  Floats most[2] = {least[0], least[1]};
  Lanes ordered = are_ordered(to_lanes(~0u), least[0], least[1]);
  const auto add = [&](Floats a, Floats b) ACTPACK_INLINE {
    least[0] = minimum(least[0], a);
    least[1] = minimum(least[1], b);
    most[0] = maximum(most[0], a);
    most[1] = maximum(most[1], b);
    ordered = are_ordered(ordered, a, b);
  };
  const float* element = x + lanes;
#pragma GCC unroll 4
  for (; element + lanes < last; element += 2 * lanes) {
    add(load(element), load(element + lanes));
  }
  if (element < last) {
    add(load(element), least[1]);
  }
  if (to_bits(ordered) != (1u << lanes) - 1) [[unlikely]] {
    return {poisoned_params.min, poisoned_params.min};
  }
  // The greatest of the negatives is the negative of the smallest: one reduction does for both.
  const __m128 low = fold_min(minimum(least[0], least[1]));
  const __m128 high = fold_min(subtract(broadcast(0.0f), maximum(most[0], most[1])));
  const __m128 pairs = _mm_min_ps(_mm_unpacklo_ps(low, high), _mm_unpackhi_ps(low, high));
  const __m128 both = _mm_min_ps(pairs, _mm_movehl_ps(pairs, pairs));
  return {_mm_cvtss_f32(both), -_mm_cvtss_f32(_mm_movehdup_ps(both))};
}

/// The shift that takes codes of a position, in steps of 2^−14, to byte 2 of a lane. Eight bits
/// and the steps leave no room for it in a float's 23.
template <int Bits>
inline constexpr int shift_in_position = Bits == 8 ? 0 : 2;

// ---- Batches: as many full groups in sequence as fit the first-level cache, at most one a lane.
// Their ranges are taken and their parameters fitted together, then they are encoded.

/// The smallest and largest values of groups, one in a lane; 0 in the other lanes.
struct Ranges {
  alignas(64) float min[lanes] = {};
  alignas(64) float max[lanes] = {};

  ValueRange of(int lane) const { return {min[lane], max[lane]}; }
};

template <class T>
struct Batch {
  static constexpr std::int64_t line = 64 / sizeof(T);

  const T* x;
  std::int64_t group_size;
  int size;
  std::int64_t ahead;  // how far in front elements are asked for; 0: not at all
  Ranges ranges;

  const T* group(int lane) const { return x + lane * group_size; }

  /// Asks for the elements of the group that comes a batch after lane's.
  ACTPACK_INLINE void prefetch(int lane) const {
    if (ahead != 0) {
      const T* next = group(lane) + ahead;
      for (std::int64_t e = 0; e < group_size; e += line) {
        __builtin_prefetch(next + e);
      }
    }
  }
};

/// Calls visit(batch) for batches that together are `count` full groups in sequence from x on.
template <class T, class Visit>
void for_each_batch(const T* x, std::int64_t count, std::int64_t group_size, Footprint footprint,
                    Visit visit) {
  constexpr std::int64_t elements = 16384 / sizeof(T);
  const std::int64_t most = std::clamp<std::int64_t>(elements / group_size, 1, lanes);
  Batch<T> batch{};
  batch.group_size = group_size;
  // Hardware foresees steady reading, not bursts of a batch.
  batch.ahead = footprint == Footprint::near ? 0 : most * group_size;
  for (std::int64_t first = 0; first < count; first += most) {
    batch.x = x + first * group_size;
    batch.size = static_cast<int>(std::min(most, count - first));
    for (int lane = 0; lane < batch.size; ++lane) {
      const ValueRange range = range_of_vectors(batch.group(lane), group_size);
      batch.ranges.min[lane] = range.min;
      batch.ranges.max[lane] = range.max;
    }
    visit(batch);
  }
}

/// A bit for each lane: whether is_ordinary of its range.
inline std::uint32_t are_ordinary(Floats min, Floats max) {
  const Floats limit = broadcast(ordinary_limit);
  return to_bits(is_less(magnitude(min), limit)) & to_bits(is_less(magnitude(max), limit));
}

/// round_down of numbers; the results' bits as floats.
inline Ints round_down(Floats x) {
  const Ints bits = as_ints(x);
  const Ints away = add_where(is_less(x, broadcast(0.0f)), bits, 0xFFFF);
  return bit_and(away, broadcast(0xFFFF0000u));
}

/// The smallest float ≥ high − low in each lane, as subtract_up.
inline Floats subtract_up(Floats high, Floats low) {
  const Floats rounded = subtract(high, low);
  const Floats high_part = add_floats(rounded, low);
  const Floats low_part = subtract(high_part, rounded);
  const Floats error = add_floats(subtract(high, high_part), subtract(low_part, low));
  return as_floats(add_where(is_positive(error), as_ints(rounded), 1));
}

/// fit_scale of ordinary ranges, and the steps per unit that encoding wants.
template <int Bits>
struct Scales {
  Ints scale;    // the bits of floats
  Floats steps;  // ∞ for the smallest scale, if steps are shifted

  explicit Scales(Floats range) {
    const Floats zero = broadcast(0.0f);
    const Floats smallest = select(is_positive(range), broadcast(smallest_scale), zero);
    const Floats quotient = multiply(range, broadcast(above_inverse(Bits)));
    const Floats truncated = as_floats(bit_and(as_ints(quotient), broadcast(0xFFFF0000u)));
    const Floats candidate = maximum(truncated, smallest);
    const Floats covered = multiply(candidate, broadcast(static_cast<float>(max_code(Bits))));
    scale = add_where(is_less(covered, range), as_ints(candidate), 0x10000);
    constexpr float unit = 1 << shift_in_position<Bits>;
    const Floats reciprocal = divide(broadcast(unit * 0x1p14f), as_floats(scale));
    steps = select(is_positive(as_floats(scale)), reciprocal, zero);
  }

  /// A bit for each lane: whether its steps are finite.
  std::uint32_t are_finite() const {
    return to_bits(is_less(steps, as_floats(broadcast(infinity_bits))));
  }
};

/// One bit for each of 32 elements: whether it is above 0.
template <class T>
inline std::uint32_t positive_bits(const T* x) {
  std::uint32_t bits = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 32; i += lanes) {
    bits |= to_bits(is_positive(load(x + i))) << i;
  }
  return bits;
}

// ---- Random bits.

/// Elements worked on at a time: four vectors, for which one register has random bytes.
inline constexpr int block = 4 * lanes;

/// The random bytes of `size` elements in the lower halves of groups, and of those half a group
/// further: groups that follow each other have calls that do.
struct NoiseTile {
  static constexpr int size = 4 * block;
  alignas(64) std::uint8_t lower[size];
  alignas(64) std::uint8_t upper[size];
};

/// Philox calls, a tile of them at a time: the rounds of one alone would wait for each other.
class Noise {
 public:
  explicit Noise(const Rounding& rounding) : offset_(rounding.offset) {
    const PhiloxKeys<> keys(rounding.seed);
    for (int round = 0; round < rounds; ++round) {
      keys_[round][0] = broadcast_key(keys.key[round][0]);
      keys_[round][1] = broadcast_key(keys.key[round][1]);
    }
  }

  ACTPACK_NOINLINE void draw(std::int64_t first_call, NoiseTile& tile) const {
    constexpr int draws = NoiseTile::size / block;
    Ints low[draws];   // words 0 and 1
    Ints high[draws];  // words 2 and 3
#pragma GCC unroll 4
    for (int i = 0; i < draws; ++i) {
      low[i] = count_from(static_cast<std::uint64_t>(first_call + i * (lanes / 2)));
      high[i] = broadcast64(offset_);
    }
#pragma GCC unroll 7
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 4
      for (int i = 0; i < draws; ++i) {
        const Ints p0 = multiply(low[i], 0xD2511F53);
        const Ints p1 = multiply(high[i], 0xCD9E8D57);
        low[i] = next_counter(p1, low[i], keys_[round][0]);
        high[i] = next_counter(p0, high[i], keys_[round][1]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < draws; ++i) {
      store_bits(tile.lower + i * block, low[i]);
      store_bits(tile.upper + i * block, high[i]);
    }
  }

 private:
  static constexpr int rounds = 7;
  std::uint64_t offset_;
  Ints keys_[rounds][2];
};

/// Whether full groups of that size are whole blocks, in each half if there is noise.
template <bool HasNoise>
constexpr bool has_whole_blocks(std::int64_t group_size) {
  return group_size % ((HasNoise ? 2 : 1) * block) == 0;
}

/// Calls visit(start, random) for the blocks of full groups that `has_whole_blocks`, one group
/// after the other, with their first elements and random bytes.
template <bool HasNoise>
class BlockLoop {
 public:
  /// `group`: the number of the first group in its tensor.
  BlockLoop(const Noise& noise, std::int64_t group, std::int64_t group_size)
      : noise_(noise), group_size_(group_size),
        first_call_(group * (group_size / elements_per_call)) {}

  template <class Visit>
  ACTPACK_INLINE void next_group(Visit visit) {
    if constexpr (HasNoise) {
      for (std::int64_t start = 0; start < group_size_ / 2; start += block) {
        const std::int64_t in_tile = position_ % NoiseTile::size;
        if (position_ - in_tile != tile_position_) {
          tile_position_ = position_ - in_tile;
          noise_.draw(first_call_ + tile_position_ / elements_per_half_call, tile_);
        }
        position_ += block;
        visit(start, tile_.lower + in_tile);
        visit(group_size_ / 2 + start, tile_.upper + in_tile);
      }
    } else {
      for (std::int64_t start = 0; start < group_size_; start += block) {
        visit(start, nullptr);
      }
    }
  }

  void skip_group() { position_ += group_size_ / 2; }

 private:
  const Noise& noise_;
  std::int64_t group_size_, first_call_;
  std::int64_t position_ = 0;        // among the elements of all lower halves
  std::int64_t tile_position_ = -1;  // of the first that `tile_` is for
  NoiseTile tile_;
};

/// Calls visit(start, first, last, random) for parts of blocks, elements [first, last) of the block
/// at `start`, that together are elements [begin, end) of any group.
template <class Visit>
void for_each_part(const Noise& noise, bool has_noise, std::int64_t group, std::int64_t group_size,
                   std::int64_t begin, std::int64_t end, Visit visit) {
  const std::int64_t half = has_noise ? group_size / 2 : group_size;
  const std::int64_t first_call = group * (group_size / elements_per_call);
  const bool only_lower = end <= half;
  const bool only_upper = begin >= half;
  const std::int64_t from = only_lower ? begin : only_upper ? begin - half : 0;
  const std::int64_t to = only_lower ? end : only_upper ? end - half : half;
  NoiseTile tile;
  const auto visit_part = [&](std::int64_t start, std::int64_t limit, const std::uint8_t* random) {
    const std::int64_t first = std::max(start, begin);
    const std::int64_t last = std::min({start + block, limit, end});
    if (first < last) {
      visit(start, first, last, random);
    }
  };
  for (std::int64_t start = from / NoiseTile::size * NoiseTile::size; start < to; start += block) {
    const std::int64_t in_tile = start % NoiseTile::size;
    if (has_noise && in_tile == 0) {
      noise.draw(first_call + start / elements_per_half_call, tile);
    }
    visit_part(start, half, tile.lower + in_tile);
    if (has_noise) {
      visit_part(half + start, end, tile.upper + in_tile);
    }
  }
}

// ---- Elements to codes.

/// The two ways to add, for `add_dithers` to choose from.
struct AddAbout {
  ACTPACK_INLINE Ints operator()(Floats distance, Floats steps, Floats addend) const {
    return add_about(distance, steps, addend);
  }
};
struct AddFloor {
  ACTPACK_INLINE Ints operator()(Floats distance, Floats steps, Floats addend) const {
    return add_floor(distance, steps, addend);
  }
};

inline constexpr std::uint32_t two_to_23 = 0x4B000000u;  // its bits

/// 2^23 and the dithers of vector number `Vector` of a block, as integers shifted by
/// `shift_in_position`; to nearest without noise.
template <int Bits, bool HasNoise, int Vector>
inline Floats dithers(const std::uint8_t* random) {
  constexpr int shift = shift_in_position<Bits>;
  const Ints base = broadcast(two_to_23 | (HasNoise ? 0 : half_step << shift));
  if constexpr (!HasNoise) {
    return as_floats(base);
  } else {  // the two lowest bits serve nobody
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
/// that codes are the low bytes of upper halves. encode(x, dithers, add): the bits of the sum that
/// `add` makes.
template <int Bits, bool HasNoise, int Vector, class T, class Encode, class Add>
ACTPACK_INLINE inline Ints add_dithers(const T* x, std::int64_t start, const std::uint8_t* random,
                                       const Encode& encode, Add add) {
  const std::int64_t element = start + Vector * lanes;
  const Floats dither = dithers<Bits, HasNoise, Vector>(random);
  return shift_left<2 - shift_in_position<Bits>>(encode(load(x + element), element, dither, add));
}

/// The codes of a block of elements, one a byte, by sums that are right.
template <int Bits, bool HasNoise, class T, class Encode>
ACTPACK_NOINLINE Ints encode_block_exactly(const T* x, std::int64_t start,
                                           const std::uint8_t* random, Encode encode) {
  return gather_codes(add_dithers<Bits, HasNoise, 0>(x, start, random, encode, AddFloor{}),
                      add_dithers<Bits, HasNoise, 1>(x, start, random, encode, AddFloor{}),
                      add_dithers<Bits, HasNoise, 2>(x, start, random, encode, AddFloor{}),
                      add_dithers<Bits, HasNoise, 3>(x, start, random, encode, AddFloor{}));
}

/// The same: sums that are one too large change codes only where that makes their low half 0.
template <int Bits, bool HasNoise, class T, class Encode>
ACTPACK_INLINE inline Ints encode_block(const T* x, std::int64_t start, const std::uint8_t* random,
                                        const Encode& encode) {
  const Ints a = add_dithers<Bits, HasNoise, 0>(x, start, random, encode, AddAbout{});
  const Ints b = add_dithers<Bits, HasNoise, 1>(x, start, random, encode, AddAbout{});
  const Ints c = add_dithers<Bits, HasNoise, 2>(x, start, random, encode, AddAbout{});
  const Ints d = add_dithers<Bits, HasNoise, 3>(x, start, random, encode, AddAbout{});
  if constexpr (!has_exact_add) {
    if (has_zero_half(a, b, c, d)) [[unlikely]] {
      return encode_block_exactly<Bits, HasNoise>(x, start, random, encode);
    }
  }
  return gather_codes(a, b, c, d);
}

/// Writes the codes of all elements of a group of any size. `encode` has the shift of `Bits`, which
/// the codes' real width need not have.
template <int Bits, bool HasNoise, class T, class Encode>
void encode_parts(const T* x, const Group& group, std::int64_t group_size, int bits,
                  const Noise& noise, const Encode& encode, std::uint32_t* words) {
  std::fill_n(words, words_for(group.size, bits), 0u);  // insert_codes adds to them
  auto* bytes = reinterpret_cast<std::uint8_t*>(words);
  for_each_part(
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
          std::uint8_t part[block];
          store_bits(part, codes);
          insert_codes(part, last - first, bits, words, first);
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

/// The places of the codes of vector number `Vector` of a block, less alpha times their dithers, in
/// steps of 2^−15: as `position_of`.
template <int Vector>
inline Floats positions_of(Ints codes, const std::uint8_t* random, Floats minus_alpha) {
  constexpr std::uint32_t two_to_22 = 0x4A800000u;  // its bits: half-integers fit behind it
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

/// Whether full groups that start at x are to be written past the caches, and can be.
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

/// Writes elements [begin, end) of a group of any size; `x` is where its element 0 is or would be.
template <class T, class Decode>
void decode_parts(const std::uint32_t* words, const Group& group, std::int64_t group_size, int bits,
                  const Noise& noise, const Decode& decode, std::int64_t begin, std::int64_t end,
                  T* x) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(words);
  for_each_part(
      noise, Decode::is_subtractive, group.index, group_size, begin, end,
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
