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
#include "actpack/detail/sides.hpp"
#include "actpack/float16.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// The elements of a group that one call of the generator serves. Slice i of a group of G elements
/// holds two runs of neighbours: elements 8i … 8i + 7, then G/2 + 8i … G/2 + 8i + 7.
struct Slice {
  float value[detail::elements_per_call];

  ACTPACK_HD float operator[](int j) const { return value[j]; }
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

/// (a ^ b) & c and (a & b) | c, each in one instruction, of which compilers make two when b and c
/// are constants.
ACTPACK_HD inline std::uint32_t xor_and(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if ACTPACK_DEVICE_ARCH
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x28;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
#else
  return (a ^ b) & c;
#endif
}
ACTPACK_HD inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if ACTPACK_DEVICE_ARCH
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
#else
  return (a & b) | c;
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

/// The bits of the float 2^23 + n + ⌊distance · steps⌋, given those of 2^23 + n, if 0 ≤ n +
/// distance · steps < 2^23; else anything, as befits elements whose codes are not kept.
ACTPACK_HD inline std::uint32_t add_floor_product(std::uint32_t integer, float distance,
                                                  float steps) {
#if ACTPACK_DEVICE_ARCH
  return __float_as_uint(__fmaf_rd(distance, steps, __uint_as_float(integer)));
#else
  const float product = distance * steps;
  return product >= 0 && product <= integer_base
             ? integer + static_cast<std::uint32_t>(floor_product(distance, steps))
             : 0x7FFFFFFFu;  // as a device makes of NaN, and as visible
#endif
}

// Noise.

/// The dithers of a slice's elements, as integers of `Shift` bits: dither · 2^(Shift − 14).
template <int Shift>
class SliceDither {
  static_assert(Shift == 14 || Shift == 16);

 public:
  /// Those that round to nearest.
  ACTPACK_HD SliceDither() {
    for (int i = 0; i < 4; ++i) {
      even_[i] = Shift == 16 ? 0x80008000u : 0x20002000u;
      odd_[i] = Shift == 16 ? 0x00800080u : 0x20002000u;
    }
  }

  /// Both half-words of each word at once, as even_dither and odd_dither (rounding.hpp) do one.
  ACTPACK_HD explicit SliceDither(const RandomWords& random) {
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t word = random.word[i];
      if constexpr (Shift == 16) {
        even_[i] = word & 0xFFFCFFFCu;
        odd_[i] = xor_and(word, 0xFF00FF00u, 0xFCFFFCFFu);  // bytes still to be swapped
      } else {
        even_[i] = word >> 2 & 0x3FFF3FFFu;
        odd_[i] = (permute_bytes(word, 0, 0x2301) ^ 0x00FF00FFu) >> 2 & 0x3FFF3FFFu;
      }
    }
  }

  /// The bits of the float 2^23 + (the dither of element j).
  ACTPACK_HD std::uint32_t operator()(int j) const {
    const bool swap = j % 2 != 0 && Shift == 16;
    const std::uint32_t half_word = j % 4 < 2 ? (swap ? 0x7601 : 0x7610) : swap ? 0x7623 : 0x7632;
    return permute_bytes(j % 2 == 0 ? even_[j / 4] : odd_[j / 4], integer_bits, half_word);
  }

 private:
  std::uint32_t even_[4], odd_[4];
};

}  // namespace detail

// What a kernel needs of a Rounding: one of three types, so that no lane pays for the others.
// resolve() is called once, by the kernel, and what it returns draws the dithers.

/// Rounding::nearest().
struct NearestNoise {
  ACTPACK_HD NearestNoise resolve() const { return {}; }

  template <int Shift>
  ACTPACK_HD detail::SliceDither<Shift> dither(std::int64_t) const {
    return {};
  }
};

/// Rounding::stochastic(seed, offset), its round keys made beforehand.
struct SeededNoise {
  PhiloxKeys<> keys;
  std::uint64_t offset;

