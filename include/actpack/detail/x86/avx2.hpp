// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The vector operations of the kernels, with AVX2: eight lanes.
#pragma once

#include "actpack/config.hpp"

#if ACTPACK_X86_KERNELS

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "actpack/float16.hpp"

ACTPACK_BEGIN_TARGET(ACTPACK_AVX2)

namespace actpack::detail::inline ACTPACK_TARGET::avx2 {

using Floats = __m256;
using Ints = __m256i;

inline constexpr int lanes = 8;

inline Floats broadcast(float x) { return _mm256_set1_ps(x); }
inline Ints broadcast(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline Ints load_bits(const void* bytes) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}
inline void store_bits(void* bytes, Ints x) {
  _mm256_storeu_si256(static_cast<__m256i*>(bytes), x);
}

// ---- Elements: `lanes` of them in memory, floats in a register.

inline Floats load(const float* x) { return _mm256_loadu_ps(x); }
inline Floats load(const bfloat16* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Floats load(const float16* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

/// x, or the nearest of ±largest where a finite x lies beyond; keeps ±∞ and NaN.
inline Floats clamp_finite(Floats x, float largest) {
  const Floats clamped = _mm256_max_ps(broadcast(-largest), _mm256_min_ps(broadcast(largest), x));
  const Floats magnitude = _mm256_andnot_ps(broadcast(-0.0f), x);
  const Floats is_finite = _mm256_cmp_ps(magnitude, broadcast(float_max), _CMP_LE_OQ);
  return _mm256_blendv_ps(x, clamped, is_finite);
}

/// Writes x as `saturate_cast` does.
inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
inline void store(bfloat16* to, Floats x) {
  const Ints bits = _mm256_castps_si256(clamp_finite(x, 0x1.fep127f));
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), broadcast(1u));
  const Ints nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, broadcast(0x7FFFu)));
  const Ints quiet_nan = _mm256_or_si256(bits, broadcast(0x400000u));
  const Ints is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const Ints rounded = _mm256_srli_epi32(_mm256_blendv_epi8(nearest, quiet_nan, is_nan), 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}
inline void store(float16* to, Floats x) {
  const __m128i bits = _mm256_cvtps_ph(clamp_finite(x, 65504.0f), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits);
}

/// Numbers as store_rounded wants them, rounded to T as `saturate_cast` does. Precondition: for
/// bfloat16, they are within its range.
template <class T>
inline Floats rounded(Floats x) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const Ints bits = _mm256_castps_si256(x);
    const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), broadcast(1u));
    return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_add_epi32(odd, broadcast(0x7FFFu))));
  } else if constexpr (std::is_same_v<T, float16>) {
    return _mm256_max_ps(broadcast(-65504.0f), _mm256_min_ps(broadcast(65504.0f), x));
  } else {
    return x;
  }
}
inline void store_rounded(float* to, Floats x) { store(to, x); }
template <class T>
inline __m128i half_words(Floats x) {
  if constexpr (std::is_same_v<T, float16>) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  } else {
    const Ints bits = _mm256_srli_epi32(_mm256_castps_si256(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  }
}
template <class T>
inline void store_rounded(T* to, Floats x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half_words<T>(x));
}
/// The same past the caches. Precondition: `to` is aligned to the bytes written. _mm_sfence makes
/// them visible to other threads.
inline void stream_rounded(float* to, Floats x) { _mm256_stream_ps(to, x); }
template <class T>
inline void stream_rounded(T* to, Floats x) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), half_words<T>(x));
}

// ---- Extremes.

inline Ints min_unsigned16(Ints a, Ints b) { return _mm256_min_epu16(a, b); }
inline Ints max_unsigned16(Ints a, Ints b) { return _mm256_max_epu16(a, b); }
inline Ints max_signed16(Ints a, Ints b) { return _mm256_max_epi16(a, b); }
/// The least of the unsigned 16-bit integers in x.
inline std::uint32_t least_of(Ints x) {
  const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return static_cast<std::uint32_t>(_mm_extract_epi16(_mm_minpos_epu16(half), 0));
}
/// b where one is NaN.
inline Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
/// The least of each half of x.
inline __m128 fold_min(Floats x) {
  return _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}

// ---- Random bits.

/// Half of a Philox round: of `lanes` / 2 calls, each a counter's words (c0, c1) or (c2, c3) in the
/// low and high half of a 64-bit lane. `product` belongs to the other half of the counter.
inline Ints next_counter(Ints product, Ints counter, Ints key) {
  const Ints swapped = _mm256_shuffle_epi32(product, 0xB1);
  return _mm256_xor_si256(_mm256_xor_si256(swapped, _mm256_srli_epi64(counter, 32)), key);
}
/// The key of a round, where `next_counter` wants it.
inline Ints broadcast_key(std::uint32_t key) { return _mm256_set1_epi64x(std::int64_t{key}); }
inline Ints multiply(Ints counter, std::uint32_t factor) {
  return _mm256_mul_epu32(counter, broadcast(factor));
}
/// Calls `first`, first + 1, … in the lanes.
inline Ints count_from(std::uint64_t first) {
  return _mm256_add_epi64(_mm256_set1_epi64x(static_cast<std::int64_t>(first)),
                          _mm256_setr_epi64x(0, 1, 2, 3));
}
inline Ints broadcast64(std::uint64_t x) {
  return _mm256_set1_epi64x(static_cast<std::int64_t>(x));
}

