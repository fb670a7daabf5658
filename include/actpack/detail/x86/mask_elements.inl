// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Elements and their mask bits: the loops of mask_elements.hpp, in vectors. The portable loops do
// the elements that do not fill a word of the mask.

template <class T>
void relu_elements(const T* x, std::int64_t numel, T* y, std::uint32_t* mask) {
  const std::int64_t whole = numel / 32 * 32;
  for (std::int64_t first = 0; first < whole; first += 32) {
    std::uint32_t positive = 0;
    std::uint32_t kept = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 32; i += lanes) {
      const Floats value = load(x + first + i);
      positive |= to_bits(is_positive(value)) << i;
      kept |= to_bits(is_positive_or_nan(value)) << i;
    }
    *mask++ = positive;
    copy_where(x + first, kept, y + first);
  }
  portable::relu_elements(x + whole, numel - whole, y + whole, mask);
}

template <class T>
void keep_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to) {
  const std::int64_t whole = numel / 32 * 32;
  for (std::int64_t first = 0; first < whole; first += 32) {
    copy_where(from + first, *mask++, to + first);
  }
  portable::keep_elements(from + whole, numel - whole, mask, to + whole);
}

template <class T>
void scale_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to,
                    float scale) {
  const std::int64_t whole = numel / 32 * 32;
  for (std::int64_t first = 0; first < whole; first += 32) {
    const std::uint32_t kept = *mask++;
    for (int i = 0; i < 32; i += lanes) {
      const Floats scaled = multiply(load(from + first + i), broadcast(scale));
      store(to + first + i, select(to_lanes(kept >> i), scaled, broadcast(0.0f)));
    }
  }
  portable::scale_elements(from + whole, numel - whole, mask, to + whole, scale);
}

template <class T>
void drop_elements(const T* x, std::int64_t first, std::int64_t numel, T* y, std::uint32_t* mask,
                   const DropoutRule& rule, const Rounding& rounding) {
  // A tile's calls have four words each: two of its lower half, then two of its upper half.
  constexpr std::int64_t per_tile = NoiseTile::size / 2;
  const std::int64_t whole = numel / per_tile * per_tile;
  const Ints largest_kept = broadcast(static_cast<std::uint32_t>(rule.threshold - 1));
  const Noise noise(rounding, NoiseDomain::dropout);
  NoiseTile tile;
  for (std::int64_t done = 0; done < whole; done += 32) {
    const std::int64_t in_tile = done % per_tile;
    if (in_tile == 0) {
      noise.draw((first + done) / 4, tile);
    }
    std::uint32_t kept = 0;
#pragma GCC unroll 2
    for (int i = 0; i < 32; i += 2 * lanes) {
      const std::int64_t byte = 2 * (in_tile + i);
      Ints words[2];
      interleave(load_bits(tile.lower + byte), load_bits(tile.upper + byte), words);
      for (int j = 0; j < 2; ++j) {
        const std::int64_t e = done + i + j * lanes;
        const Lanes is_kept = is_at_most(words[j], largest_kept);
        const Floats scaled = multiply(load(x + e), broadcast(rule.scale));
        store(y + e, select(is_kept, scaled, broadcast(0.0f)));
        kept |= to_bits(is_kept) << (i + j * lanes);
      }
    }
    *mask++ = kept;
  }
  portable::drop_elements(x + whole, first + whole, numel - whole, y + whole, mask, rule, rounding);
}