  ACTPACK_HD SeededNoise(std::uint64_t seed, std::uint64_t stream_offset)
      : keys(seed), offset(stream_offset) {}

  ACTPACK_HD const SeededNoise& resolve() const { return *this; }

  ACTPACK_HD RandomWords draw(std::int64_t call) const {
    return philox4x32(static_cast<std::uint64_t>(call), offset, keys);
  }

  template <int Shift>
  ACTPACK_HD detail::SliceDither<Shift> dither(std::int64_t call) const {
    return detail::SliceDither<Shift>(draw(call));
  }
};

/// Any stochastic Rounding, {seed, offset} being read from device memory if it says so.
struct StochasticNoise {
  SeededNoise seeded;
  const std::uint64_t* device_seed_and_offset;

  ACTPACK_HD SeededNoise resolve() const {
    return device_seed_and_offset == nullptr
               ? seeded
               : SeededNoise(device_seed_and_offset[0], device_seed_and_offset[1]);
  }
};

namespace detail {

// Codes.

/// The codes of a run: `Bits` bytes of its group's words.
template <int Bits>
using Piece = std::conditional_t<
    Bits == 1, std::uint8_t,
    std::conditional_t<Bits == 2, std::uint16_t,
                       std::conditional_t<Bits == 4, std::uint32_t, std::uint64_t>>>;

/// Where a code ends up in a position: as high as 23 bits allow, and where a byte begins if they
/// do.
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
    return static_cast<Piece<1>>(
        dot_bytes(codes[1], 0x80402010u, dot_bytes(codes[0], 0x08040201u, 0)));
  } else if constexpr (Bits == 2) {
    constexpr std::uint32_t weights = 0x40100401u;
    return static_cast<Piece<2>>(dot_bytes(codes[0], weights, 0) | dot_bytes(codes[1], weights, 0)
                                                                       << 8);
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
    const std::uint32_t integer = and_or(word, max_code(Bits) << place, integer_bits);
    return (float_of(integer) - integer_base) * (unit / static_cast<float>(1 << place));
  }
}

/// Whether nothing about a group is extreme: no NaN or infinity, no overflow to step aside for.
ACTPACK_HD inline bool is_ordinary(ValueRange range) {
  return std::fabs(range.min) < ordinary_limit && std::fabs(range.max) < ordinary_limit;
}

/// Fits a group's parameters to its range, then gives positions, as Encoder (affine.hpp) does.
template <int Bits>
class AffineSliceEncoder {
 public:
  ACTPACK_HD explicit AffineSliceEncoder(ValueRange range) {
    // Positions are 2^(code_shift − 14) times as fine. Either factor of the product may be larger,
    // as only the distances of a group near overflow are huge, and only its steps are not.
    constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);
    if (is_ordinary(range)) {
      const bfloat16 min = round_number_down(range.min + 0.0f);
      params_ = {fit_scale(subtract_up(range.max, min), Bits), min};
      unit_ = finer;
      steps_ = steps_per_unit(params_.scale);
    } else {
      params_ = fit_params(range.min, range.max, Bits);
      const bool near_overflow = is_near_overflow(params_.scale, params_.min);
      unit_ = near_overflow ? 0.5f : finer;
      steps_ = steps_per_unit(near_overflow ? 0.5f * params_.scale : float{params_.scale}) *
               (near_overflow ? finer : 1);
      keep_ = is_poisoned(params_) ? 0 : keep_;
    }
    offset_ = -(unit_ * params_.min);
  }

  ACTPACK_HD GroupParams params() const { return params_; }

  /// What is left of codes: everything, or nothing of those of a poisoned group.
  ACTPACK_HD std::uint32_t keep() const { return keep_; }

  /// Returns the bits of 2^23 + `dither` + the position of x, given those of 2^23 + `dither`.
  ACTPACK_HD std::uint32_t operator()(float x, std::uint32_t dither) const {
    return add_floor_product(dither, fma(x, unit_, offset_), steps_);
  }

 private:
  GroupParams params_;
  float unit_, offset_, steps_;
  std::uint32_t keep_ = 0xFFFFFFFFu;
};

