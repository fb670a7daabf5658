// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation in double precision as a textbook has it, and batches for the tests that
// compare the library's with it.
//
// Errors are bounded, not estimated: u = 2^−24 is float's largest relative rounding error. Each
// bound counts the roundings that lie behind one another on the way to a result and multiplies them
// by the sum of the absolute values of its terms, so that it holds whatever cancels.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <actpack/batch_norm.hpp>
#include <actpack/float16.hpp>
#include <actpack/layout.hpp>

#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace reference::batch_norm {

using namespace actpack::batch_norm;
using actpack::bfloat16, actpack::float16;
using actpack::Decoding, actpack::Rounding;
using actpack::Layout;
using actpack::PackedView, actpack::SignMagnitudeView;
using support::GuardedBuffer, support::PlacedBuffer;

// ---- Tensors ------------------------------------------------------------------------------------

// `images` times `count` channels times `inner` neighbours; where channels are innermost, `images`
// are pixels.
struct Shape {
  std::int64_t images;
  std::int64_t count;
  std::int64_t inner;

  Channels channels() const { return {count, inner}; }
  std::int64_t numel() const { return images * count * inner; }
  std::int64_t elements() const { return images * inner; }  // of a channel
  Layout layout(int bits) const { return {.row_size = numel(), .bits = bits}; }
};

// Calls f(element, channel) for the elements of a tensor in the order of memory.
template <class F>
void for_each_element(const Shape& shape, const F& f) {
  std::size_t element = 0;
  for (std::int64_t image = 0; image < shape.images; ++image) {
    for (std::int64_t channel = 0; channel < shape.count; ++channel) {
      for (std::int64_t i = 0; i < shape.inner; ++i)
        f(element++, static_cast<std::size_t>(channel));
    }
  }
}

inline std::string name_of(const Shape& shape) {
  return std::to_string(shape.images) + " x " + std::to_string(shape.count) + " x " +
         std::to_string(shape.inner);
}

// Below this |gamma| a channel's x̂ is taken to be less.
constexpr float smallest_gamma = 0.125f;
constexpr float epsilon = 1e-5f;

// Activations, their statistics, weights, and the gradient from behind.
template <class T>
struct Batch {
  Shape shape;
  std::vector<T> x, dz;
  std::vector<float> mean, variance, gamma, beta;
};

template <class T>
Batch<T> make_batch(const Shape& shape, std::uint64_t data_seed) {
  support::Generator generator(data_seed);
  const auto numel = static_cast<std::size_t>(shape.numel());
  const auto count = static_cast<std::size_t>(shape.count);
  Batch<T> batch;
  batch.shape = shape;
  batch.x.resize(numel);
  // Gradients do not average out, so that both sums matter to dx.
  batch.dz = support::stored<T>(support::gaussian(numel, data_seed + 1, 0.5));
  batch.beta = support::gaussian(count, data_seed + 2, 0.2);
  std::vector<double> center, scale;
  for (std::size_t c = 0; c < count; ++c) {
    center.push_back(generator.uniform(-2, 2));
    scale.push_back(generator.uniform(0.5, 2));
    const double sign = generator.below(4) == 0 ? -1 : 1;
    // Every seventh is too small to be divided by, some are 0.
    const double size =
        c % 7 == 2 ? (c % 2 == 0 ? 0 : smallest_gamma / 3) : generator.uniform(0.5, 1.5);
    batch.gamma.push_back(static_cast<float>(sign * size));
    if (size == 0) batch.beta[c] = -0.0f;  // so that some y are −0
  }
  std::vector<double> sum(count), square_sum(count);
  for_each_element(shape, [&](std::size_t e, std::size_t c) {
    batch.x[e] = support::stored<T>(static_cast<float>(center[c] + scale[c] * generator.normal()));
    sum[c] += double{float{batch.x[e]}};
    square_sum[c] += double{float{batch.x[e]}} * double{float{batch.x[e]}};
  });
  for (std::size_t c = 0; c < count; ++c) {
    const double mean = sum[c] / static_cast<double>(shape.elements());
    batch.mean.push_back(static_cast<float>(mean));
    batch.variance.push_back(static_cast<float>(
        std::max(square_sum[c] / static_cast<double>(shape.elements()) - mean * mean, 0.0)));
  }
  return batch;
}

