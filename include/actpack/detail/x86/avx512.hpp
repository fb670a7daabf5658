// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The vector operations of the kernels, with AVX-512: sixteen lanes.
#pragma once

#include "actpack/config.hpp"

#if ACTPACK_X86_KERNELS

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "actpack/float16.hpp"

ACTPACK_BEGIN_TARGET(ACTPACK_AVX512)

namespace actpack::detail::inline ACTPACK_TARGET::avx512 {

using Floats = __m512;
using Ints = __m512i;

inline constexpr int lanes = 16;

inline Floats broadcast(float x) { return _mm512_set1_ps(x); }
inline Ints broadcast(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline Ints broadcast64(std::uint64_t x) { return _mm512_set1_epi64(static_cast<std::int64_t>(x)); }
inline Ints load_bits(const void* bytes) { return _mm512_loadu_si512(bytes); }
inline void store_bits(void* bytes, Ints x) { _mm512_storeu_si512(bytes, x); }

// ---- Elements: `lanes` of them in memory, floats in a register.

inline Floats load(const float* x) { return _mm512_loadu_ps(x); }
inline Floats load(const bfloat16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Floats load(const float16* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

/// x, or the nearest of ±largest where a finite x lies beyond; keeps ±∞ and NaN.
inline Floats clamp_finite(Floats x, float largest) {
  const __mmask16 is_finite =
      _mm512_cmp_ps_mask(_mm512_abs_ps(x), broadcast(float_max), _CMP_LE_OQ);
  const Floats below = _mm512_min_ps(broadcast(largest), x);
  return _mm512_mask_max_ps(x, is_finite, broadcast(-largest), below);
}

/// Writes x as `saturate_cast` does.
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(bfloat16* to, Floats x) {
  const Ints bits = _mm512_castps_si512(clamp_finite(x, 0x1.fep127f));
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), broadcast(1u));
  const Ints nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, broadcast(0x7FFFu)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const Ints rounded = _mm512_mask_or_epi32(nearest, is_nan, bits, broadcast(0x400000u));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline void store(float16* to, Floats x) {
  const __m256i bits = _mm512_cvtps_ph(clamp_finite(x, 65504.0f), _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
}

/// Numbers as store_rounded wants them, rounded to T as `saturate_cast` does. Precondition: for
/// bfloat16, they are within its range.
template <class T>
inline Floats rounded(Floats x) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const Ints bits = _mm512_castps_si512(x);
    const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), broadcast(1u));
    return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_add_epi32(odd, broadcast(0x7FFFu))));
  } else if constexpr (std::is_same_v<T, float16>) {
    return _mm512_max_ps(broadcast(-65504.0f), _mm512_min_ps(broadcast(65504.0f), x));
  } else {
    return x;
  }
}
inline void store_rounded(float* to, Floats x) { store(to, x); }
template <class T>
inline __m256i half_words(Floats x) {
  return std::is_same_v<T, float16>
             ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)
             : _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16));
}
template <class T>
inline void store_rounded(T* to, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half_words<T>(x));
}
/// The same past the caches. Precondition: `to` is aligned to the bytes written. _mm_sfence makes
/// them visible to other threads.
inline void stream_rounded(float* to, Floats x) { _mm512_stream_ps(to, x); }
template <class T>
inline void stream_rounded(T* to, Floats x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), half_words<T>(x));
}

// ---- Extremes.

