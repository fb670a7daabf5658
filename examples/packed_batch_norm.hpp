// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation whose backward pass reads a packed tensor as it goes: no decoded copy of it,
// no masked gradient and no normalised input ever exist in full. The examples for libtorch and
// PyTorch share it.
//
// Of y = gain · (x − mean) + beta either y is kept, with the ReLU behind it if there is one, or x.
// Whichever it is, v below, the normalised input is x̂ = (v − centre) · inverse; and with dy for the
// gradient with respect to y,
//   dx = gain · (dy − Σdy / M − x̂ · Σdy · x̂ / M)    over the M elements of a channel
// is of_dy · dy + of_v · v + constant, channel by channel: one pass for the sums, one for dx.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/config.hpp"

namespace packed_batch_norm {

// Which elements are a channel's: element e of memory is of channel e / inner % count. Every dense
// tensor has such an `inner`, whatever the order of its dimensions: the stride of the channels'.
struct Channels {
  std::int64_t count;
  std::int64_t inner;

  ACTPACK_HD std::int64_t of(std::int64_t element) const { return element / inner % count; }
};

// What is kept for the backward pass.
enum class Kept : std::int32_t { input, output };

// One channel's statistics and weights: four numbers, which a device reads at once.
struct alignas(16) Channel {
  float gain;  // gamma / deviation
  float mean;
  float beta;
  float inverse;

  ACTPACK_HD float centre(Kept kept) const { return kept == Kept::output ? beta : mean; }

  ACTPACK_HD float normalize(float x) const { return gain * (x - mean) + beta; }
};

// `least`: below this |gamma|, a channel's x̂ is not to be had from a rounded y with the precision
// of other channels', and is taken to be less: gamma / least² stands for 1 / gamma.
ACTPACK_HD inline Channel make_channel(float mean, float variance, float epsilon, float gamma,
                                       float beta, Kept kept, float least) {
  const float inverse_deviation = 1 / std::sqrt(variance + epsilon);
  const float square = gamma * gamma;
  const float least_square = least * least;
  const float bound = square < least_square ? least_square : square;
  const float inverse_gamma = bound == 0 ? 0 : gamma / bound;
  return {gamma * inverse_deviation, mean, beta,
          kept == Kept::output ? inverse_gamma : inverse_deviation};
}

// One operation on at least one element, by channel. Statistics and weights are for the forward
// pass, which writes `by_channel` for the backward pass.
struct Operation {
  Channels channels;
  Kept kept;
  float epsilon;
  float least;
  const float* mean;
  const float* variance;
  const float* gamma;  // null for ones
  const float* beta;   // null for zeros
  Channel* by_channel;
};

ACTPACK_HD inline Channel make_channel(const Operation& operation, std::int64_t c) {
  return make_channel(operation.mean[c], operation.variance[c], operation.epsilon,
                      operation.gamma == nullptr ? 1 : operation.gamma[c],
                      operation.beta == nullptr ? 0 : operation.beta[c], operation.kept,
                      operation.least);
}

// dx = of_dy · dy + of_v · v + constant, of one channel.
struct alignas(16) InputGradient {
  float of_dy, of_v, constant, unused;

  ACTPACK_HD float operator()(float dy, float v) const { return of_dy * dy + of_v * v + constant; }
};

struct ChannelGradients {
  float gamma, beta;
  InputGradient input;
};

// Given Σdy and Σdy · v over the `count` elements of a channel. With statistics that do not depend
// on x, as in evaluation, dx is gain · dy alone: `count` is 0 then.
ACTPACK_HD inline ChannelGradients finish(const Channel& channel, Kept kept, double sum,
                                          double product_sum, std::int64_t count) {
  const double inverse = double{channel.inverse};
  const double centre = double{channel.centre(kept)};
  const double of_gamma = (product_sum - centre * sum) * inverse;
  InputGradient input{channel.gain, 0, 0, 0};
  if (count != 0) {
    const double share = -double{channel.gain} / static_cast<double>(count);
    const double of_v = share * of_gamma * inverse;
    input.of_v = static_cast<float>(of_v);
    input.constant = static_cast<float>(share * sum - of_v * centre);
  }
  return {static_cast<float>(of_gamma), static_cast<float>(sum), input};
}

// ---- On the host --------------------------------------------------------------------------------

// Elements that are decoded at a time: two arrays of them are to stay in a core's cache.
inline constexpr std::int64_t tile_numel = 1 << 13;

// Neighbours of one channel, or, where channels are innermost, of one channel after the other.
struct Along {
  std::int64_t channel;
  std::int64_t of(std::int64_t) const { return channel; }
};
struct Across {
  std::int64_t channel;
  std::int64_t of(std::int64_t i) const { return channel + i; }
};

// Calls visit(run, begin, end) for the runs that elements [first, first + count) of memory consist
// of; begin and end count from `first`, and run.of(i − begin) is the channel of element i.
template <class Visit>
void for_each_run(Channels channels, std::int64_t first, std::int64_t count, const Visit& visit) {
  std::int64_t channel = channels.of(first);
  if (channels.inner == 1) {
    for (std::int64_t begin = 0; begin < count; channel = 0) {
      const std::int64_t end = std::min(begin + channels.count - channel, count);
      visit(Across{channel}, begin, end);
      begin = end;
    }
    return;
  }
  std::int64_t left = channels.inner - first % channels.inner;
  for (std::int64_t begin = 0; begin < count; left = channels.inner) {
    const std::int64_t end = std::min(begin + left, count);
    visit(Along{channel}, begin, end);
    channel = channel + 1 == channels.count ? 0 : channel + 1;
    begin = end;
  }
}

// Writes the operation's by_channel.
inline void write_channels(const Operation& operation) {
  for (std::int64_t c = 0; c < operation.channels.count; ++c) {
    operation.by_channel[c] = make_channel(operation, c);
  }
}

// y = gain · (x − mean) + beta, through `loop`, a loop as actpack's verbs take one. `y` may be `x`.
template <class T, class Loop>
void normalize(std::span<const T> x, Channels channels, const Channel* maps, std::span<T> y,
               const Loop& loop) {
  const std::int64_t numel = static_cast<std::int64_t>(x.size());
  loop((numel + tile_numel - 1) / tile_numel, [&](std::int64_t tile) {
    const std::int64_t first = tile * tile_numel;
    const T* const from = x.data() + first;
    T* const to = y.data() + first;
    for_each_run(channels, first, std::min(tile_numel, numel - first),
                 [&](auto run, std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     to[i] = T(maps[run.of(i - begin)].normalize(float{from[i]}));
                   }
                 });
  });
}

