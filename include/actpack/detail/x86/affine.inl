// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The arithmetic of affine groups, in vectors.

/// Turns values into positions, as `Encoder`, for parameters that need no special care.
struct AffineEncode {
  Floats min, steps;

  ACTPACK_INLINE Distance operator()(Floats x, std::int64_t) const {
    return {subtract(x, min), steps};
  }
  const AffineEncode& with_signs_in(std::uint8_t*) const { return *this; }
};

/// Turns codes of `Bits` bits into values, as `Decoder`, far from overflow.
template <int Bits, bool IsSubtractive, class T>
struct AffineDecode {
  static constexpr bool is_subtractive = IsSubtractive;
  static constexpr bool has_levels = !IsSubtractive && has_table<Bits>;
  Floats scale, min, minus_alpha;
  Floats levels;  // a table of values by code, rounded

  AffineDecode(GroupParams params, float alpha)
      : scale(broadcast(IsSubtractive ? params.scale * 0x1p-15f : float{params.scale})),
        min{broadcast(params.min)}, minus_alpha(broadcast(-alpha)), levels(min) {
    if constexpr (has_levels) {
      levels = rounded<T>(fused(to_floats(table_codes<Bits>()), scale, min));
    }
  }

  ACTPACK_INLINE Floats operator()(Floats positions, std::int64_t) const {
    return fused(positions, scale, min);
  }
  const AffineDecode& with_padded_signs(std::int64_t, std::int64_t, std::uint8_t*) const {
    return *this;
  }
};

/// As `fit_params` and `encode_by`, for a group in each lane.
template <int Bits>
struct Fits<Bits, AffineCodes<GroupParams, std::uint32_t>> {
  alignas(64) GroupParams params[lanes];
  alignas(64) float min[lanes];
  alignas(64) float steps[lanes];
  std::uint32_t plain;  // a bit for each lane: whether the rest is right

  explicit Fits(const Ranges& ranges) {
    const Floats lowest = load(ranges.min);
    const Floats highest = load(ranges.max);
    const Ints stored_min = round_down(add_floats(lowest, broadcast(0.0f)));
    const Scales<Bits> scales(subtract_up(highest, as_floats(stored_min)));
    store_bits(params, bit_or(shift_right<16>(scales.scale), stored_min));
    store_bits(min, stored_min);
    store(steps, scales.steps);
    plain = are_ordinary(lowest, highest);
  }
  AffineEncode encode(int lane, const AffineCodes<GroupParams, std::uint32_t>&) const {
    return {broadcast(min[lane]), broadcast(steps[lane])};
  }
};

/// The same for one group, with the shift of `Bits`.
template <int Bits>
AffineEncode encode_by(GroupParams params) {
  constexpr float unit = 1 << shift_in_position<Bits>;
  return {broadcast(params.min), broadcast(unit * steps_per_unit(params.scale))};
}

/// Affine codes have no signs.
template <class T>
void write_signs(const T*, std::int64_t, const AffineCodes<GroupParams, std::uint32_t>&) {}

inline bool is_near_overflow(GroupParams params) {  // or poisoned
  return detail::is_near_overflow(params.scale, params.min);
}

template <int Bits, bool IsSubtractive, class T>
AffineDecode<Bits, IsSubtractive, T> decode_by(
    const AffineCodes<const GroupParams, const std::uint32_t>& codes, float alpha) {
  return {*codes.params, alpha};
}