template <class T>
std::vector<Channel> channels_of(const Batch<T>& batch, SavedValue saved) {
  std::vector<Channel> channels;
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    channels.push_back(make_channel(batch.mean[c], batch.variance[c], epsilon, batch.gamma[c],
                                    batch.beta[c], saved, smallest_gamma));
  }
  return channels;
}

// ---- The textbook -------------------------------------------------------------------------------

constexpr double u = 0x1p-24;

// The largest distance from a number to its nearest T; a float is already there.
template <class T>
double rounding_error(double value) {
  if constexpr (std::is_same_v<T, float16>) {
    return std::max(0x1p-11 * std::fabs(value), 0x1p-25);  // subnormal numbers are 2^−24 apart
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return 0x1p-8 * std::fabs(value);
  } else {
    return 0;
  }
}

struct Bounded {
  double value;
  double error;
};

// Stored as a T: a value that is off may be rounded too.
template <class T>
Bounded stored_as(double value, double error) {
  return {value, error + rounding_error<T>(std::fabs(value) + error)};
}

template <class T>
void check_near(std::span<const T> got, const std::vector<Bounded>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::fabs(double{float{got[i]}} - expected[i].value);
    if (!(off <= expected[i].error)) {
      CAPTURE(i);
      CAPTURE(float{got[i]});
      CAPTURE(expected[i].value);
      CHECK(off <= expected[i].error);
      return;
    }
  }
}

template <class T>
class Textbook {
 public:
  explicit Textbook(const Batch<T>& batch) : batch_(batch) {}

  double deviation(std::size_t c) const {
    return std::sqrt(double{batch_.variance[c]} + double{epsilon});
  }

  // y = gamma · x̂ + beta. In float: 4 roundings for gain (the sum under the root, whose error the
  // root halves, the root, the quotient and the product), the difference, the product and the sum:
  // 7 behind one another.
  std::vector<Bounded> outputs() const {
    std::vector<Bounded> y(batch_.x.size());
    for_each_element(batch_.shape, [&](std::size_t e, std::size_t c) {
      const double normalized =
          (double{float{batch_.x[e]}} - double{batch_.mean[c]}) / deviation(c);
      const double product = double{batch_.gamma[c]} * normalized;
      const double beta{batch_.beta[c]};
      y[e] = stored_as<T>(product + beta, 7 * u * (std::fabs(product) + std::fabs(beta)));
    });
    return y;
  }

  struct Gradients {
    std::vector<Bounded> gamma, beta, x;
  };

