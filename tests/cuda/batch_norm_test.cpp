// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares the examples' packed batch normalisation, its host loops and its kernels on threads of
// the CPU, with a textbook's in double precision, and what it packs with the host's verbs.
//
// Errors are bounded, not estimated: u = 2^−24 is float's largest relative rounding error, and each
// bound counts the roundings that lie behind one another on the way to a result and multiplies them
// by the sum of the absolute values of its terms, so that it holds whatever cancels.
#include <doctest/doctest.h>

#include "simt.hpp"  // before the kernels

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <actpack/float16.hpp>
#include <actpack/layout.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "batch_norm_kernels.hpp"
#include "packed_batch_norm.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace {

using namespace packed_batch_norm;
using actpack::bfloat16, actpack::float16;
using actpack::Decoding, actpack::Rounding;
using actpack::Layout;
using actpack::NearestNoise, actpack::SeededNoise;
using actpack::PackedView, actpack::SignMagnitudeView;
using support::GuardedBuffer, support::PlacedBuffer;
using support::have_same_bytes;

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

std::string name_of(const Shape& shape) {
  return std::to_string(shape.images) + " x " + std::to_string(shape.count) + " x " +
         std::to_string(shape.inner);
}

// Below this |gamma| a channel's x̂ is taken to be less.
constexpr float least = 0.125f;
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
    const double size = c % 7 == 2 ? (c % 2 == 0 ? 0 : least / 3) : generator.uniform(0.5, 1.5);
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
std::vector<Channel> channels_of(const Batch<T>& batch, Kept kept) {
  std::vector<Channel> channels;
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    channels.push_back(make_channel(batch.mean[c], batch.variance[c], epsilon, batch.gamma[c],
                                    batch.beta[c], kept, least));
  }
  return channels;
}

// ---- The textbook -------------------------------------------------------------------------------

constexpr double u = 0x1p-24;

// How far from a number its nearest T may be; a float is already there.
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