inline Ints min_unsigned16(Ints a, Ints b) { return _mm512_min_epu16(a, b); }
inline Ints max_unsigned16(Ints a, Ints b) { return _mm512_max_epu16(a, b); }
inline Ints max_signed16(Ints a, Ints b) { return _mm512_max_epi16(a, b); }
/// The least of the unsigned 16-bit integers in x.
inline std::uint32_t least_of(Ints x) {
  const __m256i pair = _mm256_min_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  const __m128i half =
      _mm_min_epu16(_mm256_castsi256_si128(pair), _mm256_extracti128_si256(pair, 1));
  return static_cast<std::uint32_t>(_mm_extract_epi16(_mm_minpos_epu16(half), 0));
}
/// b where one is NaN.
inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
/// The least of each quarter of x.
inline __m128 fold_min(Floats x) {
  const __m256 half = _mm256_min_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return _mm_min_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// ---- Random bits.

/// Half of a Philox round: of `lanes` / 2 calls, each a counter's words (c0, c1) or (c2, c3) in the
/// low and high half of a 64-bit lane. `product` belongs to the other half of the counter.
inline Ints next_counter(Ints product, Ints counter, Ints key) {
  constexpr __mmask16 high_words = 0xAAAA;
  constexpr int exclusive_or = 0x96;
  const Ints mixed =
      _mm512_mask_ternarylogic_epi32(product, high_words, counter, key, exclusive_or);
  return _mm512_shuffle_epi32(mixed, _MM_PERM_CDAB);
}
/// The key of a round, where `next_counter` wants it.
inline Ints broadcast_key(std::uint32_t key) { return broadcast(key); }
inline Ints multiply(Ints counter, std::uint32_t factor) {
  return _mm512_mul_epu32(counter, broadcast(factor));
}
/// Calls `first`, first + 1, … in the lanes.
inline Ints count_from(std::uint64_t first) {
  return _mm512_add_epi64(broadcast64(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
}

/// Spreads as many random bytes as there are lanes. Two bytes are a half-word, which goes to the
/// low halves of two lanes: as it is for the even element, with its bytes swapped for the odd one.
inline Ints spread(const std::uint8_t* random) {
  constexpr auto pick = [](int low, int high) { return high << 8 | low; };
  const Ints from =
      _mm512_setr_epi32(pick(0, 1), pick(1, 0), pick(2, 3), pick(3, 2), pick(4, 5), pick(5, 4),
                        pick(6, 7), pick(7, 6), pick(8, 9), pick(9, 8), pick(10, 11), pick(11, 10),
                        pick(12, 13), pick(13, 12), pick(14, 15), pick(15, 14));
  const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(random));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), from);
}
/// x in odd lanes, 0 in even ones.
inline Ints broadcast_odd(std::uint32_t x) { return broadcast64(std::uint64_t{x} << 32); }
/// (x & kept) ^ flipped.
inline Ints and_xor(Ints x, Ints kept, Ints flipped) {
  constexpr int table = 0x6A;  // (a & b) ^ c
  return _mm512_ternarylogic_epi32(x, kept, flipped, table);
}

// ---- Positions and codes.

/// The bits of `addend` + ⌊distance · steps⌋, of the exact product. Precondition: addend is an
/// integer, and addend and sum are in [2^23, 2^24).
inline Ints add_floor(Floats distance, Floats steps, Floats addend) {
  return _mm512_castps_si512(
      _mm512_fmadd_round_ps(distance, steps, addend, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
}

/// The same or one more.
inline Ints add_about(Floats distance, Floats steps, Floats addend) {
  return add_floor(distance, steps, addend);
}
inline constexpr bool has_exact_add = true;  // whether add_about is add_floor

/// Whether the low half of any lane of four vectors is 0. Declared only: exact sums never ask.
bool has_zero_half(Ints, Ints, Ints, Ints);

/// Byte 2 of every lane of four vectors, in order.
inline Ints gather_codes(Ints a, Ints b, Ints c, Ints d) {
  const Ints third_bytes = broadcast(0x0E0A0602u);
  Ints gathered = _mm512_shuffle_epi8(a, third_bytes);
  gathered = _mm512_mask_shuffle_epi8(gathered, 0x00F000F000F000F0, b, third_bytes);
  gathered = _mm512_mask_shuffle_epi8(gathered, 0x0F000F000F000F00, c, third_bytes);
  gathered = _mm512_mask_shuffle_epi8(gathered, 0xF000F000F000F000, d, third_bytes);
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), gathered);
}

/// Writes a block of codes, one a byte, at `Bits` bits each.
template <int Bits>
inline void store_codes(std::uint8_t* to, Ints codes) {
  if constexpr (Bits == 8) {
    store_bits(to, codes);
  } else if constexpr (Bits == 4) {
    const Ints bytes = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x1001));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(bytes));
  } else if constexpr (Bits == 2) {
    const Ints pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0401));
    const Ints bytes = _mm512_madd_epi16(pairs, broadcast(0x00100001u));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(bytes));
  } else {
    const std::uint64_t word = _mm512_test_epi8_mask(codes, codes);
    std::memcpy(to, &word, sizeof word);
  }
}