  // From dy, the gradient with respect to y, and what was saved, as it was decoded. `additions`:
  // the most floats that are added one after the other. The other roundings, at most: behind Σdy
  // its own; behind Σdy · x̂ the product's, three of 1 / gamma or 1 / deviation, and its own; behind
  // dx those, four of gain, three more of 1 / gamma, one of a coefficient, and three of dx's
  // product and sums: 1, 5 and 16. Double's do not count.
  Gradients gradients(const std::vector<double>& dy, const std::vector<float>& v, SavedValue saved,
                      bool are_statistics_of_x, std::int64_t additions) const {
    const std::size_t count = batch_.mean.size();
    const auto elements = static_cast<double>(batch_.shape.elements());
    const auto roundings = [&](int others) {
      return (static_cast<double>(additions) + others) * u;
    };
    std::vector<double> sum(count), product_sum(count), size(count), product_size(count);
    for_each_element(batch_.shape, [&](std::size_t e, std::size_t c) {
      const Normalization x_hat = normalization(saved, c);
      const double value{v[e]};
      sum[c] += dy[e];
      product_sum[c] += dy[e] * x_hat.inverse * (value - x_hat.centre);
      size[c] += std::fabs(dy[e]);
      product_size[c] += std::fabs(dy[e]) * x_hat.size_of(value);
    });
    Gradients gradients;
    for (std::size_t c = 0; c < count; ++c) {
      gradients.beta.push_back({sum[c], roundings(1) * size[c]});
      gradients.gamma.push_back({product_sum[c], roundings(5) * product_size[c]});
    }
    gradients.x.resize(dy.size());
    for_each_element(batch_.shape, [&](std::size_t e, std::size_t c) {
      const Normalization x_hat = normalization(saved, c);
      const double value{v[e]};
      const double gain = double{batch_.gamma[c]} / deviation(c);
      double dx = dy[e];
      double terms = std::fabs(dy[e]);
      if (are_statistics_of_x) {
        dx -= sum[c] / elements;
        dx -= x_hat.inverse * (value - x_hat.centre) * product_sum[c] / elements;
        terms += size[c] / elements + x_hat.size_of(value) * product_size[c] / elements;
      }
      gradients.x[e] = stored_as<T>(gain * dx, roundings(16) * std::fabs(gain) * terms);
    });
    return gradients;
  }

 private:
  // x̂ = (v − centre) · inverse
  struct Normalization {
    double centre, inverse;
    double size_of(double v) const {
      return std::fabs(inverse) * (std::fabs(v) + std::fabs(centre));
    }
  };
  Normalization normalization(SavedValue saved, std::size_t c) const {
    if (saved == SavedValue::input) return {double{batch_.mean[c]}, 1 / deviation(c)};
    const double gamma{batch_.gamma[c]};
    const double smallest{smallest_gamma};
    return {double{batch_.beta[c]},
            std::fabs(gamma) < smallest ? gamma / (smallest * smallest) : 1 / gamma};
  }

  const Batch<T>& batch_;
};

// ---- Saved tensors ------------------------------------------------------------------------------

enum class Noise { nearest, stochastic };

template <class Element, class SavedView, SavedValue which, Noise noise_of_both>
struct Setup {
  using T = Element;
  using View = SavedView;
  static constexpr SavedValue saved = which;
  static constexpr Noise noise = noise_of_both;
};
template <class T, Noise noise>
using Rectified = Setup<T, SignMagnitudeView, SavedValue::output, noise>;
template <class T, Noise noise>
using Output = Setup<T, PackedView, SavedValue::output, noise>;
template <class T, Noise noise>
using Input = Setup<T, PackedView, SavedValue::input, noise>;

// All three types and all three forms, either noise with each.
#define ACTPACK_BATCH_NORM_SETUPS                                                  \
  Rectified<float, Noise::stochastic>, Output<float, Noise::nearest>,              \
      Input<float, Noise::stochastic>, Rectified<float16, Noise::nearest>,         \
      Output<float16, Noise::stochastic>, Input<float16, Noise::nearest>,          \
      Rectified<bfloat16, Noise::stochastic>, Output<bfloat16, Noise::stochastic>, \
      Input<bfloat16, Noise::nearest>

constexpr std::uint64_t seed = 5;
constexpr std::uint64_t offset = 6;

template <class S>
Rounding rounding_of() {
  return S::noise == Noise::nearest ? Rounding::nearest() : Rounding::stochastic(seed, offset);
}

// True if a ReLU follows.
template <class View>
constexpr bool is_rectified = std::is_same_v<View, SignMagnitudeView>;

// A packed tensor, as the host's verbs write and read it.
template <class View>
using Packed =
    std::conditional_t<is_rectified<View>, support::GuardedSignMagnitude, support::GuardedPacked>;

template <class T, class Loop = actpack::Serial>
std::vector<T> normalized(const Batch<T>& batch, const std::vector<Channel>& channels,
                          const Loop& loop = {}) {
  GuardedBuffer<T> y(batch.x.size());
  normalize(std::span<const T>(batch.x), batch.shape.channels(), channels.data(), y.span(), loop);
  return y.values();
}