// Stored as a T: what is off may be rounded too.
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

  // From dy, the gradient with respect to y, and what was kept, as it was decoded. `additions`: the
  // most floats that are added one after the other. The other roundings, at most: behind Σdy its
  // own; behind Σdy · x̂ the product's, three of 1 / gamma or 1 / deviation, and its own; behind dx
  // those, four of gain, three more of 1 / gamma, one of a coefficient, and three of dx's product
  // and sums: 1, 5 and 16. Double's do not count.
  Gradients gradients(const std::vector<double>& dy, const std::vector<float>& v, Kept kept,
                      bool are_statistics_of_x, std::int64_t additions) const {
    const std::size_t count = batch_.mean.size();
    const auto elements = static_cast<double>(batch_.shape.elements());
    const auto roundings = [&](int others) {
      return (static_cast<double>(additions) + others) * u;
    };
    std::vector<double> sum(count), product_sum(count), size(count), product_size(count);
    for_each_element(batch_.shape, [&](std::size_t e, std::size_t c) {
      const Normalization x_hat = normalization(kept, c);
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
      const Normalization x_hat = normalization(kept, c);
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
  Normalization normalization(Kept kept, std::size_t c) const {
    if (kept == Kept::input) return {double{batch_.mean[c]}, 1 / deviation(c)};
    const double gamma{batch_.gamma[c]};
    const double smallest{least};
    return {double{batch_.beta[c]},
            std::fabs(gamma) < smallest ? gamma / (smallest * smallest) : 1 / gamma};
  }

  const Batch<T>& batch_;
};

// ---- What is kept -------------------------------------------------------------------------------

template <class Element, class KeptView, Kept which, class NoiseOfBoth>
struct Setup {
  using T = Element;
  using View = KeptView;
  using Noise = NoiseOfBoth;
  static constexpr Kept kept = which;
};
template <class T, class Noise>
using Rectified = Setup<T, SignMagnitudeView, Kept::output, Noise>;
template <class T, class Noise>
using Output = Setup<T, PackedView, Kept::output, Noise>;
template <class T, class Noise>
using Input = Setup<T, PackedView, Kept::input, Noise>;

constexpr std::uint64_t seed = 5;
constexpr std::uint64_t offset = 6;

template <class Noise>
Noise make_noise() {
  if constexpr (std::is_same_v<Noise, NearestNoise>) {
    return {};
  } else {
    return {seed, offset};
  }
}
template <class Noise>
Rounding rounding_of() {
  return std::is_same_v<Noise, NearestNoise> ? Rounding::nearest()
                                             : Rounding::stochastic(seed, offset);
}
// A packed tensor, as the host's verbs write and read it.
template <class View>
using Packed =
    std::conditional_t<rectifies<View>, support::GuardedSignMagnitude, support::GuardedPacked>;

// What the host's loops read of it.
template <class S>
struct KeptTensor {
  using T = typename S::T;

  void decode(std::int64_t first, std::span<float> v) const { packed.decode(first, v, decoding); }
  std::span<const T> rectify(std::int64_t first, std::span<const T> dz, std::span<T> dy) const {
    if constexpr (rectifies<typename S::View>) {
      actpack::relu_backward(dz, packed.view(), first, dy);
      return dy;
    } else {
      return dz;
    }
  }

  Packed<typename S::View>& packed;
  Decoding decoding;
};

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
// is nothing to what was rounded to nearest: that decodes plainly.
template <class S>
struct Forward {
  using T = typename S::T;
  static constexpr bool has_relu = rectifies<typename S::View>;

  Forward(const Batch<T>& batch, int bits, float alpha = 1)
      : channels(channels_of(batch, S::kept)), y(normalized(batch, channels)),
        packed(batch.shape.layout(bits)),
        decoding(Decoding::subtractive(rounding_of<typename S::Noise>(), alpha)) {
    packed.encode(S::kept == Kept::output ? y : batch.x, rounding_of<typename S::Noise>());
  }

  KeptTensor<S> kept() { return {packed, decoding}; }

  typename Textbook<T>::Gradients gradients(const Batch<T>& batch, bool are_statistics_of_x,
                                            std::int64_t additions) {
    std::vector<double> dy;
    for (std::size_t e = 0; e < y.size(); ++e) {
      const bool passes = !has_relu || float{y[e]} > 0;
      dy.push_back(passes ? double{float{batch.dz[e]}} : 0);
    }
    std::vector<float> v(y.size());
    packed.decode(0, std::span<float>(v), decoding);
    return Textbook<T>(batch).gradients(dy, v, S::kept, are_statistics_of_x, additions);
  }

  std::vector<Channel> channels;
  std::vector<T> y;  // in front of the ReLU
  Packed<typename S::View> packed;
  Decoding decoding;
};

// What a backward pass writes.
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

// ---- On the host --------------------------------------------------------------------------------

struct Reversed {
  template <class Body>
  void operator()(std::int64_t count, const Body& body) const {
    while (count-- > 0) body(count);
  }
};

struct Threads {
  template <class Body>
  void operator()(std::int64_t count, const Body& body) const {
    constexpr std::int64_t threads = 3;
    std::vector<std::thread> team;
    for (std::int64_t t = 0; t < threads; ++t) {
      team.emplace_back([t, count, &body] {
        for (std::int64_t i = t; i < count; i += threads) body(i);
      });
    }
    for (std::thread& thread : team) thread.join();
  }
};

// The backward pass, its sums taken of two pieces one after the other.
template <class S, class Loop>
void run_backward(const Batch<typename S::T>& batch, Forward<S>& forward, std::int64_t elements,
                  std::int64_t first_piece, const Loop& loop, Results<typename S::T>& results) {
  using T = typename S::T;
  const KeptTensor<S> kept = forward.kept();
  const Channels channels = batch.shape.channels();
  const auto split = static_cast<std::size_t>(first_piece);
  const std::span<const T> dz(batch.dz);
  GuardedBuffer<double> sums(std::vector<double>(2 * batch.mean.size()));
  add_gradient_sums(dz.first(split), 0, kept, channels, sums.span(), loop);
  add_gradient_sums(dz.subspan(split), first_piece, kept, channels, sums.span(), loop);
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    const ChannelGradients gradients =
        finish(forward.channels[c], S::kept, sums.span()[2 * c], sums.span()[2 * c + 1], elements);
    results.gamma.span()[c] = gradients.gamma;
    results.beta.span()[c] = gradients.beta;
    results.input.span()[c] = gradients.input;
  }
  const InputGradient* const by_channel = results.input.data();
  input_gradient(dz.first(split), 0, kept, channels, by_channel, results.dx.span().first(split),
                 loop);
  input_gradient(dz.subspan(split), first_piece, kept, channels, by_channel,
                 results.dx.span().subspan(split), loop);
}

// The most floats that the host's loops add one after the other: what one of 16 lanes has of
// neighbours in a tile.
std::int64_t additions_on_host(const Shape& shape) {
  return std::min(shape.inner, tile_numel) / 16 + 1;
}

template <class S>
void check_host_backward(const Shape& shape, int bits) {
  using T = typename S::T;
  CAPTURE(name_of(shape));
  CAPTURE(bits);
  const Batch<T> batch = make_batch<T>(shape, 11);
  Forward<S> forward(batch, bits);
  const std::int64_t some = shape.numel() / 3;
  for (const bool is_training : {true, false}) {
    CAPTURE(is_training);
    const std::int64_t elements = is_training ? shape.elements() : 0;
    const auto expected = forward.gradients(batch, is_training, additions_on_host(shape));
    for (const std::int64_t first_piece : {shape.numel(), some}) {
      CAPTURE(first_piece);
      Results<T> results(shape);
      run_backward(batch, forward, elements, first_piece, actpack::Serial{}, results);
      results.check(expected);

      // In place.
      PlacedBuffer<T> both(batch.dz, false);
      input_gradient(std::span<const T>(both.span()), 0, forward.kept(), shape.channels(),
                     results.input.data(), both.span(), actpack::Serial{});
      support::check_same_values<T>(both.span(), results.dx.span());
    }
  }
}

// In one tile, in several, and with channels and images that tiles cut.
const std::vector<Shape> host_shapes{{2, 1, 37},   {3, 10, 7},   {5, 3, 49},   {4, 8, 300},
                                     {3, 96, 64},  {40, 3, 100}, {2, 3, 8191}, {1, 2, 9000},
                                     {37, 257, 1}, {1000, 3, 1}, {300, 96, 1}, {9000, 1, 1},
                                     {1, 257, 16}, {100, 64, 8}};

// ---- On the device ------------------------------------------------------------------------------

// With as few teams as there may be, so that they take as many groups as they can.
Deal fewest_teams(const Layout& layout, const Shape& shape) {
  std::int64_t teams = 1;
  while (teams * group_size % (shape.count * shape.inner) != 0) ++teams;
  return {.numel = layout.numel(),
          .groups = layout.num_groups(),
          .teams = std::min(teams, layout.num_groups()),
          .bits = layout.bits};
}

struct Case {
  Shape shape;
  int bits;
  bool is_aligned = true;
  bool has_few_teams = true;

  Deal deal() const {
    const Layout layout = shape.layout(bits);
    return has_few_teams ? fewest_teams(layout, shape) : Deal::of(layout, shape.channels());
  }
};

template <class S>
void launch_forward(const Case& c, const Channel* by_channel, const typename S::T* x,
                    typename S::View out, typename S::T* y) {
  using Noise = typename S::Noise;
  const Context<typename S::View, Noise> context{out, make_noise<Noise>(), 0};
  simt::launch(c.deal().blocks(), block_threads,
               &normalize_and_pack<S::kept, typename S::T, typename S::View, Noise>, x, context,
               c.deal(), c.shape.channels(), by_channel, y, c.is_aligned);
}

template <class S>
void check_device_forward(const Case& c) {
  using T = typename S::T;
  using View = typename S::View;
  CAPTURE(name_of(c.shape));
  CAPTURE(c.bits);
  const Batch<T> batch = make_batch<T>(c.shape, 12);
  const Forward<S> expected(batch, c.bits);
  const std::vector<T> want = Forward<S>::has_relu ? relu(expected.y) : expected.y;

  Packed<View> packed(c.shape.layout(c.bits));
  PlacedBuffer<T> x(batch.x, c.is_aligned), y(c.shape.numel(), c.is_aligned);
  launch_forward<S>(c, expected.channels.data(), x.data(), packed.view(), y.data());
  support::check_same_values<T>(y.span(), want);
  const bool has_same_words = packed.equals(expected.packed);
  CHECK(has_same_words);

  Packed<View> again(c.shape.layout(c.bits));
  launch_forward<S>(c, expected.channels.data(), x.data(), again.view(), x.data());
  support::check_same_values<T>(x.span(), want);
  const bool has_same_words_in_place = again.equals(expected.packed);
  CHECK(has_same_words_in_place);
}

template <class S>
void launch_backward(const Case& c, const Batch<typename S::T>& batch, Forward<S>& forward,
                     std::int64_t elements, Results<typename S::T>& results) {
  using T = typename S::T;
  using View = typename S::View;
  using Noise = typename S::Noise;
  const Deal deal = c.deal();
  const Channels channels = c.shape.channels();
  const Context<View, Noise> context{forward.packed.view(), make_noise<Noise>(),
                                     forward.decoding.alpha};
  PlacedBuffer<T> dz(batch.dz, c.is_aligned), dx(c.shape.numel(), c.is_aligned);
  GuardedBuffer<float> sums(2 * deal.positions());
  simt::launch(deal.blocks(), block_threads, &add_gradients<T, View, Noise>, dz.data(), context,
               deal, sums.data(), c.is_aligned);
  simt::launch(static_cast<unsigned>(channels.count), block_threads, &finish_channels, sums.data(),
               deal, channels, forward.channels.data(), S::kept, elements, results.gamma.data(),
               results.beta.data(), results.input.data());
  const auto write = [&](T* to) {
    simt::launch(deal.blocks(), block_threads, &write_input_gradient<T, View, Noise>, dz.data(),
                 context, deal, channels, results.input.data(), to, c.is_aligned);
  };
  write(dx.data());
  std::ranges::copy(dx.span(), results.dx.data());
  write(dz.data());  // in place
  support::check_same_values<T>(dz.span(), dx.span());
}

template <class S>
void check_device_backward(const Case& c, bool is_training = true, float alpha = 1) {
  using T = typename S::T;
  CAPTURE(name_of(c.shape));
  CAPTURE(c.bits);
  CAPTURE(is_training);
  const Batch<T> batch = make_batch<T>(c.shape, 13);
  Forward<S> forward(batch, c.bits, alpha);
  Results<T> results(c.shape);
  launch_backward(c, batch, forward, is_training ? c.shape.elements() : 0, results);
  const Deal deal = c.deal();
  const std::int64_t rounds = (deal.groups + deal.teams - 1) / deal.teams;
  results.check(forward.gradients(batch, is_training, rounds));
}

// Channels first and last; runs of eight that one channel has, several, or neighbours in a row;
// sizes that are no multiple of 256 or 8; and, with few teams, several groups for each.
const std::vector<Case> few_cases{
    {{4, 4, 64}, 2},          {{3, 8, 49}, 1},  {{2, 3, 300}, 8, false},
    {{333, 10, 1}, 4, false}, {{777, 8, 1}, 2}, {{3, 3, 100}, 4, true, false},
};
const std::vector<Case> more_cases{
    {{9, 3, 256}, 4},
    {{6, 10, 14}, 8},
    {{140, 10, 7}, 2, false},
    {{2, 1, 1000}, 2},
    {{40, 3, 8}, 4},
    {{3, 64, 8}, 1},
    {{2000, 1, 1}, 1},
    {{1000, 3, 1}, 8},
    {{70, 96, 1}, 4},
    {{120, 24, 1}, 8},
    {{20, 257, 1}, 2, true, false},
};

// The types of a setup do not depend on the shape: one of them goes through all cases.
template <class S, class Check>
void for_each_case(const Check& check) {
  for (const Case& c : few_cases) check(c);
  if (std::is_same_v<S, Rectified<float, SeededNoise>> && !support::runs_slowly) {
    for (const Case& c : more_cases) check(c);
  }
}

// All three types and all three forms, either noise with each.
#define ACTPACK_SETUPS                                                                   \
  Rectified<float, SeededNoise>, Output<float, NearestNoise>, Input<float, SeededNoise>, \
      Rectified<float16, NearestNoise>, Output<float16, SeededNoise>,                    \
      Input<float16, NearestNoise>, Rectified<bfloat16, SeededNoise>,                    \
      Output<bfloat16, SeededNoise>, Input<bfloat16, NearestNoise>

// ---- NaN ----------------------------------------------------------------------------------------

// The first group is the first channel's alone, the last and short one the last channel's.
const Case nan_case{{1, 4, 300}, 2};

template <class T>
const T nan_of = T(std::numeric_limits<float>::quiet_NaN());

template <class T>
bool are_all_nan(std::span<const T> values) {
  return std::ranges::all_of(values, [](T value) { return support::is_nan(value); });
}

// The channel's weight has a gradient that is NaN, and so has each of its inputs; the others' are
// those of a batch without NaN.
template <class T>
void check_nan_in(std::size_t nan_channel, Results<T>& got, Results<T>& without_nan) {
  const auto of_channel = static_cast<std::size_t>(nan_case.shape.inner);
  for (std::size_t c = 0; c < 4; ++c) {
    CAPTURE(c);
    const std::span<const T> dx = got.dx.span().subspan(c * of_channel, of_channel);
    if (c == nan_channel) {
      CHECK(std::isnan(got.gamma.span()[c]));
      CHECK(are_all_nan(dx));
    } else {
      CHECK(got.gamma.span()[c] == without_nan.gamma.span()[c]);
      CHECK(got.beta.span()[c] == without_nan.beta.span()[c]);
      support::check_same_values<T>(dx, without_nan.dx.span().subspan(c * of_channel, of_channel));
    }
  }
}

template <class S>
void run_backward_on_host(const Batch<typename S::T>& batch, Forward<S>& forward,
                          Results<typename S::T>& results) {
  run_backward(batch, forward, batch.shape.elements(), batch.shape.numel(), actpack::Serial{},
               results);
}

template <class S>
void check_nan(std::size_t nan_channel, const Batch<typename S::T>& batch,
               const Batch<typename S::T>& batch_with_nan) {
  using T = typename S::T;
  Forward<S> without(batch, nan_case.bits), with(batch_with_nan, nan_case.bits);
  Results<T> expected(nan_case.shape), got(nan_case.shape);
  run_backward_on_host(batch, without, expected);
  run_backward_on_host(batch_with_nan, with, got);
  check_nan_in(nan_channel, got, expected);

  Results<T> device_expected(nan_case.shape), device_got(nan_case.shape);
  const std::int64_t elements = nan_case.shape.elements();
  launch_backward(nan_case, batch, without, elements, device_expected);
  launch_backward(nan_case, batch_with_nan, with, elements, device_got);
  check_nan_in(nan_channel, device_got, device_expected);
  CHECK(std::isnan(device_got.beta.span()[nan_channel]) ==
        std::isnan(got.beta.span()[nan_channel]));
}

}  // namespace

