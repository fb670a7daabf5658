// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What one lane does with its sixteen elements of a group: the arithmetic of affine.hpp and
// sign_magnitude.hpp in the instructions that GPUs are good at, to the same bits.
//
// A position is kept as a float 2^23 + n, whose mantissa is the integer n: a product is added and
// rounded down in one instruction, dither included, and a code is a byte of the result. On the host
// the same functions are spelled out, so that tests without a GPU execute all but the instructions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "actpack/affine.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude.hpp"

namespace actpack {

/// The elements of a group that one call of the generator serves. Slice i of a group of G elements
/// holds two runs of neighbours: elements 8i … 8i + 7, then G/2 + 8i … G/2 + 8i + 7.
struct Slice {
  float value[detail::elements_per_call];
};

namespace detail {

inline constexpr int run_size = elements_per_call / 2;

/// A set of elements of a slice: bit j for value[j].
using SliceMask = std::uint32_t;
inline constexpr SliceMask whole_slice = 0xFFFF;

// Instructions.

/// The bytes of b:a (0 … 7) that the four digits of `selector` name, the first digit's lowest.
ACTPACK_HD inline std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b,
                                              std::uint32_t selector) {
#if ACTPACK_DEVICE_ARCH
  return __byte_perm(a, b, selector);
#else
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t from = selector >> (4 * i) & 7;
    result |= static_cast<std::uint32_t>(bytes >> (8 * from) & 0xFF) << (8 * i);
  }
  return result;
#endif
}

/// sum + Σ a_i · b_i over the four bytes of each.
ACTPACK_HD inline std::uint32_t dot_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t sum) {
#if ACTPACK_DEVICE_ARCH
  return __dp4a(a, b, sum);
#else
  for (int i = 0; i < 32; i += 8) {
    sum += (a >> i & 0xFF) * (b >> i & 0xFF);
  }
  return sum;
#endif
}

/// The smaller (larger) of two numbers; NaN if either is.
ACTPACK_HD inline float min_or_nan(float a, float b) {
#if ACTPACK_DEVICE_ARCH >= 800
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b < a || b != b ? b : a;  // keeps a NaN in a, for which both comparisons fail or b is one
#endif
}
ACTPACK_HD inline float max_or_nan(float a, float b) {
#if ACTPACK_DEVICE_ARCH >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a < b || b != b ? b : a;
#endif
}

/// The bits of the float 2^23: below them, a mantissa is an integer.
inline constexpr std::uint32_t integer_bits = 0x4B000000u;
inline constexpr float integer_base = 0x1p23f;

/// The bits of the float 2^23 + n + ⌊distance · steps⌋, given those of 2^23 + n. Precondition: 0 ≤
/// n + distance · steps < 2^23.
ACTPACK_HD inline std::uint32_t add_floor_product(std::uint32_t integer, float distance,
                                                  float steps) {
#if ACTPACK_DEVICE_ARCH
  return __float_as_uint(__fmaf_rd(distance, steps, __uint_as_float(integer)));
#else
  return integer + static_cast<std::uint32_t>(floor_product(distance, steps));
#endif
}

// Noise.

/// The rounding with its seed and offset at hand: what verbs on the device call first.
ACTPACK_HD inline Rounding resolve(Rounding rounding) {
  if (rounding.device_seed_and_offset != nullptr) {
    rounding.seed = rounding.device_seed_and_offset[0];
    rounding.offset = rounding.device_seed_and_offset[1];
  }
  return rounding;
}

/// The dithers of a slice's elements, as integers of `Shift` bits: dither · 2^(Shift − 14).
template <int Shift>
class SliceDither {
  static_assert(Shift == 14 || Shift == 16);

 public:
  ACTPACK_HD SliceDither(const Rounding& rounding, std::int64_t call) {
    if (rounding.is_stochastic) {
      const RandomWords random =
          philox4x32(static_cast<std::uint64_t>(call), rounding.offset, rounding.seed);
      for (int i = 0; i < 4; ++i) {
        spread(random.word[i], even_[i], odd_[i]);
      }
    } else {
      for (int i = 0; i < 4; ++i) {
        even_[i] = odd_[i] = half_step << (Shift - fraction_bits) << 16 |
                             half_step << (Shift - fraction_bits);
      }
    }
  }

