// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Fixed-point rounding: how a position between two codes becomes one of them, and which random bits
// decide.
#pragma once

#include <concepts>
#include <cstdint>

#include "actpack/config.hpp"
#include "actpack/detail/dither.hpp"
#include "actpack/detail/fma.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/philox.hpp"

namespace actpack {

/// Bits after the binary point of a position: the step between two codes is 2^14.
inline constexpr int fraction_bits = 14;

/// The dither that rounds to nearest.
inline constexpr std::uint32_t half_step = 1u << (fraction_bits - 1);

/// Returns ⌊distance · steps⌋ of the exact product. Precondition: 0 ≤ distance · steps < 2^23.
ACTPACK_CORE inline std::int32_t floor_product(float distance, float steps) {
#if ACTPACK_DEVICE_ARCH
  // Rounding down at 2^23 leaves the floor in the mantissa.
  return __float_as_int(__fmaf_rd(distance, steps, 0x1p23f)) & 0x7FFFFF;
#elif ACTPACK_FAST_FMA
  // The product rounds to a number with the same floor or, from just below, to the next integer:
  // then the remainder, whose sign is exact, is negative.
  const std::int32_t rounded = static_cast<std::int32_t>(distance * steps);
  return rounded - (detail::fma(distance, steps, -static_cast<float>(rounded)) < 0 ? 1 : 0);
#else
  return static_cast<std::int32_t>(static_cast<double>(distance) *
                                   static_cast<double>(steps));  // exact
#endif
}

/// Returns the code of `position` (in steps of 2^−14): rounded up with probability equal to its
/// fraction if `dither` is uniform in [0, 2^14), to nearest if it is `half_step`.
ACTPACK_CORE constexpr std::uint32_t round_code(std::int32_t position, std::uint32_t dither) {
  return (static_cast<std::uint32_t>(position) + dither) >> fraction_bits;
}

/// Whose random bits: verbs that are given one (seed, offset) share none. A domain is the index of
/// its first generator call; `Layout::validate` keeps every other count of calls below 2^56.
enum class NoiseDomain : std::uint64_t {
  dropout = 0,
  values = std::uint64_t{1} << 56,      // of `quantize`
  magnitudes = std::uint64_t{2} << 56,  // of `encode`
};

namespace detail {

/// Returns the index of a domain's call number `call`.
ACTPACK_CORE constexpr std::uint64_t call_index(NoiseDomain domain, std::int64_t call) {
  return static_cast<std::uint64_t>(domain) + static_cast<std::uint64_t>(call);
}

}  // namespace detail

/// How `quantize` and `encode` choose between the two codes around a value.
struct Rounding {
  bool is_stochastic = false;
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;
  const std::uint64_t* device_seed_and_offset = nullptr;

  /// To the nearest code: no randomness, and biased.
  ACTPACK_INLINE static constexpr Rounding nearest() { return {}; }

  /// Up or down at random, so that the mean is the value. The noise is a pure function of (seed,
  /// offset, element index). Use a fresh pair (seed, offset) for every tensor and step, never a sum
  /// of the two.
  ACTPACK_INLINE static constexpr Rounding stochastic(std::uint64_t seed,
                                                      std::uint64_t offset = 0) {
    return {.is_stochastic = true, .seed = seed, .offset = offset};
  }

  /// The same with {seed, offset} read from device memory when a kernel runs, so that a replayed
  /// graph draws fresh noise. Host verbs refuse it.
  ACTPACK_INLINE static constexpr Rounding stochastic(
      std::convertible_to<const std::uint64_t*> auto device_seed_and_offset) {  // never a literal 0
    return {.is_stochastic = true, .device_seed_and_offset = device_seed_and_offset};
  }
};

/// How `dequantize` and `decode` place a value in the step its code names.
struct Decoding {
  Rounding rounding;  // regenerates the dither that encoding added
  float alpha = 0;    // the share of it that decoding takes out again

  /// At the code's level: min + code · scale.
  ACTPACK_INLINE static constexpr Decoding plain() { return {}; }

  /// At the code's level less `alpha` times the dither that `rounding`, the one used for encoding,
  /// added. Still unbiased; at alpha = 1 the error is uniform in ±½ step, half the variance of
  /// plain decoding. Values may lie half a step outside the group's range. Data rounded to nearest
  /// decode plainly. Throws std::invalid_argument unless alpha is in [0, 1].
  ACTPACK_INLINE static Decoding subtractive(Rounding rounding, float alpha = 1) {
    detail::refuse_unless(alpha >= 0 && alpha <= 1, "alpha = ", alpha, " is not in [0, 1]");
    return rounding.is_stochastic ? Decoding{rounding, alpha} : plain();
  }

  ACTPACK_CORE constexpr bool is_subtractive() const {
    return rounding.is_stochastic && alpha != 0;
  }
};

/// Returns the dither in [0, 2^14) of one element: `element` counts within its group, `group`
/// within the tensor; `half_step` when rounding to nearest. Depends on nothing else.
ACTPACK_CORE constexpr std::uint32_t dither(const Rounding& rounding, std::int64_t group,
                                            std::int32_t group_size, std::int32_t element,
                                            NoiseDomain domain = NoiseDomain::values) {
  if (!rounding.is_stochastic) {
    return half_step;
  }
  const std::int32_t half = group_size / 2;
  const std::int32_t in_upper_half = element >= half ? 1 : 0;
  const std::int32_t e = element - in_upper_half * half;
  const std::int64_t call = group * (group_size / detail::elements_per_call) + e / 8;
  const RandomWords random =
      philox4x32(detail::call_index(domain, call), rounding.offset, rounding.seed);
  const std::uint32_t word = random.word[2 * in_upper_half + e % 8 / 4];
  const std::uint32_t half_word = word >> (e % 4 / 2 * 16) & 0xFFFF;
  return e % 2 == 0 ? detail::even_dither(half_word) : detail::odd_dither(half_word);
}

}  // namespace actpack
