// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The loops of batch normalisation over segments of a tensor, each small enough to stay in a core's
// cache, and over the stretches of one channel that a segment consists of.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/batch_norm_channels.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Elements that are decoded at a time: two arrays of them stay in a core's cache.
inline constexpr std::int64_t batch_norm_segment_numel = 1 << 13;

/// Calls body(first, count) for the segments of `numel` elements, through `parallel`.
template <class Loop, class Body>
void for_each_segment(std::int64_t numel, const Loop& parallel, const Body& body) {
  constexpr std::int64_t size = batch_norm_segment_numel;
  run_loop((numel + size - 1) / size, parallel, [&](std::int64_t segment) {
    const std::int64_t first = segment * size;
    body(first, (std::min)(size, numel - first));
  });
}

/// Neighbours of one channel.
struct OneChannel {
  std::int64_t channel;
  std::int64_t of(std::int64_t) const { return channel; }
};
/// Neighbours of one channel after the other, where channels are innermost.
struct ChannelAfterChannel {
  std::int64_t channel;
  std::int64_t of(std::int64_t i) const { return channel + i; }
};

/// Calls visit(stretch, begin, end) for the stretches that elements [first, first + count) of
/// memory consist of; begin and end count from `first`, and stretch.of(i − begin) is the channel of
/// element i.
template <class Visit>
void for_each_stretch(batch_norm::Channels channels, std::int64_t first, std::int64_t count,
                      const Visit& visit) {
  std::int64_t channel = channels.of(first);
  if (channels.inner == 1) {
    for (std::int64_t begin = 0; begin < count; channel = 0) {
      const std::int64_t end = (std::min)(begin + channels.count - channel, count);
      visit(ChannelAfterChannel{channel}, begin, end);
      begin = end;
    }
    return;
  }
  std::int64_t left = channels.inner - first % channels.inner;
  for (std::int64_t begin = 0; begin < count; left = channels.inner) {
    const std::int64_t end = (std::min)(begin + left, count);
    visit(OneChannel{channel}, begin, end);
    channel = channel + 1 == channels.count ? 0 : channel + 1;
    begin = end;
  }
}

/// The backward pass's view of elements [first, first + v.size()) of memory: dy, and v.
template <class T>
struct GradientSegment {
  std::array<float, batch_norm_segment_numel> values;
  std::array<T, batch_norm_segment_numel> memory;
  std::span<const T> dy;
  std::span<const float> v;

  template <class SavedTensor>
  void load(const SavedTensor& saved, std::int64_t first, std::span<const T> dz) {
    const std::span<float> decoded = std::span(values).first(dz.size());
    saved.decode(first, decoded);
    v = decoded;
    dy = saved.rectify(first, dz, std::span(memory).first(dz.size()));
  }
};

/// Adds Σdy and Σdy · v of a stretch's channels to `sums`, two for each channel.
template <class T>
void add_stretch(OneChannel stretch, const T* dy, const float* v, std::int64_t count,
                 double* sums) {
  constexpr std::int64_t lanes = 16;  // independent sums: the compiler makes vectors of them
  std::array<float, lanes> sum{};
  std::array<float, lanes> product_sum{};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) {
      const float gradient = float{dy[i + static_cast<std::int64_t>(j)]};
      sum[j] += gradient;
      product_sum[j] += gradient * v[i + static_cast<std::int64_t>(j)];
    }
  }
  for (std::size_t j = 0; i < count; ++i, ++j) {
    sum[j] += float{dy[i]};
    product_sum[j] += float{dy[i]} * v[i];
  }
  for (std::size_t j = 0; j < lanes; ++j) {
    sums[2 * stretch.channel] += static_cast<double>(sum[j]);
    sums[2 * stretch.channel + 1] += static_cast<double>(product_sum[j]);
  }
}
template <class T>
void add_stretch(ChannelAfterChannel stretch, const T* dy, const float* v, std::int64_t count,
                 double* sums) {
  double* const of_stretch = sums + 2 * stretch.channel;
  for (std::int64_t i = 0; i < count; ++i) {
    of_stretch[2 * i] += static_cast<double>(float{dy[i]});
    of_stretch[2 * i + 1] += static_cast<double>(float{dy[i]} * v[i]);
  }
}

/// Writes 0 in place of values that are not positive; NaN stays.
template <class T, class Loop>
void rectify_in_place(std::span<T> y, const Loop& parallel) {
  for_each_segment(static_cast<std::int64_t>(y.size()), parallel,
                   [&](std::int64_t first, std::int64_t count) {
                     for (std::int64_t e = first; e < first + count; ++e) {
                       y.data()[e] = float{y.data()[e]} <= 0 ? T(0.0f) : y.data()[e];
                     }
                   });
}

}  // namespace actpack::detail