TEST_CASE("packed_batch_norm: runs give every element its channel, in order") {
  for (const Shape& shape : {Shape{5, 1, 1}, Shape{4, 3, 1}, Shape{3, 257, 1}, Shape{5, 1, 7},
                             Shape{4, 3, 8}, Shape{3, 10, 49}}) {
    CAPTURE(name_of(shape));
    std::vector<std::int64_t> expected;
    for_each_element(shape, [&](std::size_t, std::size_t channel) {
      expected.push_back(static_cast<std::int64_t>(channel));
    });
    for (const std::int64_t first : {0, 1, 3}) {
      for (std::int64_t last = first; last <= shape.numel(); ++last) {
        std::vector<std::int64_t> got;
        bool are_runs = true;
        for_each_run(shape.channels(), first, last - first,
                     [&](auto run, std::int64_t begin, std::int64_t end) {
                       are_runs = are_runs && begin < end &&
                                  begin == static_cast<std::int64_t>(got.size());
                       for (std::int64_t i = 0; i < end - begin; ++i) got.push_back(run.of(i));
                     });
        const bool are_channels = std::ranges::equal(
            got, std::span(expected).subspan(static_cast<std::size_t>(first),
                                             static_cast<std::size_t>(last - first)));
        const bool is_right = are_runs && are_channels;
        if (!is_right) {
          CAPTURE(first);
          CAPTURE(last);
          CHECK(are_runs);
          CHECK(are_channels);
        }
      }
    }
  }
}

