// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares batch normalisation on packed contexts with a textbook's in double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <actpack/batch_norm.hpp>

#include "support/batch_norm_reference.hpp"

namespace {

using namespace reference::batch_norm;

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
    std::vector<std::thread> workers;
    for (std::int64_t t = 0; t < threads; ++t) {
      workers.emplace_back([t, count, &body] {
        for (std::int64_t i = t; i < count; i += threads) body(i);
      });
    }
    for (std::thread& worker : workers) worker.join();
  }
};

// The most floats that the host's loops add one after the other: what one of 16 lanes has of
// neighbours in a segment.
std::int64_t additions_on_host(const Shape& shape) {
  return std::min(shape.inner, actpack::detail::batch_norm_segment_numel) / 16 + 1;
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
      input_gradient(std::span<const T>(both.span()), 0, forward.saved_tensor(), shape.channels(),
                     results.input.data(), both.span(), actpack::Serial{});
      support::check_same_values<T>(both.span(), results.dx.span());
    }
  }
}

// The verbs do what the loops do.
template <class S>
void check_verbs(const Shape& shape, int bits) {
  using T = typename S::T;
  CAPTURE(name_of(shape));
  const Batch<T> batch = make_batch<T>(shape, 16);
  Forward<S> expected(batch, bits);
  std::vector<Channel> by_channel(static_cast<std::size_t>(shape.count));
  const Operation operation{.channels = shape.channels(),
                            .saved = S::saved,
                            .epsilon = epsilon,
                            .smallest_gamma = smallest_gamma,
                            .mean = batch.mean.data(),
                            .variance = batch.variance.data(),
                            .gamma = batch.gamma.data(),
                            .beta = batch.beta.data(),
                            .by_channel = by_channel.data()};
  for (const bool is_in_place : {false, true}) {
    CAPTURE(is_in_place);
    Packed<typename S::View> packed(shape.layout(bits));
    GuardedBuffer<T> x(batch.x), y(shape.numel());
    const std::span<T> to = is_in_place ? x.span() : y.span();
    forward(operation, std::span<const T>(x.span()), packed.view(), rounding_of<S>(), to);
    support::check_same_values<T>(to, Forward<S>::has_relu ? relu(expected.y) : expected.y);
    const bool has_same_words = packed.equals(expected.packed);
    CHECK(has_same_words);
  }
  Results<T> want(shape), got(shape), without_dx(shape);
  run_backward(batch, expected, shape.elements(), shape.numel(), actpack::Serial{}, want);
  backward(operation, std::span<const T>(batch.dz), expected.saved_tensor(), shape.elements(),
           got.gamma.data(), got.beta.data(), got.dx.span());
  support::check_same_values<T>(got.dx.span(), want.dx.span());
  backward(operation, std::span<const T>(batch.dz), expected.saved_tensor(), shape.elements(),
           without_dx.gamma.data(), without_dx.beta.data(), std::span<T>());
  for (const Results<T>* result : {&got, &without_dx}) {
    CHECK(have_same_bytes(result->gamma, want.gamma));
    CHECK(have_same_bytes(result->beta, want.beta));
  }
}

template <class Call>
void check_refused(const Call& call, const std::string& reason) {
  CHECK_THROWS_WITH_AS(call(), ("actpack: " + reason).c_str(), std::invalid_argument);
}

// In one segment, in several, and with channels and images that segments cut.
const std::vector<Shape> host_shapes{{2, 1, 37},   {3, 10, 7},   {5, 3, 49},   {4, 8, 300},
                                     {3, 96, 64},  {40, 3, 100}, {2, 3, 8191}, {1, 2, 9000},
                                     {37, 257, 1}, {1000, 3, 1}, {300, 96, 1}, {9000, 1, 1},
                                     {1, 257, 16}, {100, 64, 8}};

}  // namespace

TEST_CASE("batch_norm: stretches give every element its channel, in order") {
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
        bool are_stretches = true;
        actpack::detail::for_each_stretch(shape.channels(), first, last - first,
                                          [&](auto stretch, std::int64_t begin, std::int64_t end) {
                                            are_stretches =
                                                are_stretches && begin < end &&
                                                begin == static_cast<std::int64_t>(got.size());
                                            for (std::int64_t i = 0; i < end - begin; ++i)
                                              got.push_back(stretch.of(i));
                                          });
        const bool are_channels = std::ranges::equal(
            got, std::span(expected).subspan(static_cast<std::size_t>(first),
                                             static_cast<std::size_t>(last - first)));
        const bool is_right = are_stretches && are_channels;
        if (!is_right) {
          CAPTURE(first);
          CAPTURE(last);
          CHECK(are_stretches);
          CHECK(are_channels);
        }
      }
    }
  }
}

