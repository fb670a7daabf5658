// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// packed_batch_norm on a device: kernels that normalise, rectify and pack in one pass, and whose
// backward pass decodes as it goes.
//
// A lane's elements must be of the same channels in every group it takes, so that sums stay in
// registers and channels are found once. What channels repeat after is a period: an image, or
// where they are innermost a pixel; so groups that lie a multiple of both, period and group, apart
// go to the same team.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "actpack/cuda/group.hpp"
#include "packed_batch_norm.hpp"
#include "packed_values_kernels.hpp"

namespace packed_batch_norm {

using namespace packed_values;

// How a tensor's groups are dealt out: team t takes groups t, t + teams, t + 2 teams, …
struct Deal {
  std::int64_t numel;
  std::int64_t groups;
  std::int64_t teams;
  std::int32_t bits;

  // Teams for several waves of blocks on a large device, lest half of the last one idle.
  static Deal of(const actpack::Layout& layout, Channels channels) {
    constexpr std::int64_t wanted = 1 << 14;
    const std::int64_t period = channels.count * channels.inner;
    const std::int64_t groups = layout.num_groups();
    const std::int64_t stride = period / std::gcd(period, std::int64_t{group_size});
    const std::int64_t teams = stride * std::max<std::int64_t>(wanted / stride, 1);
    return {layout.numel(), groups, std::min(teams, groups), layout.bits};
  }

  ACTPACK_HD std::int64_t positions() const { return teams * group_size; }

  ACTPACK_HD actpack::GroupShape group(std::int64_t index) const {
    return group_of(numel, index, bits);
  }
  unsigned blocks() const {
    return static_cast<unsigned>((teams + teams_per_block - 1) / teams_per_block);
  }
};

// The channels of the eight neighbours of a run.
class RunChannels {
 public:
  ACTPACK_HD RunChannels(Channels channels, std::int64_t first)
      : count_(static_cast<std::int32_t>(channels.count)),
        inner_(static_cast<std::int32_t>(channels.inner)),
        first_(static_cast<std::int32_t>(channels.of(first))),
        left_(static_cast<std::int32_t>(channels.inner - first % channels.inner)) {}