TEST_CASE("packed_batch_norm: a weight near 0 is divided by as if it were larger") {
  const float deviation = 2;
  const auto channel_for = [&](float gamma, Kept kept) {
    return make_channel(1, deviation * deviation - epsilon, epsilon, gamma, 3, kept, least);
  };
  for (const float gamma : {0.0f, -0.0f, 1e-30f, -1e-30f, 0.05f, -0.12f, 0.125f, 0.3f, -7.0f}) {
    CAPTURE(gamma);
    const Channel channel = channel_for(gamma, Kept::output);
    const double divisor =
        std::fabs(gamma) < least ? double{least} * double{least} / double{gamma} : double{gamma};
    const double inverse = gamma == 0 ? 0 : 1 / divisor;
    CHECK(std::isfinite(channel.inverse));
    CHECK(std::fabs(double{channel.inverse} - inverse) <= 2 * u * std::fabs(inverse));
    CHECK(channel.centre(Kept::output) == 3);
    CHECK(channel.normalize(1) == 3);

    const Channel of_input = channel_for(gamma, Kept::input);
    CHECK(std::fabs(double{of_input.inverse} - 0.5) <= 3 * u * 0.5);
    CHECK(of_input.centre(Kept::input) == 1);
    CHECK(std::fabs(double{of_input.gain} - double{gamma} / 2) <= 4 * u * std::fabs(gamma / 2));
  }
}

