// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The arithmetic of sign-magnitude groups, in vectors.

/// Turns values into positions, as `SideEncoder`, and writes their sign bits: element 0 is the
/// first bit of `signs`.
struct SideEncode {
  Floats positive_steps, negative_steps;
  std::uint8_t* signs;

  ACTPACK_INLINE Distance operator()(Floats y, std::int64_t element) const {
    const Lanes positive = is_positive(y);
    store_lanes(signs + element / 8, positive);
    return {magnitude(y), select(positive, positive_steps, negative_steps)};
  }
  SideEncode with_signs_in(std::uint8_t* bytes) const {
    return {positive_steps, negative_steps, bytes};
  }
};

/// Turns codes into values, as `SideDecoder`, far from overflow.
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

/// Writes the sign bits of `size` elements.
template <class T>
void write_signs(const T* y, std::int64_t size,
                 const SideCodes<SignMagnitudeParams, std::uint32_t>& codes) {
  std::uint32_t* words = codes.signs;
  std::int64_t first = 0;
  for (; first + 32 <= size; first += 32) {
    *words++ = positive_bits(y + first);
  }
  fill_mask(words, size - first, [&](std::int64_t e) { return y[first + e] > 0; });
}

/// As `fit_sides` and `encode_by`, for a group in each lane.
template <int Bits>
struct Fits<Bits, SideCodes<SignMagnitudeParams, std::uint32_t>> {
  alignas(64) SignMagnitudeParams params[lanes];
  alignas(64) float positive_steps[lanes];
  alignas(64) float negative_steps[lanes];
  std::uint32_t plain;  // a bit for each lane: whether the rest is right

  explicit Fits(const Ranges& ranges) {
    const Floats zero = broadcast(0.0f);
    const Floats min = load(ranges.min);
    const Floats max = load(ranges.max);
    const Scales<Bits> positive(maximum(zero, max));
    const Scales<Bits> negative(maximum(zero, subtract(zero, min)));
    store_bits(params, bit_or(shift_right<16>(positive.scale), negative.scale));
    store(positive_steps, positive.steps);
    store(negative_steps, negative.steps);
    plain = are_ordinary(min, max);
  }
  SideEncode encode(int lane, const SideCodes<SignMagnitudeParams, std::uint32_t>& codes) const {
    return {broadcast(positive_steps[lane]), broadcast(negative_steps[lane]),
            reinterpret_cast<std::uint8_t*>(codes.signs)};
  }
};

/// The same for one group, with the shift of `Bits`; signs have nowhere to go yet.
template <int Bits>
SideEncode encode_by(SignMagnitudeParams params) {
  constexpr float unit = 1 << shift_in_position<Bits>;
  return {broadcast(unit * steps_per_unit(params.positive)),
          broadcast(unit * steps_per_unit(params.negative)), nullptr};
}

inline bool is_near_overflow(SignMagnitudeParams params) {  // or poisoned
  return detail::is_near_overflow(params);
}

template <int Bits, bool IsSubtractive, class T>
SideDecode<IsSubtractive> decode_by(
    const SideCodes<const SignMagnitudeParams, const std::uint32_t>& codes, float alpha) {
  return {*codes.params, codes.negative_side, alpha, codes.signs};
}