TEST_CASE("batch_norm: a weight near 0 is divided by as if it were larger") {
  const float deviation = 2;
  const auto channel_for = [&](float gamma, SavedValue saved) {
    return make_channel(1, deviation * deviation - epsilon, epsilon, gamma, 3, saved,
                        smallest_gamma);
  };
  for (const float gamma : {0.0f, -0.0f, 1e-30f, -1e-30f, 0.05f, -0.12f, 0.125f, 0.3f, -7.0f}) {
    CAPTURE(gamma);
    const Channel channel = channel_for(gamma, SavedValue::output);
    const double divisor = std::fabs(gamma) < smallest_gamma
                               ? double{smallest_gamma} * double{smallest_gamma} / double{gamma}
                               : double{gamma};
    const double inverse = gamma == 0 ? 0 : 1 / divisor;
    CHECK(std::isfinite(channel.inverse));
    CHECK(std::fabs(double{channel.inverse} - inverse) <= 2 * u * std::fabs(inverse));
    CHECK(channel.centre(SavedValue::output) == 3);
    CHECK(channel.normalize(1) == 3);

    const Channel of_input = channel_for(gamma, SavedValue::input);
    CHECK(std::fabs(double{of_input.inverse} - 0.5) <= 3 * u * 0.5);
    CHECK(of_input.centre(SavedValue::input) == 1);
    CHECK(std::fabs(double{of_input.gain} - double{gamma} / 2) <= 4 * u * std::fabs(gamma / 2));
  }
}

TEST_CASE("batch_norm: gradients of weights are a channel's sums") {
  const Channel channel{.gain = 2, .mean = 3, .beta = 5, .inverse = 0.5f};
  const ChannelGradients of_output = finish_gradients(channel, SavedValue::output, 16, 100, 8);
  CHECK(of_output.beta == 16);
  CHECK(of_output.gamma == (100 - 5 * 16) * 0.5f);
  // 2 (dy − 16 / 8 − (v − 5) / 2 · 10 / 8), in numbers that floats hold
  CHECK(of_output.input(4, 9) == 2 * (4 - 2 - 2 * 1.25f));
  const ChannelGradients of_input = finish_gradients(channel, SavedValue::input, 16, 100, 8);
  CHECK(of_input.gamma == (100 - 3 * 16) * 0.5f);
  CHECK(of_input.input(4, 9) == 2 * (4 - 2 - 3 * 3.25f));

  const ChannelGradients in_evaluation = finish_gradients(channel, SavedValue::output, 16, 100, 0);
  CHECK(in_evaluation.beta == of_output.beta);
  CHECK(in_evaluation.gamma == of_output.gamma);
  CHECK(in_evaluation.input(4, 9) == 2 * 4);
}

TEST_CASE_TEMPLATE("batch_norm: the host's outputs are the textbook's", T, float, float16,
                   bfloat16) {
  for (const Shape& shape : host_shapes) {
    CAPTURE(name_of(shape));
    const Batch<T> batch = make_batch<T>(shape, 10);
    const std::vector<Channel> channels = channels_of(batch, SavedValue::output);
    const std::vector<T> y = normalized(batch, channels);
    check_near<T>(y, Textbook<T>(batch).outputs());

    GuardedBuffer<T> both(batch.x);
    normalize(std::span<const T>(both.span()), shape.channels(), channels.data(), both.span(),
              actpack::Serial{});
    support::check_same_values<T>(both.span(), y);
  }
}

TEST_CASE_TEMPLATE("batch_norm: the host's gradients are the textbook's", S,
                   ACTPACK_BATCH_NORM_SETUPS) {
  for (const Shape& shape : host_shapes) check_host_backward<S>(shape, 2);
  for (const int bits : {1, 4, 8}) check_host_backward<S>({4, 8, 300}, bits);
}

TEST_CASE_TEMPLATE("batch_norm: results do not depend on who runs the host's loops", S,
                   Rectified<float, Noise::stochastic>, Input<bfloat16, Noise::stochastic>) {
  using T = typename S::T;
  for (const Shape& shape :
       {Shape{230, 8, 300}, Shape{5600, 96, 1}}) {  // more segments than shares
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

TEST_CASE_TEMPLATE("batch_norm: forward and backward do what the loops do", S,
                   ACTPACK_BATCH_NORM_SETUPS) {
  check_verbs<S>({4, 8, 300}, 2);
}

TEST_CASE("batch_norm: wrong arguments are refused") {
  const std::vector<float> values(12);
  std::vector<float> out(12);
  std::vector<double> sums(6);
  std::vector<Channel> channels(3);
  std::vector<InputGradient> input_gradients(3);
  const std::span<const float> x(values);
  const std::span<float> y(out);
  const SavedCodes saved{};
  check_refused(
      [&] {
        normalize(x, {0, 2}, channels.data(), y);
      },
      "channels.count = 0 is not positive");
  check_refused(
      [&] {
        normalize(x, {3, -2}, channels.data(), y);
      },
      "channels.inner = -2 is not positive");
  check_refused(
      [&] {
        normalize(x, {3, 2}, channels.data(), y.first(5));
      },
      "y.size() = 5 but x.size() = 12");
  check_refused(
      [&] {
        add_gradient_sums(x, 0, saved, {3, 2}, std::span(sums).first(5));
      },
      "sums.size() = 5 instead of 6, two for each channel");
  check_refused(
      [&] {
        input_gradient(x, 0, saved, {3, 2}, input_gradients.data(), y.first(4));
      },
      "dx.size() = 4 but dz.size() = 12");
  const Operation operation{.channels = {3, 2}, .saved = SavedValue::input};
  check_refused([&] { forward(operation, x, SignMagnitudeView{}, Rounding::stochastic(1), y); },
                "operation.saved is the input, but a sign-magnitude context holds the output");
}