TEST_CASE("packed_batch_norm: gradients of weights are a channel's sums") {
  const Channel channel{.gain = 2, .mean = 3, .beta = 5, .inverse = 0.5f};
  const ChannelGradients of_output = finish(channel, Kept::output, 16, 100, 8);
  CHECK(of_output.beta == 16);
  CHECK(of_output.gamma == (100 - 5 * 16) * 0.5f);
  // 2 (dy − 16 / 8 − (v − 5) / 2 · 10 / 8), in numbers that floats hold
  CHECK(of_output.input(4, 9) == 2 * (4 - 2 - 2 * 1.25f));
  const ChannelGradients of_input = finish(channel, Kept::input, 16, 100, 8);
  CHECK(of_input.gamma == (100 - 3 * 16) * 0.5f);
  CHECK(of_input.input(4, 9) == 2 * (4 - 2 - 3 * 3.25f));

  const ChannelGradients in_evaluation = finish(channel, Kept::output, 16, 100, 0);
  CHECK(in_evaluation.beta == of_output.beta);
  CHECK(in_evaluation.gamma == of_output.gamma);
  CHECK(in_evaluation.input(4, 9) == 2 * 4);
}

TEST_CASE_TEMPLATE("packed_batch_norm: the host's outputs are the textbook's", T, float, float16,
                   bfloat16) {
  for (const Shape& shape : host_shapes) {
    CAPTURE(name_of(shape));
    const Batch<T> batch = make_batch<T>(shape, 10);
    const std::vector<Channel> channels = channels_of(batch, Kept::output);
    const std::vector<T> y = normalized(batch, channels);
    check_near<T>(y, Textbook<T>(batch).outputs());

    GuardedBuffer<T> both(batch.x);
    normalize(std::span<const T>(both.span()), shape.channels(), channels.data(), both.span(),
              actpack::Serial{});
    support::check_same_values<T>(both.span(), y);
  }
}

