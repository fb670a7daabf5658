// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the kernels of batch normalisation on threads of the CPU, and compares gradients with a
// textbook's in double precision, and words with the host's verbs.
#include <doctest/doctest.h>

#include "simt_tiles.hpp"  // before the kernels

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "batch_norm_kernels.hpp"
#include "support/batch_norm_reference.hpp"
#include "support/effort.hpp"

namespace {

using namespace reference::batch_norm;
using namespace actpack::detail;

// With as few tiles as there may be, so that they take as many groups as they can.
Deal fewest_tiles(const Layout& layout, const Shape& shape) {
  std::int64_t tiles = 1;
  while (tiles * flat_group_size % (shape.count * shape.inner) != 0) ++tiles;
  return {.numel = layout.numel(),
          .groups = layout.num_groups(),
          .tiles = std::min(tiles, layout.num_groups()),
          .bits = layout.bits};
}

struct Case {
  Shape shape;
  int bits;
  bool is_aligned = true;
  bool has_few_tiles = true;

  Deal deal() const {
    const Layout layout = shape.layout(bits);
    return has_few_tiles ? fewest_tiles(layout, shape) : Deal::of(layout, shape.channels());
  }
};

// The kernels' word for a setup's noise.
template <class S>
auto noise_of() {
  if constexpr (S::noise == Noise::nearest) {
    return actpack::NearestNoise{};
  } else {
    return actpack::SeededNoise(seed, offset);
  }
}

template <class S>
void launch_forward(const Case& c, const Channel* by_channel, const typename S::T* x,
                    typename S::View out, typename S::T* y) {
  const auto noise = noise_of<S>();
  simt::launch_tiles(
      NormalizeAndPack<S::saved, typename S::T, typename S::View, std::decay_t<decltype(noise)>>{
          x, out, noise, c.deal(), c.shape.channels(), by_channel, y, c.is_aligned},
      c.deal().tiles);
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
  using View = std::conditional_t<Forward<S>::has_relu, actpack::ConstSignMagnitudeView,
                                  actpack::ConstPackedView>;
  const auto noise = noise_of<S>();
  using KernelNoise = std::decay_t<decltype(noise)>;
  const Deal deal = c.deal();
  const Channels channels = c.shape.channels();
  const View in = forward.packed.view();
  const DecodeOptions options = {forward.decoding.alpha, NegativeSide::kept};
  PlacedBuffer<T> dz(batch.dz, c.is_aligned), dx(c.shape.numel(), c.is_aligned);
  GuardedBuffer<float> sums(2 * deal.positions());
  simt::launch_tiles(
      AddGradients<T, View, KernelNoise>{{dz.data(), in, noise, options, deal, c.is_aligned},
                                         sums.data()},
      deal.tiles);
  simt::launch(static_cast<unsigned>(channels.count), block_threads, &finish_channels,
               {sums.data(), deal, channels, forward.channels.data(), S::saved, elements,
                results.gamma.data(), results.beta.data(), results.input.data()});
  const auto write = [&](T* to) {
    simt::launch_tiles(WriteInputGradient<T, View, KernelNoise>{{dz.data(), in, noise, options,
                                                                 deal, c.is_aligned},
                                                                channels,
                                                                results.input.data(),
                                                                to},
                       deal.tiles);
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
  const std::int64_t rounds = (deal.groups + deal.tiles - 1) / deal.tiles;
  results.check(forward.gradients(batch, is_training, rounds));
}

// Channels first and last; octets that one channel has, several, or neighbours in a row;
// sizes that are no multiple of 256 or 8; and, with few tiles, several groups for each.
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
  if (std::is_same_v<S, Rectified<float, Noise::stochastic>> && !support::runs_slowly) {
    for (const Case& c : more_cases) check(c);
  }
}

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

TEST_CASE(
    "batch_norm_kernels: a tile's groups have the same channels, and every group has a tile") {
  for (const std::int64_t count : {1, 3, 8, 10, 64, 96, 257, 2048}) {
    for (const std::int64_t inner : {1, 7, 8, 14, 49, 64, 100, 256, 300, 3136}) {
      // From less than a group to several rounds of the tiles that there are room for.
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
        REQUIRE(deal.tiles > 0);
        CHECK(deal.positions() == 256 * deal.tiles);
        CHECK((deal.tiles == deal.groups || deal.positions() % (count * inner) == 0));
        // Several waves of blocks: not less than half of 2^14 tiles, were they wanted, and more
        // only where channels repeat later than that.
        const std::int64_t fewest = fewest_tiles(layout, {1, count, inner}).tiles;
        CHECK(deal.tiles >= std::min<std::int64_t>(deal.groups, 8192));
        CHECK(deal.tiles <= std::max<std::int64_t>(16384, fewest));

        std::vector<int> times_taken(static_cast<std::size_t>(deal.groups));
        std::int64_t elements = 0;
        for (std::int64_t tile = 0; tile < deal.tiles; ++tile) {
          for (std::int64_t group = tile; group < deal.groups; group += deal.tiles) {
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

TEST_CASE("batch_norm_kernels: an octet knows its channels") {
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
          const OctetChannels octet(channels, start + first);
          int calls = 0;
          bool is_right = true;
          octet.for_each(by_channel.data(), [&](int j, const std::int64_t& of_channel) {
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
      for (const SavedValue saved : {SavedValue::input, SavedValue::output}) {
        GuardedBuffer<Channel> got(count), expected(count);
        for (std::size_t c = 0; c < count; ++c) {
          expected.span()[c] =
              make_channel(mean[c], variance[c], epsilon, has_weights ? gamma[c] : 1,
                           has_weights ? beta[c] : 0, saved, smallest_gamma);
        }
        Operation operation{.channels = {.count = static_cast<std::int64_t>(count), .inner = 1},
                            .saved = saved,
                            .epsilon = epsilon,
                            .smallest_gamma = smallest_gamma,
                            .mean = mean.data(),
                            .variance = variance.data(),
                            .gamma = has_weights ? gamma.data() : nullptr,
                            .beta = has_weights ? beta.data() : nullptr,
                            .by_channel = got.data()};
        simt::launch_tiles(MakeChannels{operation}, operation.channels.count);
        CHECK(have_same_bytes(got, expected));

        GuardedBuffer<Channel> on_host(count);
        operation.by_channel = on_host.data();
        write_channels(operation);
        CHECK(have_same_bytes(on_host, expected));
      }
    }
  }
}

TEST_CASE_TEMPLATE("batch_norm_kernels: outputs and words are the host's", S,
                   ACTPACK_BATCH_NORM_SETUPS) {
  for_each_case<S>([](const Case& c) { check_device_forward<S>(c); });
}

TEST_CASE_TEMPLATE("batch_norm_kernels: gradients are the textbook's", S,
                   ACTPACK_BATCH_NORM_SETUPS) {
  for_each_case<S>([](const Case& c) { check_device_backward<S>(c); });
}

TEST_CASE_TEMPLATE("batch_norm_kernels: gradients in evaluation, and of part of the dither", S,
                   Rectified<float, Noise::stochastic>, Input<float, Noise::stochastic>) {
  for (const Case& c : few_cases) check_device_backward<S>(c, false, 0.5f);
}

TEST_CASE_TEMPLATE("batch_norm_kernels: NaN in a gradient shows in its channel", S,
                   Rectified<float, Noise::stochastic>, Output<float16, Noise::stochastic>,
                   Input<bfloat16, Noise::nearest>) {
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

TEST_CASE_TEMPLATE("batch_norm_kernels: NaN in an input shows in its channel", S,
                   Rectified<float, Noise::stochastic>, Output<float16, Noise::stochastic>,
                   Input<bfloat16, Noise::nearest>) {
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
