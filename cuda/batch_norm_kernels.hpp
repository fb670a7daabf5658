// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation on packed contexts: kernels that normalise, rectify and pack in one pass, and
// whose backward pass decodes as it goes. The same source for devices and for tests on the host.
//
// A lane's elements must belong to the same channels in every group it takes, so that sums stay in
// registers and channels are found once. Channels repeat after a period: an image, or a pixel if
// they are innermost. So groups go to the same tile if their distance is a multiple of both the
// period and the group size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "actpack/batch_norm_channels.hpp"
#include "actpack/cuda/group.hpp"
#include "group_kernels.hpp"
#include "tile_kernel.hpp"

namespace actpack::detail {

using batch_norm::Channel;
using batch_norm::Channels;
using batch_norm::InputGradient;
using batch_norm::SavedValue;

/// The way a tensor's groups are dealt out: tile t takes groups t, t + tiles, t + 2 tiles, …
struct Deal {
  std::int64_t numel;
  std::int64_t groups;
  std::int64_t tiles;
  std::int32_t bits;

  /// Enough tiles for several waves of blocks on a large device, so that the last wave is not half
  /// idle.
  static Deal of(const Layout& layout, Channels channels) {
    constexpr std::int64_t wanted = 1 << 14;
    const std::int64_t period = channels.period();
    const std::int64_t groups = layout.num_groups();
    const std::int64_t stride = period / std::gcd(period, std::int64_t{flat_group_size});
    const std::int64_t tiles = stride * std::max<std::int64_t>(wanted / stride, 1);
    return {layout.numel(), groups, (std::min)(tiles, groups), layout.bits};
  }

  /// Elements that all tiles take together in one round: each has its own sums.
  ACTPACK_HD std::int64_t positions() const { return tiles * flat_group_size; }

  ACTPACK_HD GroupShape group(std::int64_t index) const {
    const std::int64_t left = numel - index * flat_group_size;
    const std::int64_t size = left < flat_group_size ? left : std::int64_t{flat_group_size};
    return {index, static_cast<std::int32_t>(size), flat_group_size, bits};
  }
  ACTPACK_HD GroupWords words(std::int64_t index) const {
    return {index * (flat_group_size / 32) * bits, index * (flat_group_size / 32)};
  }
};

/// The channels of an octet.
class OctetChannels {
 public:
  ACTPACK_HD OctetChannels(Channels channels, std::int64_t first)
      : count_(static_cast<std::int32_t>(channels.count)),
        inner_(static_cast<std::int32_t>(channels.inner)),
        first_(static_cast<std::int32_t>(channels.of(first))),
        left_(static_cast<std::int32_t>(channels.inner - first % channels.inner)) {}

  /// Calls f(j, the entry of `by_channel` for neighbour j).
  template <class ByChannel, class F>
  ACTPACK_HD void for_each(const ByChannel* by_channel, const F& f) const {
    const bool is_one = left_ >= octet_size;
    const bool are_in_a_row = inner_ == 1 && first_ + octet_size <= count_;
    if (is_one || are_in_a_row) {
      const std::int32_t step = is_one ? 0 : 1;
      for (int j = 0; j < octet_size; ++j) {
        f(j, by_channel[first_ + j * step]);
      }
      return;
    }
    std::int32_t channel = first_;
    std::int32_t left = left_;
    for (int j = 0; j < octet_size; ++j) {
      f(j, by_channel[channel]);
      if (--left == 0) {
        left = inner_;
        channel = channel + 1 == count_ ? 0 : channel + 1;
      }
    }
  }

 private:
  std::int32_t count_, inner_, first_, left_;
};

/// Those of a lane's slice, which are the same in every group that its tile takes.
struct LaneChannels {
  OctetChannels octet[2];