TEST_CASE_TEMPLATE("packed_batch_norm: the host's gradients are the textbook's", S,
                   ACTPACK_SETUPS) {
  for (const Shape& shape : host_shapes) check_host_backward<S>(shape, 2);
  for (const int bits : {1, 4, 8}) check_host_backward<S>({4, 8, 300}, bits);
}

TEST_CASE_TEMPLATE("packed_batch_norm: who runs the host's loops is nothing to the results", S,
                   Rectified<float, SeededNoise>, Input<bfloat16, SeededNoise>) {
  using T = typename S::T;
  for (const Shape& shape : {Shape{230, 8, 300}, Shape{5600, 96, 1}}) {  // more tiles than parts
    CAPTURE(name_of(shape));
    const Batch<T> batch = make_batch<T>(shape, 14);
    Forward<S> forward(batch, 2);
    Results<T> expected(shape);
    run_backward(batch, forward, shape.elements(), shape.numel(), actpack::Serial{}, expected);
    expected.check(forward.gradients(batch, true, additions_on_host(shape)));
    const auto check_loop = [&](const auto& loop) {
      support::check_same_values<T>(normalized(batch, forward.channels, loop), forward.y);
      Results<T> got(shape);
      run_backward(batch, forward, shape.elements(), shape.numel(), loop, got);
      CHECK(got.gamma.values() == expected.gamma.values());
      CHECK(got.beta.values() == expected.beta.values());
      support::check_same_values<T>(got.dx.span(), expected.dx.span());
    };
    check_loop(Reversed{});
    check_loop(Threads{});
  }
}