  /// The bits of the float 2^23 + (the dither of element j).
  ACTPACK_HD std::uint32_t operator()(int j) const {
    const std::uint32_t pair = j % 2 == 0 ? even_[j / 4] : odd_[j / 4];
    return permute_bytes(pair, integer_bits, j % 4 / 2 == 0 ? 0x7610 : 0x7632);
  }

 private:
  /// Both half-words of `word` at once, as even_dither and odd_dither (rounding.hpp) do one.
  ACTPACK_HD static void spread(std::uint32_t word, std::uint32_t& even, std::uint32_t& odd) {
    const std::uint32_t rotated = permute_bytes(word, 0, 0x2301) ^ 0x00FF00FF;
    constexpr int drop = 16 - fraction_bits;
    if constexpr (Shift == 16) {
      even = word & 0xFFFCFFFCu;
      odd = rotated & 0xFFFCFFFCu;
    } else {
      even = word >> drop & 0x3FFF3FFFu;
      odd = rotated >> drop & 0x3FFF3FFFu;
    }
  }

  std::uint32_t even_[4], odd_[4];
};

// Codes.

/// The codes of a run: `Bits` bytes of its group's words.
template <int Bits>
using Piece = std::conditional_t<
    Bits == 1, std::uint8_t,
    std::conditional_t<Bits == 2, std::uint16_t,
                       std::conditional_t<Bits == 4, std::uint32_t, std::uint64_t>>>;

/// Where a code ends up in a position: as high as 23 bits allow, and where a byte begins if they do.
template <int Bits>
inline constexpr int code_shift = Bits == 8 ? 14 : 16;

/// Packs the codes in the positions of a run.
template <int Bits>
ACTPACK_HD Piece<Bits> merge_run(const std::uint32_t (&position)[run_size]) {
  std::uint32_t codes[2];  // one in each byte
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t* p = position + 4 * i;
    constexpr int to_byte = 16 - code_shift<Bits>;
    codes[i] = permute_bytes(permute_bytes(p[0] << to_byte, p[1] << to_byte, 0x0062),
                             permute_bytes(p[2] << to_byte, p[3] << to_byte, 0x0062), 0x5410);
  }
  if constexpr (Bits == 1) {
    return static_cast<Piece<1>>(dot_bytes(codes[1], 0x80402010u, dot_bytes(codes[0], 0x08040201u, 0)));
  } else if constexpr (Bits == 2) {
    constexpr std::uint32_t weights = 0x40100401u;
    return static_cast<Piece<2>>(dot_bytes(codes[0], weights, 0) | dot_bytes(codes[1], weights, 0) << 8);
  } else if constexpr (Bits == 4) {
    return permute_bytes(codes[0] | codes[0] >> 4, codes[1] | codes[1] >> 4, 0x6420);
  } else {
    return codes[0] | std::uint64_t{codes[1]} << 32;
  }
}

/// Returns code number j of a run times `unit`, exactly.
template <int Bits>
ACTPACK_HD float level(Piece<Bits> piece, int j, float unit) {
  if constexpr (Bits == 8) {
    const std::uint32_t word = static_cast<std::uint32_t>(j < 4 ? piece : piece >> 32);
    const std::uint32_t integer =
        permute_bytes(word, integer_bits, 0x7540u | static_cast<std::uint32_t>(j % 4));
    return (float_of(integer) - integer_base) * unit;
  } else {
    // The code where it is, as an integer that is 2^place too large.
    constexpr int per_half_word = 16 / Bits;
    const std::uint32_t word = std::uint32_t{piece} >> (j / per_half_word * 16);
    const int place = j % per_half_word * Bits;
    const std::uint32_t integer = (word & max_code(Bits) << place) | integer_bits;
    return (float_of(integer) - integer_base) * (unit / static_cast<float>(1 << place));
  }
}