/// Fits both sides of a sign-magnitude group, then gives positions of magnitudes, as SideEncoder
/// (sign_magnitude.hpp) does.
template <int Bits>
class SideSliceEncoder {
 public:
  ACTPACK_HD explicit SideSliceEncoder(ValueRange range)
      : params_(fit_sides(range, Bits)),
        unit_(unit_of(params_.positive), unit_of(params_.negative)),
        steps_(steps_of(params_.positive), steps_of(params_.negative)),
        keep_(is_poisoned(params_) ? 0 : 0xFFFFFFFFu) {}

  ACTPACK_HD SignMagnitudeParams params() const { return params_; }
  ACTPACK_HD std::uint32_t keep() const { return keep_; }
  ACTPACK_HD std::uint32_t operator()(float y, std::uint32_t dither) const {
    return add_floor_product(dither, std::fabs(y) * unit_(y > 0), steps_(y > 0));
  }

 private:
  // As with affine groups, either factor may be finer: magnitudes of a side with huge steps are
  // huge.
  static constexpr float finer = 1 << (code_shift<Bits> - fraction_bits);

  ACTPACK_HD static bool has_huge_steps(float scale) { return !(scale < 0x1p100f); }
  ACTPACK_HD static float unit_of(float scale) { return has_huge_steps(scale) ? 1 : finer; }
  ACTPACK_HD static float steps_of(float scale) {
    return steps_per_unit(scale) * (has_huge_steps(scale) ? finer : 1);
  }

  SignMagnitudeParams params_;
  SideFactor unit_, steps_;
  std::uint32_t keep_;
};

/// Codes of a slice: one piece for each run.
template <int Bits>
struct SlicePieces {
  static constexpr int bits = Bits;
  Piece<Bits> run[2];
};

/// Encodes a slice; elements that are not `present` get code 0.
template <int Bits, class Elements, class Encoder>
ACTPACK_HD SlicePieces<Bits> encode_slice(const Elements& x, SliceMask present,
                                          const Encoder& encoder,
                                          const SliceDither<code_shift<Bits>>& dither) {
  SlicePieces<Bits> pieces{};
  for (int i = 0; i < 2; ++i) {
    std::uint32_t position[run_size];
    for (int j = 0; j < run_size; ++j) {
      position[j] = encoder(x[run_size * i + j], dither(run_size * i + j));
    }
    if (present != whole_slice) {
      for (int j = 0; j < run_size; ++j) {
        position[j] = (present >> (run_size * i + j) & 1) != 0 ? position[j] : 0;
      }
    }
    const std::uint64_t keep = encoder.keep() * 0x100000001u;
    pieces.run[i] = static_cast<Piece<Bits>>(merge_run<Bits>(position) & keep);
  }
  return pieces;
}

/// One bit for each element: whether it is present and positive.
template <class Elements>
ACTPACK_HD SlicePieces<1> signs_of(const Elements& y, SliceMask present) {
  SliceMask signs = 0;
  for (int j = 0; j < elements_per_call; ++j) {
    signs |= y[j] > 0 ? 1u << j : 0u;
  }
  signs &= present;
  return {{static_cast<std::uint8_t>(signs), static_cast<std::uint8_t>(signs >> 8)}};
}

/// The smallest and largest of the elements that are present; NaN if one of them is.
ACTPACK_HD inline ValueRange join(ValueRange a, ValueRange b) {
  return {min_or_nan(a.min, b.min), max_or_nan(a.max, b.max)};
}
inline constexpr ValueRange no_values = {std::numeric_limits<float>::infinity(),
                                         -std::numeric_limits<float>::infinity()};