TEST_CASE(
    "batch_norm_kernels: a team's groups have the same channels, and every group has a team") {
  for (const std::int64_t count : {1, 3, 8, 10, 64, 96, 257, 2048}) {
    for (const std::int64_t inner : {1, 7, 8, 14, 49, 64, 100, 256, 300, 3136}) {
      // From less than a group to several rounds of the teams that there are room for.
      for (const std::int64_t numel :
           {count * inner, 5 * count * inner, std::int64_t{12'000'000}}) {
        const Layout layout{.row_size = numel / (count * inner) * count * inner, .bits = 4};
        if (layout.numel() == 0) continue;
        CAPTURE(count);
        CAPTURE(inner);
        CAPTURE(layout.numel());
        const Deal deal = Deal::of(layout, {count, inner});
        CHECK(deal.numel == layout.numel());
        CHECK(deal.groups == layout.num_groups());
        CHECK(deal.bits == layout.bits);
        REQUIRE(deal.teams > 0);
        CHECK(deal.positions() == 256 * deal.teams);
        CHECK((deal.teams == deal.groups || deal.positions() % (count * inner) == 0));
        // Several waves of blocks: not less than half of 2^14 teams, were they wanted, and more
        // only where channels repeat later than that.
        const std::int64_t fewest = fewest_teams(layout, {1, count, inner}).teams;
        CHECK(deal.teams >= std::min<std::int64_t>(deal.groups, 8192));
        CHECK(deal.teams <= std::max<std::int64_t>(16384, fewest));
        CHECK(std::int64_t{deal.blocks()} * teams_per_block >= deal.teams);
        CHECK((std::int64_t{deal.blocks()} - 1) * teams_per_block < deal.teams);

        std::vector<int> times_taken(static_cast<std::size_t>(deal.groups));
        std::int64_t elements = 0;
        for (std::int64_t team = 0; team < deal.teams; ++team) {
          for (std::int64_t group = team; group < deal.groups; group += deal.teams) {
            const actpack::GroupShape shape = deal.group(group);
            elements += shape.size;
            const bool is_right = shape.index == group && shape.bits == 4 &&
                                  shape.group_size == 256 && shape.size > 0 && shape.size <= 256;
            if (is_right) ++times_taken[static_cast<std::size_t>(group)];
          }
        }
        const bool are_all_taken_once =
            std::ranges::all_of(times_taken, [](int times) { return times == 1; });
        CHECK(are_all_taken_once);
        CHECK(elements == layout.numel());
      }
    }
  }
}

TEST_CASE("batch_norm_kernels: a run of eight knows its channels") {
  for (const std::int64_t count : {1, 2, 3, 7, 8, 9, 10, 16, 257}) {
    for (const std::int64_t inner : {1, 2, 7, 8, 9, 15, 16, 100}) {
      const Channels channels{count, inner};
      std::vector<std::int64_t> by_channel(static_cast<std::size_t>(count));
      for (std::int64_t c = 0; c < count; ++c) by_channel[static_cast<std::size_t>(c)] = 1000 + c;
      // The same in front of the tensor's end, and where elements need more than 32 bits.
      const std::int64_t period = count * inner;
      for (const std::int64_t start :
           {std::int64_t{0}, (std::int64_t{1} << 33) / period * period}) {
        for (std::int64_t first = 0; first < std::min<std::int64_t>(period + 1, 1000); ++first) {
          const RunChannels run(channels, start + first);
          int calls = 0;
          bool is_right = true;
          run.for_each(by_channel.data(), [&](int j, const std::int64_t& of_channel) {
            const std::int64_t channel = (first + j) / inner % count;
            is_right = is_right && j == calls++ && of_channel == 1000 + channel;
          });
          is_right = is_right && calls == 8;
          if (!is_right) {
            CAPTURE(count);
            CAPTURE(inner);
            CAPTURE(first);
            CHECK(is_right);
          }
        }
      }
    }
  }
}