/// Positions of a run's elements in one affine group.
template <int Bits>
class AffineSliceEncoder {
 public:
  /// Precondition: `params` are not poisoned.
  ACTPACK_HD explicit AffineSliceEncoder(GroupParams params) {
    // Encoder's arithmetic, the product taken 2^(code_shift − 14) times: either factor may be, as
    // only the distance of a group near overflow is large, and only its steps are not.
    constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);
    const bool near_overflow = is_near_overflow(params.scale, params.min);
    unit_ = near_overflow ? 0.5f : finer;
    offset_ = -(unit_ * params.min);
    steps_ = near_overflow ? finer * steps_per_unit(0.5f * params.scale)
                           : steps_per_unit(params.scale);
  }

  ACTPACK_HD std::uint32_t operator()(float x, std::uint32_t dither) const {
    return add_floor_product(dither, fma(x, unit_, offset_), steps_);
  }

 private:
  float unit_, offset_, steps_;
};

/// Positions of magnitudes in one sign-magnitude group.
template <int Bits>
class SideSliceEncoder {
 public:
  /// Precondition: `params` are not poisoned.
  ACTPACK_HD explicit SideSliceEncoder(SignMagnitudeParams params)
      : steps_(1, 1) {
    constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);
    const bool near_overflow = is_near_overflow(params.positive, params.negative);
    unit_ = near_overflow ? 1 : finer;
    const float side_unit = near_overflow ? finer : 1;
    steps_ = SideFactor(side_unit * steps_per_unit(params.positive),
                        side_unit * steps_per_unit(params.negative));
  }

  ACTPACK_HD std::uint32_t operator()(float y, std::uint32_t dither) const {
    return add_floor_product(dither, std::fabs(y) * unit_, steps_(y > 0));
  }

 private:
  float unit_ = 1;
  SideFactor steps_;
};

/// Codes of a slice: one piece for each run.
template <int Bits>
struct SlicePieces {
  Piece<Bits> run[2];
};

/// Encodes a slice; elements that are not `present` get code 0.
template <int Bits, class Encoder>
ACTPACK_HD SlicePieces<Bits> encode_slice(const Slice& x, SliceMask present, const Encoder& encoder,
                                          const SliceDither<code_shift<Bits>>& dither) {
  SlicePieces<Bits> pieces{};
  for (int i = 0; i < 2; ++i) {
    std::uint32_t position[run_size];
    for (int j = 0; j < run_size; ++j) {
      position[j] = encoder(x.value[run_size * i + j], dither(run_size * i + j));
    }
    if (present != whole_slice) {
      for (int j = 0; j < run_size; ++j) {
        position[j] = (present >> (run_size * i + j) & 1) != 0 ? position[j] : 0;
      }
    }
    pieces.run[i] = merge_run<Bits>(position);
  }
  return pieces;
}

/// The smallest and largest of the elements that are present; NaN if one of them is.
ACTPACK_HD inline ValueRange join(ValueRange a, ValueRange b) {
  return {min_or_nan(a.min, b.min), max_or_nan(a.max, b.max)};
}
inline constexpr ValueRange no_values = {std::numeric_limits<float>::infinity(),
                                         -std::numeric_limits<float>::infinity()};

ACTPACK_HD inline ValueRange range_of(const Slice& x, SliceMask present) {
  if (present == whole_slice) {
    ValueRange range[elements_per_call];
    for (int j = 0; j < elements_per_call; ++j) {
      range[j] = {x.value[j], x.value[j]};
    }
    for (int half = elements_per_call / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) {
        range[j] = join(range[j], range[j + half]);
      }
    }
    return range[0];
  }
  ValueRange range = no_values;
  for (int j = 0; j < elements_per_call; ++j) {
    if ((present >> j & 1) != 0) {
      range = join(range, {x.value[j], x.value[j]});
    }
  }
  return range;
}

/// The codes of a slice as floats, exactly.
template <int Bits>
ACTPACK_HD Slice levels_of(const SlicePieces<Bits>& codes) {
  Slice levels;
  for (int j = 0; j < elements_per_call; ++j) {
    levels.value[j] = level<Bits>(codes.run[j / run_size], j % run_size, 1);
  }
  return levels;
}

/// What subtractive decoding puts in a level's place: position_of (affine.hpp), but in steps of
/// 2^−16.
inline constexpr float position_unit = 0x1p-16f;

