// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation on the host whose backward pass reads a packed tensor as it goes: no decoded
// copy of it, no masked gradient and no normalised input ever exist in full.
//
// `forward` and `backward` are the whole operation on an affine context, or on a sign-magnitude one
// if a ReLU follows. A trainer whose saved tensor looks different, or that goes through the batch
// in pieces, calls the loops below them. batch_norm_channels.hpp has the formulas.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/batch_norm_channels.hpp"
#include "actpack/detail/float_environment.hpp"
#include "actpack/detail/host/batch_norm_segments.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/parallel.hpp"
#include "actpack/quantize.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_channels(const batch_norm::Channels& channels) {
  refuse_unless(channels.count > 0, "channels.count = ", channels.count, " is not positive");
  refuse_unless(channels.inner > 0, "channels.inner = ", channels.inner, " is not positive");
}

template <class A, class B>
void require_same_size(std::span<A> a, const char* a_name, std::span<B> b, const char* b_name) {
  refuse_unless(a.size() == b.size(), a_name, ".size() = ", a.size(), " but ", b_name,
                ".size() = ", b.size());
}

}  // namespace actpack::detail

namespace actpack::batch_norm {

/// A tensor that the forward pass saved, as the backward pass reads it: `decode` writes the values
/// v of elements first, first + 1, …; `rectify` returns dz as it is, or masked by the signs, in dy.
template <class S, class T>
concept SavedTensor = requires(const S& saved, std::int64_t first, std::span<float> v,
                               std::span<const T> dz, std::span<T> dy) {
  saved.decode(first, v);
  { saved.rectify(first, dz, dy) } -> std::convertible_to<std::span<const T>>;
};

/// The saved tensor of an affine context [host memory].
struct SavedCodes {
  ConstPackedView context;
  Decoding decoding;

  ACTPACK_INLINE void decode(std::int64_t first, std::span<float> v) const {
    dequantize(context, first, v, decoding);
  }
  template <class T>
  ACTPACK_INLINE std::span<const T> rectify(std::int64_t, std::span<const T> dz,
                                            std::span<T>) const {
    return dz;
  }
};

/// The saved tensor of a sign-magnitude context [host memory], with a ReLU after it.
struct SavedSigns {
  ConstSignMagnitudeView context;
  Decoding decoding;

  ACTPACK_INLINE void decode(std::int64_t first, std::span<float> v) const {
    actpack::decode(context, first, v, decoding);
  }
  template <class T>
  ACTPACK_INLINE std::span<const T> rectify(std::int64_t first, std::span<const T> dz,
                                            std::span<T> dy) const {
    relu_backward(dz, context, first, dy);
    return dy;
  }
};

}  // namespace actpack::batch_norm