// max(y, 0), which is +0 where y is −0, and NaN where y is.
template <class T>
std::vector<T> relu(const std::vector<T>& y) {
  std::vector<T> result;
  for (const T value : y) result.push_back(float{value} <= 0 ? T(0.0f) : value);
  return result;
}

// A batch as the forward pass leaves it behind for the backward pass, by the host's verbs. `alpha`
// changes nothing for data rounded to nearest: they decode plainly.
template <class S>
struct Forward {
  using T = typename S::T;
  static constexpr bool has_relu = is_rectified<typename S::View>;

  Forward(const Batch<T>& batch, int bits, float alpha = 1)
      : channels(channels_of(batch, S::saved)), y(normalized(batch, channels)),
        packed(batch.shape.layout(bits)), decoding(Decoding::subtractive(rounding_of<S>(), alpha)) {
    packed.encode(S::saved == SavedValue::output ? y : batch.x, rounding_of<S>());
  }

  auto saved_tensor() {
    using Saved = std::conditional_t<has_relu, SavedSigns, SavedCodes>;
    return Saved{packed.view(), decoding};
  }

  typename Textbook<T>::Gradients gradients(const Batch<T>& batch, bool are_statistics_of_x,
                                            std::int64_t additions) {
    std::vector<double> dy;
    for (std::size_t e = 0; e < y.size(); ++e) {
      const bool passes = !has_relu || float{y[e]} > 0;
      dy.push_back(passes ? double{float{batch.dz[e]}} : 0);
    }
    std::vector<float> v(y.size());
    packed.decode(0, std::span<float>(v), decoding);
    return Textbook<T>(batch).gradients(dy, v, S::saved, are_statistics_of_x, additions);
  }

  std::vector<Channel> channels;
  std::vector<T> y;  // in front of the ReLU
  Packed<typename S::View> packed;
  Decoding decoding;
};

// The outputs of a backward pass.
template <class T>
struct Results {
  explicit Results(const Shape& shape)
      : gamma(shape.count), beta(shape.count), input(shape.count), dx(shape.numel(), false) {}

  void check(const typename Textbook<T>::Gradients& expected) {
    check_near<float>(gamma.span(), expected.gamma);
    check_near<float>(beta.span(), expected.beta);
    check_near<T>(dx.span(), expected.x);
  }

  GuardedBuffer<float> gamma, beta;
  GuardedBuffer<InputGradient> input;
  PlacedBuffer<T> dx;
};

// The backward pass, its sums taken of two pieces one after the other.
template <class S, class Loop>
void run_backward(const Batch<typename S::T>& batch, Forward<S>& forward, std::int64_t elements,
                  std::int64_t first_piece, const Loop& loop, Results<typename S::T>& results) {
  using T = typename S::T;
  const auto saved = forward.saved_tensor();
  const Channels channels = batch.shape.channels();
  const auto split = static_cast<std::size_t>(first_piece);
  const std::span<const T> dz(batch.dz);
  GuardedBuffer<double> sums(std::vector<double>(2 * batch.mean.size()));
  add_gradient_sums(dz.first(split), 0, saved, channels, sums.span(), loop);
  add_gradient_sums(dz.subspan(split), first_piece, saved, channels, sums.span(), loop);
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    const ChannelGradients gradients = finish_gradients(
        forward.channels[c], S::saved, sums.span()[2 * c], sums.span()[2 * c + 1], elements);
    results.gamma.span()[c] = gradients.gamma;
    results.beta.span()[c] = gradients.beta;
    results.input.span()[c] = gradients.input;
  }
  const InputGradient* const by_channel = results.input.data();
  input_gradient(dz.first(split), 0, saved, channels, by_channel, results.dx.span().first(split),
                 loop);
  input_gradient(dz.subspan(split), first_piece, saved, channels, by_channel,
                 results.dx.span().subspan(split), loop);
}

}  // namespace reference::batch_norm