template <int Bits>
ACTPACK_HD Slice positions_of(const SlicePieces<Bits>& codes, const SliceDither<16>& dither,
                              float alpha) {
  Slice positions;
  for (int j = 0; j < elements_per_call; ++j) {
    // With 4R for the dither R: 2 (2R + 1 − 2^14), centred, is 4R − (2^15 − 2).
    const float centred = float_of(dither(j)) - (integer_base + 0x1p15f - 2);
    const float position = level<Bits>(codes.run[j / run_size], j % run_size, 1 / position_unit);
    positions.value[j] = fma(-alpha, centred, position);
  }
  return positions;
}

/// The largest number that a decoded value may be before it is stored as a T.
template <class T>
inline constexpr float largest_of = std::is_same_v<T, float16>    ? 65504.0f
                                    : std::is_same_v<T, bfloat16> ? 0x1.fep127f
                                                                  : float_max;

/// Brings values beyond ±largest back to it; keeps NaN.
ACTPACK_HD inline void saturate(Slice& x, float largest) {
  for (float& value : x.value) {
    value = value > largest ? largest : value < -largest ? -largest : value;
  }
}

/// Replaces levels or positions, in steps of `unit`, by the values of an affine group, saturated
/// for storage as T.
template <class T, int Bits>
ACTPACK_HD void place_levels(Slice& x, GroupParams params, float unit) {
  const float min = params.min;
  const float scale = params.scale;
  for (float& value : x.value) {
    value = fma(value, scale * unit, min);
  }
  // Half a step beyond the last code is as far as subtraction goes. NaN compares false.
  constexpr float reach = static_cast<float>(max_code(Bits)) + 0.5f;
  if (!(fma(reach, scale, std::fabs(min)) <= largest_of<T>)) {
    saturate(x, largest_of<T>);
  }
}

/// The same for a sign-magnitude group: bit j of `signs` is the sign of value[j].
template <class T, int Bits>
ACTPACK_HD void place_levels(Slice& x, std::uint32_t signs, SignMagnitudeParams params,
                             NegativeSide negative_side, float unit) {
  // As in SideDecoder (sign_magnitude.hpp).
  const float positive = params.positive;
  const float negative =
      negative_side == NegativeSide::zero && !is_poisoned(params) ? 0.0f : -params.negative;
  const SideFactor step(positive * unit, negative * unit);
  for (int j = 0; j < elements_per_call; ++j) {
    x.value[j] = x.value[j] * step(signs >> j & 1) + 0.0f;
  }
  constexpr float reach = static_cast<float>(max_code(Bits)) + 0.5f;
  if (!(reach * positive <= largest_of<T> && reach * -negative <= largest_of<T>)) {
    saturate(x, largest_of<T>);
  }
}

// Memory.

/// Sixteen bytes that move in one instruction.
struct alignas(16) Vector {
  std::uint32_t word[4];
};

template <class U>
ACTPACK_HD U load_from(const void* from) {
#if ACTPACK_DEVICE_ARCH
  return *static_cast<const U*>(from);
#else
  U value;
  std::memcpy(&value, from, sizeof value);
  return value;
#endif
}

template <class U>
ACTPACK_HD void store_to(void* to, const U& value) {
#if ACTPACK_DEVICE_ARCH
  *static_cast<U*>(to) = value;
#else
  std::memcpy(to, &value, sizeof value);
#endif
}

ACTPACK_HD inline bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(Vector) == 0;
}

/// The two T of a word, the first from its low half, as floats.
template <class T>
ACTPACK_HD void split_pair(std::uint32_t word, float& first, float& second) {
#if ACTPACK_DEVICE_ARCH
  if constexpr (std::is_same_v<T, float16>) {
    asm("{.reg .b16 low, high;\n\tmov.b32 {low, high}, %2;\n\t"
        "cvt.f32.f16 %0, low;\n\tcvt.f32.f16 %1, high;}"
        : "=f"(first), "=f"(second)
        : "r"(word));
    return;
  }
#endif
  first = T::from_bits(static_cast<std::uint16_t>(word));
  second = T::from_bits(static_cast<std::uint16_t>(word >> 16));
}

/// The inverse, rounding to nearest even. Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD std::uint32_t join_pair(float first, float second) {
#if ACTPACK_DEVICE_ARCH >= 800
  std::uint32_t word;
  if constexpr (std::is_same_v<T, float16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  }
  return word;
#else
  return T(first).bits | std::uint32_t{T(second).bits} << 16;
#endif
}