  template <class ByChannel, class F>
  ACTPACK_HD void for_each(const ByChannel* by_channel, const F& f) const {
    for (int i = 0; i < 2; ++i) {
      octet[i].for_each(by_channel, [&](int j, const ByChannel& of_channel) {
        f(octet_size * i + j, of_channel);
      });
    }
  }
};

/// True if a ReLU follows: gradients pass where signs are set.
template <class View>
inline constexpr bool rectifies =
    std::is_same_v<View, SignMagnitudeView> || std::is_same_v<View, ConstSignMagnitudeView>;

/// The elements of a slice that gradients pass through, as a set; all of them in a poisoned group,
/// whose signs say nothing.
ACTPACK_HD inline SliceMask passing(const ConstPackedView&, const GroupShape&,
                                    const SliceLocation& location) {
  return location.present;
}
ACTPACK_HD inline SliceMask passing(const ConstSignMagnitudeView& in, const GroupShape& group,
                                    const SliceLocation& location) {
  if (is_poisoned(in.params[group.index])) {
    return location.present;
  }
  const auto signs = load_codes<1>(in.sign_words + group.index * (flat_group_size / 32),
                                   words_of(group, 1), location);
  return (signs.octet[0] | SliceMask{signs.octet[1]} << 8) & location.present;
}

/// Writes the operation's by_channel, before the forward pass.
struct MakeChannels {
  batch_norm::Operation operation;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD static constexpr int lanes() { return 1; }

  template <class Tile>
  ACTPACK_HD void operator()(const Tile&, std::int64_t c) const {
    if (c < operation.channels.count) {
      operation.by_channel[c] = make_channel(operation, c);
    }
  }
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

/// The channels of a lane's slice in every group that tile `number` takes.
__device__ inline LaneChannels channels_of_lane(const WarpTile& tile, Channels channels,
                                                std::int64_t number) {
  return tile.map([&](int lane) {
    const std::int64_t first = number * flat_group_size + octet_size * lane;
    return LaneChannels{{{channels, first}, {channels, first + flat_group_size / 2}}};
  });
}

/// Packs y or x and writes y, or max(y, 0). `y` may be `x`.
template <SavedValue saved, class T, class View, class Noise>
struct NormalizeAndPack {
  const T* x;
  View out;
  Noise noise;
  Deal deal;
  Channels channels;
  const Channel* by_channel;
  T* y;
  bool is_aligned;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD static constexpr int lanes() { return flat_lanes; }

  __device__ void operator()(const WarpTile& tile, std::int64_t number) const {
    const LaneChannels of_lane = channels_of_lane(tile, channels, number);
    // All lanes of a warp go on together: those without a group keep the others company.
    const std::int64_t rounds = (deal.groups + deal.tiles - 1) / deal.tiles;
    for (std::int64_t round = 0; round < rounds; ++round) {
      const std::int64_t index = number + round * deal.tiles;
      GroupShape group{index, 0, flat_group_size, deal.bits};
      if (number < deal.tiles && index < deal.groups) {
        group = deal.group(index);
      }
      const std::int64_t first = index * flat_group_size;
      encode_into(out, tile, group, deal.words(index), noise, [&](const SliceLocation& location) {
        const auto in = load_slice(x + first, location, is_aligned);
        Slice packed, written;
        of_lane.for_each(by_channel, [&](int j, const Channel& channel) {
          const float value{T(channel.normalize(in[j]))};
          packed.value[j] = saved == SavedValue::output ? value : in[j];
          written.value[j] = rectifies<View> && value <= 0 ? 0 : value;
        });
        store_slice(y + first, location, is_aligned, written);
        return packed;
      });
    }
  }
};

/// The inputs of the two kernels of the backward pass.
template <class T, class View, class Noise>
struct Gradients {
  const T* dz;
  View in;
  Noise noise;
  DecodeOptions options;
  Deal deal;
  bool is_aligned;

  static constexpr int blocks_per_multiprocessor = row_blocks;
  ACTPACK_HD static constexpr int lanes() { return flat_lanes; }

  /// Calls visit(the group's first element, location, dz, v, the elements that gradients pass
  /// through) for the calling lane's slice of every group that tile `number` takes.
  template <class Visit>
  __device__ void for_each_slice_of(const WarpTile& tile, std::int64_t number,
                                    const Visit& visit) const {
    for (std::int64_t index = number; index < deal.groups; index += deal.tiles) {
      const GroupShape group = deal.group(index);
      const std::int64_t first = index * flat_group_size;
      const auto gradient = tile.map([&](int lane) {
        return load_slice(dz + first, slice_at(group, lane, 0, group.size), is_aligned);
      });
      decode_from<float>(in, tile, group, deal.words(index), 0, group.size, noise, options,
                         [&](const SliceLocation& location, const Slice& v) {
                           visit(first, location, gradient, v, passing(in, group, location));
                         });
    }
  }
};

/// Writes Σdy of every position to sums[position], and Σdy · v to sums[positions + position].
template <class T, class View, class Noise>
struct AddGradients : Gradients<T, View, Noise> {
  float* sums;