  // Calls f(j, what `by_channel` says of neighbour j).
  template <class ByChannel, class F>
  ACTPACK_HD void for_each(const ByChannel* by_channel, const F& f) const {
    const bool is_one = left_ >= 8;
    const bool are_in_a_row = inner_ == 1 && first_ + 8 <= count_;
    if (is_one || are_in_a_row) {
      const std::int32_t step = is_one ? 0 : 1;
      for (int j = 0; j < 8; ++j) {
        f(j, by_channel[first_ + j * step]);
      }
      return;
    }
    std::int32_t channel = first_;
    std::int32_t left = left_;
    for (int j = 0; j < 8; ++j) {
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

// Those of a lane's two runs, which are the same in every group that its team takes.
struct LaneChannels {
  RunChannels run[2];

  template <class ByChannel, class F>
  ACTPACK_HD void for_each(const ByChannel* by_channel, const F& f) const {
    for (int i = 0; i < 2; ++i) {
      run[i].for_each(by_channel,
                      [&](int j, const ByChannel& of_channel) { f(8 * i + j, of_channel); });
    }
  }
};

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

// Writes the operation's by_channel, before the forward pass.
static __global__ void make_channels(Operation operation) {
  const std::int64_t c = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
  if (c < operation.channels.count) {
    operation.by_channel[c] = make_channel(operation, c);
  }
}

__device__ inline LaneChannels channels_of_lane(const actpack::DeviceTeam& team, Channels channels,
                                                std::int64_t team_index) {
  return team.map([&](int lane) {
    const std::int64_t first = team_index * group_size + 8 * lane;
    return LaneChannels{{{channels, first}, {channels, first + group_size / 2}}};
  });
}

// Packs y or x and writes y, or max(y, 0). `y` may be `x`.
template <Kept kept, class T, class View, class Noise>
ACTPACK_KERNEL normalize_and_pack(const T* x, const __grid_constant__ Context<View, Noise> out,
                                  Deal deal, Channels channels, const Channel* by_channel, T* y,
                                  bool is_aligned) {
  const actpack::DeviceTeam team(team_lanes);
  const std::int64_t number = team_number();
  const LaneChannels of_lane = channels_of_lane(team, channels, number);
  // All lanes of a warp go on together: those without a group keep the others company.
  const std::int64_t rounds = (deal.groups + deal.teams - 1) / deal.teams;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::int64_t index = number + round * deal.teams;
    actpack::GroupShape group{index, 0, group_size, deal.bits};
    if (number < deal.teams && index < deal.groups) {
      group = deal.group(index);
    }
    const std::int64_t first = index * group_size;
    encode(
        team, group, out.noise,
        [&](const actpack::SlicePlace& place) {
          const auto in = actpack::load_slice(x + first, place, is_aligned);
          actpack::Slice kept_values, written;
          of_lane.for_each(by_channel, [&](int j, const Channel& channel) {
            const float value{T(channel.normalize(in[j]))};
            kept_values.value[j] = kept == Kept::output ? value : in[j];
            written.value[j] = rectifies<View> && value <= 0 ? 0 : value;
          });
          actpack::store_slice(y + first, place, is_aligned, written);
          return kept_values;
        },
        out.view);
  }
}

// Writes Σdy of every position to sums[position], and Σdy · v to sums[positions + position].
template <class T, class View, class Noise>
ACTPACK_KERNEL add_gradients(const T* dz, const __grid_constant__ Context<View, Noise> in,
                             Deal deal, float* sums, bool is_aligned) {
  const actpack::DeviceTeam team(team_lanes);
  const std::int64_t number = team_number();
  if (number >= deal.teams) {
    return;
  }
  actpack::Slice sum{}, product_sum{};
  for (std::int64_t index = number; index < deal.groups; index += deal.teams) {
    const actpack::GroupShape group = deal.group(index);
    const auto gradient = load(team, group, dz + index * group_size, is_aligned);
    decode<float>(team, group, in, [&](const actpack::SlicePlace& place, const actpack::Slice& v) {
      const std::uint32_t passes = passing(in, group, place);
      for (int j = 0; j < 16; ++j) {
        if ((passes >> j & 1) != 0) {
          // As relu_backward has it, what comes through a poisoned group is NaN: as v is.
          const float dy = rectifies<View> ? gradient[j] + 0 * v[j] : gradient[j];
          sum.value[j] += dy;
          product_sum.value[j] += dy * v[j];
        }
      }
    });
  }
  team.map([&](int lane) {
    float* const to = sums + number * group_size + 8 * lane;
    for (int j = 0; j < 16; ++j) {
      const std::int64_t at = j % 8 + j / 8 * (group_size / 2);
      to[at] = sum[j];
      to[at + deal.positions()] = product_sum[j];
    }
  });
}

// One block a channel: adds up its positions, always in the same order. `elements`: of a channel,
// or 0 where statistics do not depend on x.
static __global__ void finish_channels(const float* sums, Deal deal, Channels channels,
                                       const Channel* by_channel, Kept kept, std::int64_t elements,
                                       float* gamma_gradient, float* beta_gradient,
                                       InputGradient* input_gradients) {
  __shared__ double sum[block_threads], product_sum[block_threads];
  const std::int64_t channel = blockIdx.x;
  const std::int64_t period = channels.count * channels.inner;
  const std::int64_t copies = (deal.positions() + period - 1) / period;
  const unsigned me = threadIdx.x;
  sum[me] = product_sum[me] = 0;
  for (std::int64_t i = me; i < copies * channels.inner; i += block_threads) {
    const std::int64_t position =
        i / channels.inner * period + channel * channels.inner + i % channels.inner;
    if (position < deal.positions()) {
      sum[me] += double{sums[position]};
      product_sum[me] += double{sums[deal.positions() + position]};
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
    const ChannelGradients gradients =
        finish(by_channel[channel], kept, sum[0], product_sum[0], elements);
    gamma_gradient[channel] = gradients.gamma;
    beta_gradient[channel] = gradients.beta;
    input_gradients[channel] = gradients.input;
  }
}

// `dx` may be `dz`.
template <class T, class View, class Noise>
ACTPACK_KERNEL write_input_gradient(const T* dz, const __grid_constant__ Context<View, Noise> in,
                                    Deal deal, Channels channels,
                                    const InputGradient* input_gradients, T* dx, bool is_aligned) {
  const actpack::DeviceTeam team(team_lanes);
  const std::int64_t number = team_number();
  if (number >= deal.teams) {
    return;
  }
  const LaneChannels of_lane = channels_of_lane(team, channels, number);
  for (std::int64_t index = number; index < deal.groups; index += deal.teams) {
    const actpack::GroupShape group = deal.group(index);
    const std::int64_t first = index * group_size;
    const auto gradient = load(team, group, dz + first, is_aligned);
    decode<float>(team, group, in, [&](const actpack::SlicePlace& place, const actpack::Slice& v) {
      const std::uint32_t passes = passing(in, group, place);
      actpack::Slice result;
      of_lane.for_each(input_gradients, [&](int j, const InputGradient& of_channel) {
        result.value[j] = of_channel((passes >> j & 1) != 0 ? gradient[j] : 0.0f, v[j]);
      });
      actpack::store_slice(dx + first, place, is_aligned, result);
    });
  }
}

#endif

}  // namespace packed_batch_norm