// What the backward pass reads of elements [first, first + v.size()) of memory: dy, and v. A Kept
// tensor `kept` has
//   void decode(first, std::span<float> v)                   writes v
//   std::span<const T> rectify(first, dz, std::span<T> dy)   returns dz as it is, or masked, in dy
template <class T>
struct Tile {
  std::array<float, tile_numel> values;
  std::array<T, tile_numel> memory;
  std::span<const T> dy;
  std::span<const float> v;

  template <class KeptTensor>
  void load(const KeptTensor& kept, std::int64_t first, std::span<const T> dz) {
    const std::span<float> decoded = std::span(values).first(dz.size());
    kept.decode(first, decoded);
    v = decoded;
    dy = kept.rectify(first, dz, std::span(memory).first(dz.size()));
  }
};

// Adds Σdy and Σdy · v of a run's channels to `sums`, two for each channel.
template <class T>
void add_run(Along run, const T* dy, const float* v, std::int64_t count, double* sums) {
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
    sums[2 * run.channel] += double{sum[j]};
    sums[2 * run.channel + 1] += double{product_sum[j]};
  }
}
template <class T>
void add_run(Across run, const T* dy, const float* v, std::int64_t count, double* sums) {
  double* const of_run = sums + 2 * run.channel;
  for (std::int64_t i = 0; i < count; ++i) {
    of_run[2 * i] += double{float{dy[i]}};
    of_run[2 * i + 1] += double{float{dy[i]} * v[i]};
  }
}

// Adds Σdy and Σdy · v of elements [first, first + dz.size()) to `sums`, two for each channel, in
// an order that does not depend on who runs the loop.
template <class T, class KeptTensor, class Loop>
void add_gradient_sums(std::span<const T> dz, std::int64_t first, const KeptTensor& kept,
                       Channels channels, std::span<double> sums, const Loop& loop) {
  const std::int64_t numel = static_cast<std::int64_t>(dz.size());
  const std::int64_t tiles = (numel + tile_numel - 1) / tile_numel;
  const std::int64_t parts = std::min<std::int64_t>(tiles, 64);
  std::vector<double> partial(static_cast<std::size_t>(parts) * sums.size());
  loop(parts, [&](std::int64_t part) {
    double* const of_part = partial.data() + part * static_cast<std::int64_t>(sums.size());
    Tile<T> tile;
    for (std::int64_t i = tiles * part / parts; i < tiles * (part + 1) / parts; ++i) {
      const std::int64_t begin = i * tile_numel;
      const std::int64_t count = std::min(tile_numel, numel - begin);
      tile.load(kept, first + begin,
                dz.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
      for_each_run(channels, first + begin, count,
                   [&](auto run, std::int64_t from, std::int64_t to) {
                     add_run(run, tile.dy.data() + from, tile.v.data() + from, to - from, of_part);
                   });
    }
  });
  for (std::size_t i = 0; i < partial.size(); ++i) {
    sums[i % sums.size()] += partial[i];
  }
}

// Given the sums of all elements, writes the gradients of all channels' gamma and beta, and returns
// how dx is computed; `count` as for one channel.
inline std::vector<InputGradient> finish(const Channel* by_channel, Kept kept,
                                         std::span<const double> sums, std::int64_t count,
                                         float* gamma_gradient, float* beta_gradient) {
  std::vector<InputGradient> input_gradients;
  for (std::size_t c = 0; c < sums.size() / 2; ++c) {
    const ChannelGradients gradients =
        finish(by_channel[c], kept, sums[2 * c], sums[2 * c + 1], count);
    gamma_gradient[c] = gradients.gamma;
    beta_gradient[c] = gradients.beta;
    input_gradients.push_back(gradients.input);
  }
  return input_gradients;
}

// dx of elements [first, first + dz.size()). `dx` may be `dz`.
template <class T, class KeptTensor, class Loop>
void input_gradient(std::span<const T> dz, std::int64_t first, const KeptTensor& kept,
                    Channels channels, const InputGradient* by_channel, std::span<T> dx,
                    const Loop& loop) {
  const std::int64_t numel = static_cast<std::int64_t>(dz.size());
  loop((numel + tile_numel - 1) / tile_numel, [&](std::int64_t i) {
    const std::int64_t start = i * tile_numel;
    const std::int64_t count = std::min(tile_numel, numel - start);
    Tile<T> tile;
    tile.load(kept, first + start,
              dz.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(count)));
    const T* const dy = tile.dy.data();
    const float* const v = tile.v.data();
    T* const out = dx.data() + start;
    for_each_run(channels, first + start, count,
                 [&](auto run, std::int64_t begin, std::int64_t end) {
                   for (std::int64_t j = begin; j < end; ++j) {
                     out[j] = T(by_channel[run.of(j - begin)](float{dy[j]}, v[j]));
                   }
                 });
  });
}

}  // namespace packed_batch_norm
