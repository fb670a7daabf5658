// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Random bits for blocks of elements.

/// Kernels work on a block of elements at a time: four vectors, whose random bytes fill a register.
inline constexpr int block = 4 * lanes;

/// The random bytes of `size` elements in the lower halves of groups, and of those half a group
/// further on. Consecutive groups have consecutive calls, so a tile may serve several.
struct NoiseTile {
  static constexpr int size = 4 * block;
  alignas(64) std::uint8_t lower[size];
  alignas(64) std::uint8_t upper[size];
};

/// Philox calls, a tile of them at a time, because the rounds of a single call wait for each other.
class Noise {
 public:
  Noise(const Rounding& rounding, NoiseDomain domain) : domain_(domain), offset_(rounding.offset) {
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
      low[i] = count_from(call_index(domain_, first_call + i * (lanes / 2)));
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
  NoiseDomain domain_;
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