/// Lanes whose lowest bits are the codes of `lanes` elements, at `Bits` bits each.
template <int Bits>
inline Ints load_shifted(const std::uint8_t* from) {
  if constexpr (Bits == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  } else if constexpr (Bits == 4) {
    std::uint32_t word[2];
    std::memcpy(word, from, sizeof word);
    const Ints words =
        _mm512_mask_set1_epi32(broadcast(word[0]), 0xFF00, static_cast<int>(word[1]));
    return _mm512_srlv_epi32(
        words, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28));
  } else {
    std::uint32_t word = 0;
    std::memcpy(&word, from, 2 * Bits);  // sixteen codes take twice as many bytes as one has bits
    constexpr int b = Bits;
    return _mm512_srlv_epi32(
        broadcast(word), _mm512_setr_epi32(0, b, 2 * b, 3 * b, 4 * b, 5 * b, 6 * b, 7 * b, 8 * b,
                                           9 * b, 10 * b, 11 * b, 12 * b, 13 * b, 14 * b, 15 * b));
  }
}
/// The codes alone.
template <int Bits>
inline Ints load_codes(const std::uint8_t* from) {
  const Ints shifted = load_shifted<Bits>(from);
  return Bits == 8 ? shifted : _mm512_and_si512(shifted, broadcast((1u << Bits) - 1));
}

/// Whether a register holds a value for each code, which lanes of `load_shifted` look up.
template <int Bits>
inline constexpr bool has_table = Bits <= 4;
/// The codes that a table's lanes are for.
template <int Bits>
inline Ints table_codes() {
  const Ints lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_and_si512(lane, broadcast((1u << Bits) - 1));
}
template <int Bits>
inline Floats look_up(Floats table, Ints shifted) {
  return Bits == 4 ? _mm512_permutexvar_ps(shifted, table) : _mm512_permutevar_ps(table, shifted);
}

// ---- Arithmetic.

inline Floats as_floats(Ints bits) { return _mm512_castsi512_ps(bits); }
template <int Count>
inline Ints shift_left(Ints x) {
  return _mm512_slli_epi32(x, Count);
}
template <int Count>
inline Ints shift_right(Ints x) {
  return _mm512_srli_epi32(x, Count);
}
inline Ints as_ints(Floats x) { return _mm512_castps_si512(x); }
inline Ints bit_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints bit_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints bit_xor(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Floats add_floats(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
/// x, with +0 for −0.
inline Floats without_negative_zero(Floats x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(0.0f), _CMP_NEQ_UQ), x);
}
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }

// ---- Choice by lane.

using Lanes = __mmask16;

inline Lanes is_positive(Floats x) { return _mm512_cmp_ps_mask(x, broadcast(0.0f), _CMP_GT_OQ); }
inline Lanes is_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
/// Those of `among` where neither is NaN.
inline Lanes are_ordered(Lanes among, Floats a, Floats b) {
  return _mm512_mask_cmp_ps_mask(among, a, b, _CMP_ORD_Q);
}
inline Ints add_where(Lanes where, Ints x, std::uint32_t increment) {
  return _mm512_mask_add_epi32(x, where, x, broadcast(increment));
}
inline Floats select(Lanes where, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(where, no, yes);
}
/// A bit for each lane, the first lowest.
inline std::uint32_t to_bits(Lanes set) { return set; }
/// The lanes whose bits are set, the first lowest.
inline Lanes to_lanes(std::uint32_t bits) { return static_cast<Lanes>(bits); }
inline void store_lanes(std::uint8_t* bits, Lanes set) { std::memcpy(bits, &set, sizeof set); }
inline Lanes load_lanes(const std::uint8_t* bits) {
  Lanes loaded;
  std::memcpy(&loaded, bits, sizeof loaded);
  return loaded;
}

inline Lanes is_positive_or_nan(Floats x) {
  return _mm512_cmp_ps_mask(x, broadcast(0.0f), _CMP_NLE_UQ);
}
/// As unsigned integers.
inline Lanes is_at_most(Ints x, Ints limit) { return _mm512_cmple_epu32_mask(x, limit); }
/// The 64-bit lanes of `low` and `high` in turn.
inline void interleave(Ints low, Ints high, Ints (&both)[2]) {
  both[0] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high);
  both[1] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), high);
}

/// Writes 32 elements: a copy of those whose bit is set, 0 for the others.
inline void copy_where(const float* from, std::uint32_t bits, float* to) {
  store_bits(to, _mm512_maskz_mov_epi32(to_lanes(bits), load_bits(from)));
  store_bits(to + lanes, _mm512_maskz_mov_epi32(to_lanes(bits >> 16), load_bits(from + lanes)));
}
template <class T>
inline void copy_where(const T* from, std::uint32_t bits, T* to) {
  store_bits(to, _mm512_maskz_mov_epi16(bits, load_bits(from)));
}

}  // namespace actpack::detail::avx512

ACTPACK_END_TARGET

#endif  // ACTPACK_X86_KERNELS
