// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One group of a packed tensor of either form, in a kernel; and packed_values on a device.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "actpack/cuda/group.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude.hpp"
#include "packed_values.hpp"

namespace packed_values {

inline constexpr int block_threads = 256;
inline constexpr std::int32_t group_size = 256;
inline constexpr int team_lanes = actpack::team_lanes(group_size);  // a slice for each
inline constexpr int teams_per_block = block_threads / team_lanes;

// Group `index` of a tensor of `numel` elements.
ACTPACK_HD inline actpack::GroupShape group_of(std::int64_t numel, std::int64_t index,
                                               std::int32_t bits) {
  const std::int64_t left = numel - index * group_size;
  const std::int64_t size = left < group_size ? left : std::int64_t{group_size};
  return {index, static_cast<std::int32_t>(size), group_size, bits};
}

// What a kept tensor is to a kernel. `Noise` is NearestNoise for plain decoding.
template <class View, class Noise>
struct Context {
  View view;
  Noise noise;
  float alpha;  // the share of the dither that decoding takes out
};

// Whether a ReLU stands behind: gradients pass where signs are set.
template <class View>
inline constexpr bool rectifies = std::is_same_v<View, actpack::SignMagnitudeView>;

// One group of a kept tensor of either form.

template <class Team, class Noise, class Load>
ACTPACK_HD void encode(const Team& team, const actpack::GroupShape& group, const Noise& noise,
                       const Load& load, const actpack::PackedView& out) {
  actpack::quantize_group(team, group, noise, load,
                          out.words + group.index * (group_size / 32) * group.bits,
                          out.params + group.index);
}
template <class Team, class Noise, class Load>
ACTPACK_HD void encode(const Team& team, const actpack::GroupShape& group, const Noise& noise,
                       const Load& load, const actpack::SignMagnitudeView& out) {
  const std::int64_t signs = group.index * (group_size / 32);
  actpack::encode_group(team, group, noise, load, out.sign_words + signs,
                        out.magnitude_words + signs * group.bits, out.params + group.index);
}

// As floats, none beyond the finite values of T.

template <class T, class Team, class Noise, class Store>
ACTPACK_HD void decode(const Team& team, const actpack::GroupShape& group,
                       const Context<actpack::PackedView, Noise>& in, const Store& store) {
  actpack::dequantize_group<T>(team, group, 0, group.size, in.noise, in.alpha,
                               in.view.words + group.index * (group_size / 32) * group.bits,
                               in.view.params[group.index], store);
}
template <class T, class Team, class Noise, class Store>
ACTPACK_HD void decode(const Team& team, const actpack::GroupShape& group,
                       const Context<actpack::SignMagnitudeView, Noise>& in, const Store& store) {
  const std::int64_t signs = group.index * (group_size / 32);
  actpack::decode_group<T>(team, group, 0, group.size, in.noise, in.alpha,
                           actpack::NegativeSide::kept, in.view.sign_words + signs,
                           in.view.magnitude_words + signs * group.bits,
                           in.view.params[group.index], store);
}

// The elements of a slice that gradients pass through, as a set; all of them in a poisoned group,
// whose signs say nothing.
template <class View, class Noise>
ACTPACK_HD std::uint32_t passing(const Context<View, Noise>& in, const actpack::GroupShape& group,
                                 const actpack::SlicePlace& place) {
  if constexpr (!rectifies<View>) {
    return place.present;
  } else if (std::isnan(float{in.view.params[group.index].positive})) {
    return place.present;
  } else {
    const auto* const bytes =
        reinterpret_cast<const std::uint8_t*>(in.view.sign_words) + group.index * (group_size / 8);
    std::uint32_t signs = 0;
    for (int run = 0; run < 2; ++run) {
      if ((place.present >> (8 * run) & 0xFF) != 0) {  // others may lie behind the last word
        signs |= std::uint32_t{bytes[place.first[run] / 8]} << (8 * run);
      }
    }
    return signs & place.present;
  }
}

#if defined(__CUDACC__) || defined(ACTPACK_SIMT)

__device__ inline std::int64_t team_number() {
  return std::int64_t{blockIdx.x} * teams_per_block + threadIdx.x / team_lanes;
}

// The calling lane's slice of a group, which starts at `first`.
template <class T>
__device__ auto load(const actpack::DeviceTeam& team, const actpack::GroupShape& group,
                     const T* first, bool is_aligned) {
  return team.map([&](int lane) {
    return actpack::load_slice(first, actpack::slice_at(group, lane, 0, group.size), is_aligned);
  });
}

// Two blocks a multiprocessor are to find registers.
#define ACTPACK_KERNEL __global__ void __launch_bounds__(block_threads, 2)

// decode_keeping_signs, a team for each group.
template <class T>
ACTPACK_KERNEL decode_groups_keeping_signs(
    const __grid_constant__ Context<actpack::SignMagnitudeView, actpack::NearestNoise> in,
    std::int64_t numel, std::int32_t bits, T* out, bool is_aligned) {
  const actpack::DeviceTeam team(team_lanes);
  const std::int64_t index = team_number();
  if (index * group_size >= numel) {
    return;
  }
  const actpack::GroupShape group = group_of(numel, index, bits);
  decode<T>(team, group, in, [&](const actpack::SlicePlace& place, const actpack::Slice& v) {
    const std::uint32_t positive = passing(in, group, place);
    actpack::Slice result = v;
    for (int j = 0; j < 16; ++j) {
      if ((positive >> j & 1) != 0) {
        result.value[j] = float{nonzero(T(v[j]), smallest_positive<T>())};
      }
    }
    actpack::store_slice(out + index * group_size, place, is_aligned, result);
  });
}

#endif

}  // namespace packed_values