  __device__ void operator()(const WarpTile& tile, std::int64_t number) const {
    if (number >= this->deal.tiles) {
      return;
    }
    Slice sum{}, product_sum{};
    this->for_each_slice_of(tile, number,
                            [&](std::int64_t, const SliceLocation&, const auto& gradient,
                                const Slice& v, SliceMask passes) {
                              for (int j = 0; j < elements_per_call; ++j) {
                                if ((passes >> j & 1) != 0) {
                                  // A gradient through a poisoned group is NaN, as v is and as
                                  // relu_backward decides.
                                  const float dy =
                                      rectifies<View> ? gradient[j] + 0 * v[j] : gradient[j];
                                  sum.value[j] += dy;
                                  product_sum.value[j] += dy * v[j];
                                }
                              }
                            });
    tile.map([&](int lane) {
      float* const to = sums + number * flat_group_size + octet_size * lane;
      for (int j = 0; j < elements_per_call; ++j) {
        const std::int64_t at = j % octet_size + j / octet_size * (flat_group_size / 2);
        to[at] = sum[j];
        to[at + this->deal.positions()] = product_sum[j];
      }
    });
  }
};

/// Writes dx. `dx` may be `dz`.
template <class T, class View, class Noise>
struct WriteInputGradient : Gradients<T, View, Noise> {
  Channels channels;
  const InputGradient* input_gradients;
  T* dx;

  __device__ void operator()(const WarpTile& tile, std::int64_t number) const {
    if (number >= this->deal.tiles) {
      return;
    }
    const LaneChannels of_lane = channels_of_lane(tile, channels, number);
    this->for_each_slice_of(
        tile, number,
        [&](std::int64_t first, const SliceLocation& location, const auto& gradient, const Slice& v,
            SliceMask passes) {
          Slice result;
          of_lane.for_each(input_gradients, [&](int j, const InputGradient& of_channel) {
            result.value[j] = of_channel((passes >> j & 1) != 0 ? gradient[j] : 0.0f, v[j]);
          });
          store_slice(dx + first, location, this->is_aligned, result);
        });
  }
};

/// The sums of AddGradients, and the gradients that finish_channels writes.
struct ChannelSums {
  const float* sums;
  Deal deal;
  Channels channels;
  const Channel* by_channel;
  SavedValue saved;
  std::int64_t count;  // elements of a channel, or 0 where statistics do not depend on x
  float* gamma_gradient;
  float* beta_gradient;
  InputGradient* input_gradients;
};

/// Adds up the positions of one channel with one block, always in the same order.
static __global__ void finish_channels(const __grid_constant__ ChannelSums task) {
  __shared__ double sum[block_threads], product_sum[block_threads];
  const Channels& channels = task.channels;
  const std::int64_t channel = blockIdx.x;
  const std::int64_t period = channels.period();
  const std::int64_t positions = task.deal.positions();
  const std::int64_t copies = (positions + period - 1) / period;
  const unsigned me = threadIdx.x;
  sum[me] = product_sum[me] = 0;
  for (std::int64_t i = me; i < copies * channels.inner; i += block_threads) {
    const std::int64_t position =
        i / channels.inner * period + channel * channels.inner + i % channels.inner;
    if (position < positions) {
      sum[me] += double{task.sums[position]};
      product_sum[me] += double{task.sums[positions + position]};
    }
  }
  for (unsigned half = block_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me < half) {
      sum[me] += sum[me + half];
      product_sum[me] += product_sum[me + half];
    }
  }
  if (me == 0) {
    const batch_norm::ChannelGradients gradients =
        finish_gradients(task.by_channel[channel], task.saved, sum[0], product_sum[0], task.count);
    task.gamma_gradient[channel] = gradients.gamma;
    task.beta_gradient[channel] = gradients.beta;
    task.input_gradients[channel] = gradients.input;
  }
}

#endif

}  // namespace actpack::detail
