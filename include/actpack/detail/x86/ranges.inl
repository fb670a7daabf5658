// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The smallest and largest values of groups, a batch of groups at a time, and the scales that cover
// them.

/// As `range_of` of 2-byte types, but a zero may have either sign. Take numbers' bits as integers:
/// the largest signed one is the largest number unless all are negative, and the largest unsigned
/// one is the smallest number if any is negative. In the two exceptions it is the smallest unsigned
/// one. NaN is beyond ±∞ in each of the three orders.
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

/// Of floats by their values: two operations for a vector, and one for two vectors that finds NaN.
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
  // Negated, the largest is the smallest: one reduction serves both.
  const __m128 low = fold_min(minimum(least[0], least[1]));
  const __m128 high = fold_min(subtract(broadcast(0.0f), maximum(most[0], most[1])));
  const __m128 pairs = _mm_min_ps(_mm_unpacklo_ps(low, high), _mm_unpackhi_ps(low, high));
  const __m128 both = _mm_min_ps(pairs, _mm_movehl_ps(pairs, pairs));
  return {_mm_cvtss_f32(both), -_mm_cvtss_f32(_mm_movehdup_ps(both))};
}

// ---- Batches: as many consecutive full groups as fit the first-level cache, at most one a lane.
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

  /// Asks for the elements of the group one batch after the lane's.
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
  // Hardware prefetches steady reads, but not a batch's bursts.
  batch.ahead = footprint == Footprint::core ? 0 : most * group_size;
  for (std::int64_t first = 0; first < count; first += most) {
    batch.x = x + first * group_size;
    batch.size = static_cast<int>((std::min)(most, count - first));
    for (int lane = 0; lane < batch.size; ++lane) {
      const ValueRange range = range_of_vectors(batch.group(lane), group_size);
      batch.ranges.min[lane] = range.min;
      batch.ranges.max[lane] = range.max;
    }
    visit(batch);
  }
}

// ---- Fits.

/// The shift that takes the code of a position, in steps of 2^−14, to byte 2 of a lane. At eight
/// bits a float's 23 have no room for it.
template <int Bits>
inline constexpr int shift_in_position = Bits == 8 ? 0 : 2;

/// The factors of positions: how far values are from code 0, and the steps in a unit.
struct Distance {
  Floats distance, steps;
};

/// The parameters of a group in each lane, and how to encode it.
template <int Bits, class Codes>
struct Fits;

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
  Ints scale;  // the bits of floats
  Floats steps;

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
};