/// Reads a run of T at an aligned address.
template <class T>
ACTPACK_HD void load_run(const T* from, float* to) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < run_size; i += per_vector) {
    const Vector vector = load_from<Vector>(from + i);
    for (int j = 0; j < 4; ++j) {
      if constexpr (std::is_same_v<T, float>) {
        to[i + j] = float_of(vector.word[j]);
      } else {
        split_pair<T>(vector.word[j], to[i + 2 * j], to[i + 2 * j + 1]);
      }
    }
  }
}

/// Writes a run of T at an aligned address.
template <class T>
ACTPACK_HD void store_run(T* to, const float* from) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < run_size; i += per_vector) {
    Vector vector;
    for (int j = 0; j < 4; ++j) {
      if constexpr (std::is_same_v<T, float>) {
        vector.word[j] = bits_of(from[i + j]);
      } else {
        vector.word[j] = join_pair<T>(from[i + 2 * j], from[i + 2 * j + 1]);
      }
    }
    store_to(to + i, vector);
  }
}

/// Where a slice lies: its elements in the group, and the elements that are there.
struct SlicePlace {
  int index;         // in the group: which call of the generator it is
  int first[2];      // elements of the group that its runs start with
  SliceMask present;
};

/// Reads the elements of a slice that are present; `group` points to the group's element 0, aligned
/// to a Vector or not.
template <class T>
ACTPACK_HD Slice load_slice(const T* group, const SlicePlace& place, bool is_aligned) {
  Slice x;
  if (place.present == whole_slice && is_aligned) {
    load_run(group + place.first[0], x.value);
    load_run(group + place.first[1], x.value + run_size);
    return x;
  }
  for (int j = 0; j < elements_per_call; ++j) {
    const bool is_present = (place.present >> j & 1) != 0;
    x.value[j] = is_present ? float(group[place.first[j / run_size] + j % run_size]) : 0.0f;
  }
  return x;
}

/// Writes the elements of a slice that are present. Precondition: no finite value is beyond T's.
template <class T>
ACTPACK_HD void store_slice(T* group, const SlicePlace& place, bool is_aligned, const Slice& x) {
  if (place.present == whole_slice && is_aligned) {
    store_run(group + place.first[0], x.value);
    store_run(group + place.first[1], x.value + run_size);
    return;
  }
  for (int j = 0; j < elements_per_call; ++j) {
    if ((place.present >> j & 1) != 0) {
      group[place.first[j / run_size] + j % run_size] = T(x.value[j]);
    }
  }
}

/// Reads a slice's codes from its group's words, of which `num_words` exist; others read as 0.
template <int Bits>
ACTPACK_HD SlicePieces<Bits> load_codes(const std::uint32_t* words, std::uint32_t num_words,
                                        const SlicePlace& place) {
  SlicePieces<Bits> codes{};
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t byte = static_cast<std::uint32_t>(place.first[i]) / 8 * Bits;
    const std::uint32_t word = byte / 4;
    if constexpr (Bits == 8) {
      const std::uint32_t low = word < num_words ? words[word] : 0;
      const std::uint32_t high = word + 1 < num_words ? words[word + 1] : 0;
      codes.run[i] = low | std::uint64_t{high} << 32;
    } else if (word < num_words) {
      codes.run[i] = load_from<Piece<Bits>>(reinterpret_cast<const std::uint8_t*>(words) + byte);
    }
  }
  return codes;
}

/// Writes a slice's codes to those of its words that exist.
template <int Bits>
ACTPACK_HD void store_codes(std::uint32_t* words, std::uint32_t num_words, const SlicePlace& place,
                            const SlicePieces<Bits>& codes) {
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t byte = static_cast<std::uint32_t>(place.first[i]) / 8 * Bits;
    const std::uint32_t word = byte / 4;
    if constexpr (Bits == 8) {
      for (std::uint32_t half = 0; half < 2; ++half) {
        if (word + half < num_words) {
          words[word + half] = static_cast<std::uint32_t>(codes.run[i] >> (32 * half));
        }
      }
    } else if (word < num_words) {
      store_to(reinterpret_cast<std::uint8_t*>(words) + byte, codes.run[i]);
    }
  }
}

}  // namespace detail
}  // namespace actpack