template <class Elements>
ACTPACK_HD ValueRange range_of(const Elements& x, SliceMask present) {
  if (present == whole_slice) {
    ValueRange range = {x[0], x[0]};
    for (int j = 1; j < elements_per_call; ++j) {
      range = join(range, {x[j], x[j]});
    }
    return range;
  }
  ValueRange range = no_values;
  for (int j = 0; j < elements_per_call; ++j) {
    if ((present >> j & 1) != 0) {
      range = join(range, {x[j], x[j]});
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

/// Turns levels or positions, in steps of `unit`, into the values of an affine group, as Decoder
/// (affine.hpp) does.
template <int Bits>
class AffineSliceDecoder {
 public:
  ACTPACK_HD AffineSliceDecoder(GroupParams params, float unit)
      : scale_(params.scale), min_(params.min), unit_scale_(unit * params.scale) {}

  ACTPACK_HD float operator()(float place, int) const { return fma(place, unit_scale_, min_); }

  /// No value is larger: half a step beyond the last code is as far as subtraction goes.
  ACTPACK_HD float bound() const {
    return fma(static_cast<float>(max_code(Bits)) + 0.5f, scale_, std::fabs(min_));
  }

 private:
  float scale_, min_, unit_scale_;
};

/// The same for a sign-magnitude group, as SideDecoder (sign_magnitude.hpp) does: bit j of `signs`
/// is the sign of element j.
template <int Bits>
class SideSliceDecoder {
 public:
  ACTPACK_HD SideSliceDecoder(SignMagnitudeParams params, NegativeSide negative_side, float unit,
                              std::uint32_t signs)
      : positive_(params.positive),
        negative_(negative_side == NegativeSide::zero && !is_poisoned(params) ? 0.0f
                                                                              : -params.negative),
        unit_step_(unit * positive_, unit * negative_), signs_(signs) {}

  ACTPACK_HD float operator()(float place, int j) const {
    return without_negative_zero(place * unit_step_(signs_ >> j & 1));
  }
  ACTPACK_HD float bound() const {
    return (static_cast<float>(max_code(Bits)) + 0.5f) * max_or_nan(positive_, -negative_);
  }

 private:
  float positive_, negative_;
  SideFactor unit_step_;
  std::uint32_t signs_;
};

/// Calls store(x) with the values at `places`, none of them beyond T's finite ones; for floats at
/// one place, where all lanes of a warp meet.
template <class T, class Decoder, class Store>
ACTPACK_HD void decode_slice(const Slice& places, const Decoder& decoder, const Store& store) {
  Slice x;
  for (int j = 0; j < elements_per_call; ++j) {
    x.value[j] = decoder(places.value[j], j);
  }
  const bool are_all_finite = decoder.bound() <= largest_of<T>;
  if constexpr (!std::is_same_v<T, float>) {
    if (are_all_finite) {  // a store of its own spares a tenth of the instructions
      store(x);
      return;
    }
  }
  if (!are_all_finite) {  // some may not be, or the group is poisoned
    for (float& value : x.value) {
      value = value > largest_of<T>    ? largest_of<T>
              : value < -largest_of<T> ? -largest_of<T>
                                       : value;
    }
  }
  store(x);
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

ACTPACK_HD inline Vector load_vector(const void* from) {
#if ACTPACK_DEVICE_ARCH
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
#else
  return load_from<Vector>(from);
#endif
}

ACTPACK_HD inline void store_vector(void* to, const Vector& v) {
#if ACTPACK_DEVICE_ARCH
  __stwb(static_cast<uint4*>(to), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
#else
  store_to(to, v);
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

/// The smaller (larger) of two pairs of T, half by half; NaN where either is.
template <class T>
ACTPACK_HD std::uint32_t min_pair(std::uint32_t a, std::uint32_t b) {
#if ACTPACK_DEVICE_ARCH >= 800
  std::uint32_t result;
  if constexpr (std::is_same_v<T, float16>) {
    asm("min.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#else
  float a0, a1, b0, b1;
  split_pair<T>(a, a0, a1);
  split_pair<T>(b, b0, b1);
  return join_pair<T>(min_or_nan(a0, b0), min_or_nan(a1, b1));
#endif
}
template <class T>
ACTPACK_HD std::uint32_t max_pair(std::uint32_t a, std::uint32_t b) {
#if ACTPACK_DEVICE_ARCH >= 800
  std::uint32_t result;
  if constexpr (std::is_same_v<T, float16>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#else
  float a0, a1, b0, b1;
  split_pair<T>(a, a0, a1);
  split_pair<T>(b, b0, b1);
  return join_pair<T>(max_or_nan(a0, b0), max_or_nan(a1, b1));
#endif
}

/// A slice in a 2-byte type, as it lies in memory: half the registers, and half the comparisons.
template <class T>
struct PairSlice {
  std::uint32_t pair[elements_per_call / 2];

  ACTPACK_HD float operator[](int j) const {
    float first, second;
    split_pair<T>(pair[j / 2], first, second);
    return j % 2 == 0 ? first : second;
  }
};

template <class T>
ACTPACK_HD ValueRange range_of(const PairSlice<T>& x, SliceMask present) {
  if (present != whole_slice) {
    Slice values;
    for (int j = 0; j < elements_per_call; ++j) {
      values.value[j] = x[j];
    }
    return range_of(values, present);
  }
  std::uint32_t min = x.pair[0];
  std::uint32_t max = x.pair[0];
  for (int i = 1; i < elements_per_call / 2; ++i) {
    min = min_pair<T>(min, x.pair[i]);
    max = max_pair<T>(max, x.pair[i]);
  }
  float min0, min1, max0, max1;
  split_pair<T>(min, min0, min1);
  split_pair<T>(max, max0, max1);
  return {min_or_nan(min0, min1), max_or_nan(max0, max1)};
}

/// What a slice of T is held in.
template <class T>
using SliceOf = std::conditional_t<std::is_same_v<T, float>, Slice, PairSlice<T>>;

/// The T of a Vector, from as many floats.
template <class T>
ACTPACK_HD Vector vector_of(const float* from) {
  Vector vector;
  for (int j = 0; j < 4; ++j) {
    if constexpr (std::is_same_v<T, float>) {
      vector.word[j] = bits_of(from[j]);
    } else {
      vector.word[j] = join_pair<T>(from[2 * j], from[2 * j + 1]);
    }
  }
  return vector;
}

/// Writes a run of T at an aligned address.
template <class T>
ACTPACK_HD void store_run(T* to, const float* from) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  for (int i = 0; i < run_size; i += per_vector) {
    store_vector(to + i, vector_of<T>(from + i));
  }
}

/// Where a slice lies: its elements in the group, and the elements that are there.
struct SlicePlace {
  int index;     // in the group: which call of the generator it is
  int first[2];  // elements of the group that its runs start with
  SliceMask present;
};

/// Reads the elements of a slice that are present, others as 0; `group` points to the group's
/// element 0, aligned to a Vector or not.
template <class T>
ACTPACK_HD SliceOf<T> load_slice(const T* group, const SlicePlace& place, bool is_aligned) {
  constexpr int per_vector = static_cast<int>(sizeof(Vector) / sizeof(T));
  SliceOf<T> x{};
  if (place.present == whole_slice && is_aligned) {
    for (int j = 0; j < elements_per_call; j += per_vector) {
      const Vector vector = load_vector(group + place.first[j / run_size] + j % run_size);
      for (int i = 0; i < 4; ++i) {
        if constexpr (std::is_same_v<T, float>) {
          x.value[j + i] = float_of(vector.word[i]);
        } else {
          x.pair[j / 2 + i] = vector.word[i];
        }
      }
    }
  } else {
    for (int j = 0; j < elements_per_call; ++j) {
      if ((place.present >> j & 1) != 0) {
        const T value = group[place.first[j / run_size] + j % run_size];
        if constexpr (std::is_same_v<T, float>) {
          x.value[j] = value;
        } else {
          x.pair[j / 2] |= std::uint32_t{value.bits} << (j % 2 * 16);
        }
      }
    }
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