/// Spreads as many random bytes as there are lanes. Two bytes are a half-word, which goes to the
/// low halves of two lanes: as it is for the even element, with its bytes swapped for the odd one.
inline Ints spread(const std::uint8_t* random) {
  constexpr auto pick = [](int low, int high) { return high << 8 | low; };
  const Ints from = _mm256_setr_epi32(pick(0, 1), pick(1, 0), pick(2, 3), pick(3, 2),  //
                                      pick(4, 5), pick(5, 4), pick(6, 7), pick(7, 6));
  std::uint64_t bytes;
  std::memcpy(&bytes, random, sizeof bytes);
  return _mm256_shuffle_epi8(broadcast64(bytes), from);
}
/// x in odd lanes, 0 in even ones.
inline Ints broadcast_odd(std::uint32_t x) { return broadcast64(std::uint64_t{x} << 32); }
/// (x & kept) ^ flipped.
inline Ints and_xor(Ints x, Ints kept, Ints flipped) {
  return _mm256_xor_si256(_mm256_and_si256(x, kept), flipped);
}

// ---- Positions and codes.

/// The bits of `addend` + ⌊distance · steps⌋, of the exact product. Precondition: addend is an
/// integer, and addend and sum are in [2^23, 2^24).
inline Ints add_floor(Floats distance, Floats steps, Floats addend) {
  // Rounded to nearest, the sum is right or one too large. If it is too large, the remainder, whose
  // sign is exact, is negative. It is −0 where the distance is.
  const Floats sum = _mm256_fmadd_ps(distance, steps, addend);
  const Floats remainder = _mm256_fmsub_ps(distance, steps, _mm256_sub_ps(sum, addend));
  const Floats is_too_large = _mm256_cmp_ps(remainder, broadcast(0.0f), _CMP_LT_OQ);
  return _mm256_add_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(is_too_large));
}
/// The same or one more.
inline Ints add_about(Floats distance, Floats steps, Floats addend) {
  return _mm256_castps_si256(_mm256_fmadd_ps(distance, steps, addend));
}
inline constexpr bool has_exact_add = false;  // whether add_about is add_floor

/// Whether the low half of any lane of four vectors is 0, where one less would be another upper
/// half. Precondition: no upper half is 0.
inline bool has_zero_half(Ints a, Ints b, Ints c, Ints d) {
  const Ints least = _mm256_min_epu16(_mm256_min_epu16(a, b), _mm256_min_epu16(c, d));
  return _mm256_movemask_epi8(_mm256_cmpeq_epi16(least, _mm256_setzero_si256())) != 0;
}

/// Byte 2 of every lane of four vectors, in order.
inline Ints gather_codes(Ints a, Ints b, Ints c, Ints d) {
  constexpr char z = -1;
  const Ints gathered = _mm256_or_si256(
      _mm256_or_si256(_mm256_shuffle_epi8(
                          a, _mm256_setr_epi8(2, 6, 10, 14, z, z, z, z, z, z, z, z, z, z, z, z, 2,
                                              6, 10, 14, z, z, z, z, z, z, z, z, z, z, z, z)),
                      _mm256_shuffle_epi8(
                          b, _mm256_setr_epi8(z, z, z, z, 2, 6, 10, 14, z, z, z, z, z, z, z, z, z,
                                              z, z, z, 2, 6, 10, 14, z, z, z, z, z, z, z, z))),
      _mm256_or_si256(_mm256_shuffle_epi8(
                          c, _mm256_setr_epi8(z, z, z, z, z, z, z, z, 2, 6, 10, 14, z, z, z, z, z,
                                              z, z, z, z, z, z, z, 2, 6, 10, 14, z, z, z, z)),
                      _mm256_shuffle_epi8(
                          d, _mm256_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, z, 2, 6, 10, 14, z,
                                              z, z, z, z, z, z, z, z, z, z, z, 2, 6, 10, 14))));
  return _mm256_permutevar8x32_epi32(gathered, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/// Writes a block of codes, one a byte, at `Bits` bits each.
template <int Bits>
inline void store_codes(std::uint8_t* to, Ints codes) {
  if constexpr (Bits == 8) {
    store_bits(to, codes);
  } else if constexpr (Bits == 4) {
    const Ints bytes = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to),
        _mm_packus_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
  } else if constexpr (Bits == 2) {
    const Ints pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
    const Ints bytes = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
  } else {
    const int word = _mm256_movemask_epi8(_mm256_slli_epi16(codes, 7));
    std::memcpy(to, &word, sizeof word);
  }
}