TEST_CASE("batch_norm_kernels: channels are made as on the host") {
  for (const std::size_t count : {1u, 256u, 257u, 600u}) {
    CAPTURE(count);
    const std::vector<float> mean = support::gaussian(count, 1);
    const std::vector<float> variance = support::uniform(count, 2, 0, 3);
    const std::vector<float> gamma = support::gaussian(count, 3);
    const std::vector<float> beta = support::gaussian(count, 4);
    for (const bool has_weights : {true, false}) {
      for (const Kept kept : {Kept::input, Kept::output}) {
        GuardedBuffer<Channel> got(count), expected(count);
        for (std::size_t c = 0; c < count; ++c) {
          expected.span()[c] =
              make_channel(mean[c], variance[c], epsilon, has_weights ? gamma[c] : 1,
                           has_weights ? beta[c] : 0, kept, least);
        }
        Operation operation{.channels = {.count = static_cast<std::int64_t>(count), .inner = 1},
                            .kept = kept,
                            .epsilon = epsilon,
                            .least = least,
                            .mean = mean.data(),
                            .variance = variance.data(),
                            .gamma = has_weights ? gamma.data() : nullptr,
                            .beta = has_weights ? beta.data() : nullptr,
                            .by_channel = got.data()};
        simt::launch(static_cast<unsigned>((count + 255) / 256), block_threads, &make_channels,
                     operation);
        CHECK(have_same_bytes(got, expected));

        GuardedBuffer<Channel> on_host(count);
        operation.by_channel = on_host.data();
        write_channels(operation);
        CHECK(have_same_bytes(on_host, expected));
      }
    }
  }
}

TEST_CASE_TEMPLATE("batch_norm_kernels: outputs and words are the host's", S, ACTPACK_SETUPS) {
  for_each_case<S>([](const Case& c) { check_device_forward<S>(c); });
}

TEST_CASE_TEMPLATE("batch_norm_kernels: gradients are the textbook's", S, ACTPACK_SETUPS) {
  for_each_case<S>([](const Case& c) { check_device_backward<S>(c); });
}

TEST_CASE_TEMPLATE("batch_norm_kernels: gradients in evaluation, and of part of the dither", S,
                   Rectified<float, SeededNoise>, Input<float, SeededNoise>) {
  for (const Case& c : few_cases) check_device_backward<S>(c, false, 0.5f);
}

TEST_CASE_TEMPLATE("packed_batch_norm: NaN in a gradient shows in its channel", S,
                   Rectified<float, SeededNoise>, Output<float16, SeededNoise>,
                   Input<bfloat16, NearestNoise>) {
  using T = typename S::T;
  const Batch<T> batch = make_batch<T>(nan_case.shape, 15);
  Batch<T> with_nan = batch;
  const std::vector<T> y = Forward<S>(batch, nan_case.bits).y;
  const auto passes = [](T value) { return float{value} > 0; };  // a ReLU lets its gradient through
  const auto element = std::ranges::find_if(y, passes) - y.begin();
  REQUIRE(element < nan_case.shape.inner);
  with_nan.dz[static_cast<std::size_t>(element)] = nan_of<T>;
  check_nan<S>(0, batch, with_nan);
}

TEST_CASE_TEMPLATE("packed_batch_norm: NaN in an input shows in its channel", S,
                   Rectified<float, SeededNoise>, Output<float16, SeededNoise>,
                   Input<bfloat16, NearestNoise>) {
  using T = typename S::T;
  const Batch<T> batch = make_batch<T>(nan_case.shape, 15);
  for (const std::size_t channel : {0u, 3u}) {
    CAPTURE(channel);
    const std::size_t element = channel == 0 ? 5 : batch.x.size() - 1;
    Batch<T> with_nan = batch;
    with_nan.x[element] = nan_of<T>;
    check_nan<S>(channel, batch, with_nan);

    const Forward<S> expected(with_nan, nan_case.bits);
    REQUIRE(support::is_nan(expected.y[element]));
    Packed<typename S::View> packed(nan_case.shape.layout(nan_case.bits));
    PlacedBuffer<T> x(with_nan.x, true), y(nan_case.shape.numel(), true);
    launch_forward<S>(nan_case, expected.channels.data(), x.data(), packed.view(), y.data());
    support::check_same_values<T>(y.span(), Forward<S>::has_relu ? relu(expected.y) : expected.y);
    const bool has_same_words = packed.equals(expected.packed);
    CHECK(has_same_words);
  }
}