namespace actpack::batch_norm::inline ACTPACK_TARGET {

/// Writes the operation's by_channel [host, channels.count]. Throws std::invalid_argument if
/// channels are wrong.
inline void write_channels(const Operation& operation) {
  detail::require_channels(operation.channels);
  detail::in_default_float_environment([&] {
    for (std::int64_t c = 0; c < operation.channels.count; ++c) {
      operation.by_channel[c] = make_channel(operation, c);
    }
  });
}

/// Writes y = gain · (x − mean) + beta: `x`, `y` [host] of one size, element 0 of channel 0;
/// `by_channel` [host, channels.count]. `y` may be `x`. Throws std::invalid_argument before
/// anything is written. Allocates nothing.
template <class T, ParallelFor Loop = Serial>
void normalize(std::span<const T> x, Channels channels, const Channel* by_channel, std::span<T> y,
               const Loop& parallel = {}) {
  detail::require_channels(channels);
  detail::require_same_size(y, "y", x, "x");
  detail::for_each_segment(
      static_cast<std::int64_t>(x.size()), parallel, [&](std::int64_t first, std::int64_t count) {
        const T* const from = x.data() + first;
        T* const to = y.data() + first;
        detail::for_each_stretch(
            channels, first, count, [&](auto stretch, std::int64_t begin, std::int64_t end) {
              for (std::int64_t i = begin; i < end; ++i) {
                to[i] = T(by_channel[stretch.of(i - begin)].normalize(float{from[i]}));
              }
            });
      });
}

/// Adds Σdy and Σdy · v of elements [first, first + dz.size()) of memory to `sums` [host,
/// 2 · channels.count], two for each channel. `dz` [host] is the gradient after the ReLU, if there
/// is one. Sums do not depend on who runs the loop. Throws std::invalid_argument before anything is
/// written. Allocates up to 64 copies of the sums.
template <class T, SavedTensor<T> Saved, ParallelFor Loop = Serial>
void add_gradient_sums(std::span<const T> dz, std::int64_t first, const Saved& saved,
                       Channels channels, std::span<double> sums, const Loop& parallel = {}) {
  detail::require_channels(channels);
  detail::refuse_unless(sums.size() == 2 * static_cast<std::size_t>(channels.count),
                        "sums.size() = ", sums.size(), " instead of ", 2 * channels.count,
                        ", two for each channel");
  constexpr std::int64_t segment_numel = detail::batch_norm_segment_numel;
  const std::int64_t numel = static_cast<std::int64_t>(dz.size());
  const std::int64_t segments = (numel + segment_numel - 1) / segment_numel;
  const std::int64_t shares = std::min<std::int64_t>(segments, 64);
  std::vector<double> partial(static_cast<std::size_t>(shares) * sums.size());
  detail::run_loop(shares, parallel, [&](std::int64_t share) {
    double* const of_share = partial.data() + share * static_cast<std::int64_t>(sums.size());
    detail::GradientSegment<T> segment;
    for (std::int64_t i = segments * share / shares; i < segments * (share + 1) / shares; ++i) {
      const std::int64_t begin = i * segment_numel;
      const std::int64_t count = (std::min)(segment_numel, numel - begin);
      segment.load(saved, first + begin,
                   dz.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
      detail::for_each_stretch(channels, first + begin, count,
                               [&](auto stretch, std::int64_t from, std::int64_t to) {
                                 detail::add_stretch(stretch, segment.dy.data() + from,
                                                     segment.v.data() + from, to - from, of_share);
                               });
    }
  });
  detail::in_default_float_environment([&] {
    for (std::size_t i = 0; i < partial.size(); ++i) {
      sums[i % sums.size()] += partial[i];
    }
  });
}

/// Writes the gradients of gamma and beta [host, channels each], given the sums over all elements,
/// and returns each channel's way to dx; `count` as for one channel.
inline std::vector<InputGradient> finish_gradients(const Channel* by_channel, SavedValue saved,
                                                   std::span<const double> sums, std::int64_t count,
                                                   float* gamma_gradient, float* beta_gradient) {
  std::vector<InputGradient> input_gradients(sums.size() / 2);
  detail::in_default_float_environment([&] {
    for (std::size_t c = 0; c < input_gradients.size(); ++c) {
      const ChannelGradients gradients =
          finish_gradients(by_channel[c], saved, sums[2 * c], sums[2 * c + 1], count);
      gamma_gradient[c] = gradients.gamma;
      beta_gradient[c] = gradients.beta;
      input_gradients[c] = gradients.input;
    }
  });
  return input_gradients;
}

/// Writes dx of elements [first, first + dz.size()) of memory: `dz`, `dx` [host] of one size,
/// `by_channel` [host, channels.count] as finish_gradients returns it. `dx` may be `dz`. Throws
/// std::invalid_argument before anything is written. Allocates nothing.
template <class T, SavedTensor<T> Saved, ParallelFor Loop = Serial>
void input_gradient(std::span<const T> dz, std::int64_t first, const Saved& saved,
                    Channels channels, const InputGradient* by_channel, std::span<T> dx,
                    const Loop& parallel = {}) {
  detail::require_channels(channels);
  detail::require_same_size(dx, "dx", dz, "dz");
  detail::for_each_segment(
      static_cast<std::int64_t>(dz.size()), parallel, [&](std::int64_t start, std::int64_t count) {
        detail::GradientSegment<T> segment;
        segment.load(saved, first + start,
                     dz.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(count)));
        const T* const dy = segment.dy.data();
        const float* const v = segment.v.data();
        T* const out = dx.data() + start;
        detail::for_each_stretch(channels, first + start, count,
                                 [&](auto stretch, std::int64_t begin, std::int64_t end) {
                                   for (std::int64_t j = begin; j < end; ++j) {
                                     out[j] =
                                         T(by_channel[stretch.of(j - begin)](float{dy[j]}, v[j]));
                                   }
                                 });
      });
}

/// Writes by_channel, packs the saved tensor into `out` [host memory], and writes y: `x`, `y`
/// [host, layout.numel()]. `y` may be `x`. Throws std::invalid_argument as `normalize` and
/// `quantize` do. Allocates nothing.
template <class T, ParallelFor Loop = Serial>
void forward(const Operation& operation, std::span<const T> x, const PackedView& out,
             const Rounding& rounding, std::span<T> y, const Loop& parallel = {}) {
  write_channels(operation);
  if (operation.saved == SavedValue::input) {
    quantize(x, out, rounding, parallel);
  }
  normalize(x, operation.channels, operation.by_channel, y, parallel);
  if (operation.saved == SavedValue::output) {
    quantize(std::span<const T>(y), out, rounding, parallel);
  }
}

/// The same with a ReLU after it: packs y and its signs, and writes max(y, 0). Precondition:
/// operation.saved is SavedValue::output.
template <class T, ParallelFor Loop = Serial>
void forward(const Operation& operation, std::span<const T> x, const SignMagnitudeView& out,
             const Rounding& rounding, std::span<T> y, const Loop& parallel = {}) {
  detail::refuse_unless(
      operation.saved == SavedValue::output,
      "operation.saved is the input, but a sign-magnitude context holds the output");
  write_channels(operation);
  normalize(x, operation.channels, operation.by_channel, y, parallel);
  encode(std::span<const T>(y), out, rounding, parallel);
  detail::rectify_in_place(y, parallel);
}

/// Writes the gradients of gamma and beta [host, channels.count each] and, unless it is empty, dx
/// [host, layout.numel()], given dz [host, layout.numel()], the gradient after the ReLU if there
/// is one. `saved` is a SavedCodes or SavedSigns of what `forward` packed; `count` are the elements
/// of a channel, or 0 where statistics do not depend on x. `dx` may be `dz`. Throws
/// std::invalid_argument before anything is written. Allocates as add_gradient_sums does.
template <class T, SavedTensor<T> Saved, ParallelFor Loop = Serial>
void backward(const Operation& operation, std::span<const T> dz, const Saved& saved,
              std::int64_t count, float* gamma_gradient, float* beta_gradient, std::span<T> dx,
              const Loop& parallel = {}) {
  std::vector<double> sums(2 * static_cast<std::size_t>(operation.channels.count));
  add_gradient_sums(dz, 0, saved, operation.channels, std::span(sums), parallel);
  const std::vector<InputGradient> input_gradients = finish_gradients(
      operation.by_channel, operation.saved, sums, count, gamma_gradient, beta_gradient);
  if (!dx.empty()) {
    input_gradient(dz, 0, saved, operation.channels, input_gradients.data(), dx, parallel);
  }
}

}  // namespace actpack::batch_norm