/// Lanes whose lowest bits are the codes of `lanes` elements, at `Bits` bits each.
template <int Bits>
inline Ints load_shifted(const std::uint8_t* from) {
  if constexpr (Bits == 8) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  } else {
    std::uint32_t word = 0;
    std::memcpy(&word, from, Bits);  // eight codes take as many bytes as one has bits
    return _mm256_srlv_epi32(
        broadcast(word),
        _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits));
  }
}
/// The codes alone.
template <int Bits>
inline Ints load_codes(const std::uint8_t* from) {
  const Ints shifted = load_shifted<Bits>(from);
  return Bits == 8 ? shifted : _mm256_and_si256(shifted, broadcast((1u << Bits) - 1));
}

/// Whether a register holds a value for each code, which lanes of `load_shifted` look up.
template <int Bits>
inline constexpr bool has_table = Bits <= 2;
/// The codes that a table's lanes are for.
template <int Bits>
inline Ints table_codes() {
  const Ints lane = _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3);
  return _mm256_and_si256(lane, broadcast((1u << Bits) - 1));
}
template <int Bits>
inline Floats look_up(Floats table, Ints shifted) {
  return _mm256_permutevar_ps(table, shifted);
}

// ---- Arithmetic.

inline Floats as_floats(Ints bits) { return _mm256_castsi256_ps(bits); }
template <int Count>
inline Ints shift_left(Ints x) {
  return _mm256_slli_epi32(x, Count);
}
template <int Count>
inline Ints shift_right(Ints x) {
  return _mm256_srli_epi32(x, Count);
}
inline Ints as_ints(Floats x) { return _mm256_castps_si256(x); }
inline Ints bit_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints bit_or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints bit_xor(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
inline Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
inline Floats add_floats(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
/// x, with +0 for −0.
inline Floats without_negative_zero(Floats x) {
  return _mm256_and_ps(x, _mm256_cmp_ps(x, broadcast(0.0f), _CMP_NEQ_UQ));
}
inline Floats magnitude(Floats x) { return _mm256_andnot_ps(broadcast(-0.0f), x); }

// ---- Choice by lane.

using Lanes = __m256;  // all bits of a lane or none

inline Lanes is_positive(Floats x) { return _mm256_cmp_ps(x, broadcast(0.0f), _CMP_GT_OQ); }
inline Lanes is_less(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
/// Those of `among` where neither is NaN.
inline Lanes are_ordered(Lanes among, Floats a, Floats b) {
  return _mm256_and_ps(among, _mm256_cmp_ps(a, b, _CMP_ORD_Q));
}
inline Ints add_where(Lanes where, Ints x, std::uint32_t increment) {
  return _mm256_add_epi32(x, _mm256_and_si256(_mm256_castps_si256(where), broadcast(increment)));
}
inline Floats select(Lanes where, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, where);
}
/// A bit for each lane, the first lowest.
inline std::uint32_t to_bits(Lanes set) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(set));
}
/// The lanes whose bits are set, the first lowest.
inline Lanes to_lanes(std::uint32_t bits) {
  const Ints bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(broadcast(bits), bit), bit));
}
inline void store_lanes(std::uint8_t* bits, Lanes set) {
  *bits = static_cast<std::uint8_t>(to_bits(set));
}
inline Lanes load_lanes(const std::uint8_t* bits) { return to_lanes(*bits); }

inline Lanes is_positive_or_nan(Floats x) { return _mm256_cmp_ps(x, broadcast(0.0f), _CMP_NLE_UQ); }
/// As unsigned integers.
inline Lanes is_at_most(Ints x, Ints limit) {
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_min_epu32(x, limit), x));
}
/// The 64-bit lanes of `low` and `high` in turn.
inline void interleave(Ints low, Ints high, Ints (&both)[2]) {
  const Ints even = _mm256_unpacklo_epi64(low, high);
  const Ints odd = _mm256_unpackhi_epi64(low, high);
  both[0] = _mm256_permute2x128_si256(even, odd, 0x20);
  both[1] = _mm256_permute2x128_si256(even, odd, 0x31);
}

/// Writes 32 elements: a copy of those whose bit is set, 0 for the others.
inline void copy_where(const float* from, std::uint32_t bits, float* to) {
  for (int i = 0; i < 32; i += lanes) {
    store(to + i, select(to_lanes(bits >> i), load(from + i), broadcast(0.0f)));
  }
}
template <class T>
inline void copy_where(const T* from, std::uint32_t bits, T* to) {
  const Ints bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192,
                                     16384, -32768);
  for (int i = 0; i < 32; i += 16) {
    const Ints some = _mm256_set1_epi16(static_cast<std::int16_t>(bits >> i));
    const Ints is_set = _mm256_cmpeq_epi16(_mm256_and_si256(some, bit), bit);
    store_bits(to + i, _mm256_and_si256(load_bits(from + i), is_set));
  }
}

}  // namespace actpack::detail::avx2

ACTPACK_END_TARGET

#endif  // ACTPACK_X86_KERNELS
