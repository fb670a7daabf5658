// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the bodies of the device's kernels, group by group, on a host thread that plays all lanes,
// and compares words, parameters and values with the host's verbs, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <actpack/quantize.hpp>
#include <actpack/sign_keeping.hpp>
#include <actpack/sign_magnitude.hpp>

#include "group_kernels.hpp"
#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace {

using namespace actpack;
using detail::DecodeFlat;
using detail::DecodeOptions;
using detail::DecodeRows;
using detail::EncodeFlat;
using detail::EncodeRows;
using detail::NegativeSide;
using detail::NoEpilogue;
using detail::RowWalk;
using support::GuardedBuffer;
using support::GuardedPacked;
using support::GuardedSignMagnitude;
using support::PlacedBuffer;

// Calls a body for indices [0, count), and a few beyond, as a grid of whole blocks does.
template <class Body>
void run(const Body& body, std::int64_t count, std::int64_t beyond = 3) {
  const HostWarpTile tile(body.lanes());
  for (std::int64_t index = 0; index < count + beyond; ++index) {
    body(tile, index);
  }
}

template <class Use>
void for_each_noise(Use use) {
  static const std::array<std::uint64_t, 2> in_memory{77, 3};
  use(Rounding::nearest(), NearestNoise{});
  use(Rounding::stochastic(5, 6), SeededNoise(5, 6));
  use(Rounding::stochastic(77, 3), StochasticNoise{SeededNoise(1, 2), in_memory.data()});
}

RowWalk all_groups(const Layout& layout) {
  return {layout.groups_per_row(), 0, layout.num_groups()};
}

// Values at an address that is 16-byte aligned, or off by one element.
template <class T>
class Placed {
 public:
  Placed(const std::vector<T>& values, bool aligned) : memory_(values.size() + 17) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    first_ = (16 - address % 16) % 16 / sizeof(T) + (aligned ? 0 : 1);
    for (std::size_t i = 0; i < values.size(); ++i) memory_[first_ + i] = values[i];
    size_ = values.size();
  }
  T* data() { return memory_.data() + first_; }
  std::span<T> span() { return {data(), size_}; }

 private:
  std::vector<T> memory_;
  std::size_t first_ = 0, size_ = 0;
};

template <class T, class Guarded>
void check_rows(const Layout& layout, const std::vector<T>& values,
                const std::vector<std::uint8_t>& row_bits, bool aligned) {
  Placed<T> x(values, aligned);
  for_each_noise([&](Rounding rounding, auto noise) {
    using Noise = decltype(noise);
    using View = typename Guarded::View;
    using ConstView = typename Guarded::ConstView;
    CAPTURE(rounding.is_stochastic);
    Guarded expected(layout, row_bits);
    expected.encode(std::span<const T>(x.span()), rounding);
    Guarded got(layout, row_bits);
    run(EncodeRows<T, View, Noise>{x.data(), got.view(), noise, all_groups(layout)},
        layout.num_groups());
    const bool same_words = got.equals(expected);
    CHECK(same_words);

    for (const NegativeSide side : {NegativeSide::kept, NegativeSide::zero}) {
      for (const float alpha : {1.0F, 0.3F}) {
        const Decoding decoding = Decoding::subtractive(rounding, alpha);
        std::vector<T> want(values.size());
        expected.decode(0, std::span<T>(want), decoding, side);
        Placed<T> out(std::vector<T>(values.size(), T(1.0F)), aligned);
        run(DecodeRows<T, ConstView, Noise, NoEpilogue>{got.view(),
                                                        out.data(),
                                                        0,
                                                        layout.numel(),
                                                        noise,
                                                        {alpha, side},
                                                        {},
                                                        all_groups(layout)},
            layout.num_groups());
        support::check_same_values<T>(out.span(), want);
        // A range from the middle, in a buffer of its own with guards.
        const std::int64_t first = layout.numel() / 3;
        const std::int64_t count = layout.numel() / 2;
        if (count == 0 || side == NegativeSide::zero) continue;
        GuardedBuffer<T> part(count);
        const auto group_of = [&](std::int64_t e) {
          return e / layout.row_size * layout.groups_per_row() +
                 e % layout.row_size / layout.group_size;
        };
        const RowWalk walk = {layout.groups_per_row(), group_of(first),
                              group_of(first + count - 1) + 1};
        run(DecodeRows<T, ConstView, Noise, NoEpilogue>{got.view(),
                                                        part.data() - first,
                                                        first,
                                                        first + count,
                                                        noise,
                                                        {alpha, side},
                                                        {},
                                                        walk},
            walk.end_group - walk.first_group);
        support::check_same_values<T>(
            part.span(), std::span<const T>(want).subspan(static_cast<std::size_t>(first),
                                                          static_cast<std::size_t>(count)));
      }
    }
  });
}

template <class T, class Guarded, int Bits>
void check_flat(const std::vector<T>& values) {
  const Layout layout{.row_size = static_cast<std::int64_t>(values.size()), .bits = Bits};
  Placed<T> x(values, true);
  for_each_noise([&](Rounding rounding, auto noise) {
    using Noise = decltype(noise);
    Guarded expected(layout);
    expected.encode(std::span<const T>(x.span()), rounding);
    Guarded got(layout);
    run(EncodeFlat<T, typename Guarded::View, Noise, Bits>{x.data(), got.view(), noise},
        layout.num_groups(), 0);
    const bool same_words = got.equals(expected);
    CHECK(same_words);
    const Decoding decoding = Decoding::subtractive(rounding);
    std::vector<T> want(values.size());
    expected.decode(0, std::span<T>(want), decoding, NegativeSide::kept);
    Placed<T> out(std::vector<T>(values.size(), T(1.0F)), true);
    run(
        DecodeFlat<T, typename Guarded::ConstView, Noise, Bits>{
            got.view(), out.data(), noise, {1, NegativeSide::kept}},
        layout.num_groups(), 0);
    support::check_same_values<T>(out.span(), want);
  });
}

template <class T>
void check_keeping_signs(const Layout& layout, const std::vector<T>& y) {
  GuardedSignMagnitude context(layout);
  context.encode(y, Rounding::stochastic(3, 4));
  GuardedBuffer<T> want(y.size());
  decode_keeping_signs(context.view(), want.span());
  for (const bool is_aligned : {true, false}) {
    CAPTURE(is_aligned);
    PlacedBuffer<T> got(layout.numel(), is_aligned);
    run(detail::DecodeKeepingSigns<T>{context.view(), got.data(), all_groups(layout)},
        layout.num_groups());
    support::check_same_values<T>(got.span(), want.span());
  }
}

constexpr std::array<std::int64_t, 12> sizes{0, 1, 31, 32, 33, 64, 255, 256, 257, 511, 1000, 3001};

}  // namespace

TEST_CASE_TEMPLATE("group kernels: rows give the host's words and values for every configuration",
                   T, float, bfloat16, float16) {
  std::uint64_t number = 0;
  support::for_each_config(sizes, [&](const support::Config& config) {
    if (support::is_left_out(++number)) return;
    const Layout layout{
        .row_size = config.size, .group_size = config.group_size, .bits = config.bits};
    const auto values =
        support::stored<T>(support::gaussian(static_cast<std::size_t>(config.size), 3, 0.2, 2.0));
    const bool aligned = config.bits % 4 != 0;
    check_rows<T, GuardedPacked>(layout, values, {}, aligned);
    check_rows<T, GuardedSignMagnitude>(layout, values, {}, aligned);
  });
}

TEST_CASE_TEMPLATE("group kernels: every kind of data", T, float, bfloat16, float16) {
  for (const support::Data data : support::all_data) {
    CAPTURE(support::name_of(data));
    const auto values = support::stored<T>(support::make(
        data, 2048, 11, support::largest_finite<T>(), support::smallest_positive<T>()));
    for (const int bits : support::all_widths) {
      CAPTURE(bits);
      const Layout layout{.row_size = 2048, .bits = bits};
      check_rows<T, GuardedPacked>(layout, values, {}, true);
      check_rows<T, GuardedSignMagnitude>(layout, values, {}, true);
    }
    check_flat<T, GuardedPacked, 1>(values);
    check_flat<T, GuardedPacked, 2>(values);
    check_flat<T, GuardedPacked, 4>(values);
    check_flat<T, GuardedPacked, 8>(values);
    check_flat<T, GuardedSignMagnitude, 1>(values);
    check_flat<T, GuardedSignMagnitude, 2>(values);
    check_flat<T, GuardedSignMagnitude, 4>(values);
    check_flat<T, GuardedSignMagnitude, 8>(values);
  }
}

// Only subtraction leads out of the type's range: the last code's level lies within it.
TEST_CASE_TEMPLATE("group kernels: half a step beyond the last code saturates", T, float, bfloat16,
                   float16) {
  std::vector<float> magnitudes = support::gaussian(512, 12);
  for (float& value : magnitudes) {
    value = 0.99F * support::largest_finite<T>() * std::min(std::fabs(value), 1.0F);
  }
  const auto values = support::stored<T>(magnitudes);
  for (const int bits : {1, 2, 4}) {
    CAPTURE(bits);
    check_rows<T, GuardedPacked>(Layout{.row_size = 512, .bits = bits}, values, {}, true);
    check_rows<T, GuardedSignMagnitude>(Layout{.row_size = 512, .bits = bits}, values, {}, true);
  }
}

TEST_CASE("group kernels: one side of a sign-magnitude group is huge, the other tiny") {
  auto values = support::gaussian(512, 13);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool huge = (values[i] > 0) == (i < 256);
    values[i] *= huge ? 0x1p125F : 0x1p-113F;
  }
  for (const int bits : support::all_widths) {
    CAPTURE(bits);
    check_rows<float, GuardedSignMagnitude>(Layout{.row_size = 512, .bits = bits}, values, {},
                                            true);
  }
}

TEST_CASE("group kernels: rows of their own widths, short last rows, many rows") {
  for (const std::int32_t group_size : support::all_group_sizes) {
    for (const std::int64_t row_size : {1, 33, 256, 700}) {
      CAPTURE(group_size);
      CAPTURE(row_size);
      const Layout layout{.rows = 9,
                          .row_size = row_size,
                          .group_size = group_size,
                          .bits = 8,
                          .last_row_size = row_size / 2};
      std::vector<std::uint8_t> row_bits;
      for (int row = 0; row < 9; ++row) row_bits.push_back(static_cast<std::uint8_t>(1 << row % 4));
      const auto values = support::gaussian(static_cast<std::size_t>(layout.numel()), 5);
      check_rows<float, GuardedPacked>(layout, values, row_bits, true);
      check_rows<float, GuardedPacked>(layout, values, {}, false);
      check_rows<float, GuardedSignMagnitude>(layout, values, {}, false);
    }
  }
}

TEST_CASE("group kernels: more than 2^32 groups find their rows") {
  const Layout layout{.rows = INT64_C(1) << 34, .row_size = 96, .group_size = 32};
  for (const std::int64_t number : {(INT64_C(1) << 32) - 1, INT64_C(1) << 32, INT64_C(5) << 32}) {
    CAPTURE(number);
    const detail::Group group = all_groups(layout).group_of(layout, number);
    CHECK(group.row == number / 3);
    CHECK(group.column == number % 3 * 32);
  }
}

TEST_CASE("group kernels: a chunk of rows writes its own groups and no others") {
  const Layout layout{.rows = 6, .row_size = 300, .bits = 2};
  const auto x = support::gaussian(1800, 8);
  const Rounding rounding = Rounding::stochastic(1, 2);
  GuardedPacked expected(layout);
  expected.encode(std::span<const float>(x), rounding);
  GuardedPacked got(layout);
  for (const std::int64_t first_row : {4, 0, 2}) {  // x - first_row * row_size: as the verb does
    run(EncodeRows<float, PackedView, SeededNoise>{x.data(),
                                                   got.view(),
                                                   SeededNoise(1, 2),
                                                   {layout.groups_per_row(), first_row * 2,
                                                    (first_row + 2) * 2}},
        4);
    const bool done = first_row == 2;
    CHECK(got.equals(expected) == done);
  }
}

TEST_CASE("group kernels: the epilogue multiplies, shifts and masks by channel") {
  const Layout layout{.rows = 5, .row_size = 330, .group_size = 96, .bits = 4};
  const auto x = support::gaussian(1650, 9);
  GuardedPacked packed(layout);
  packed.encode(std::span<const float>(x), Rounding::stochastic(4));
  std::vector<float> plain(x.size());
  dequantize(packed.view(), plain);
  const std::vector<float> scale{0.5F, -2, 3}, shift{1, 0, -70000};
  std::vector<std::uint32_t> mask(words_for(1650, 1));
  support::Generator generator(3);
  for (auto& word : mask) word = static_cast<std::uint32_t>(generator.bits());
  const std::int64_t inner = 11, first = 100, count = 1300;
  for (const int parts : {0, 1, 2, 3, 4, 7}) {  // bit 0: scale, bit 1: shift, bit 2: mask
    CAPTURE(parts);
    const auto expected = [&](std::int64_t e) {
      const auto i = static_cast<std::size_t>(e);
      const auto channel = static_cast<std::size_t>(e / inner % 3);
      if ((parts & 4) != 0 && (mask[i / 32] >> (i % 32) & 1) == 0) return float16(0.0F);
      const double a = (parts & 1) != 0 ? scale[channel] : 1;
      const double b = (parts & 2) != 0 ? shift[channel] : 0;
      return saturate_cast<float16>(static_cast<float>(a * plain[i] + b));
    };
    GuardedBuffer<float16> out(count);
    const RowWalk walk = all_groups(layout);
    run(
        DecodeRows<float16, ConstPackedView, NearestNoise, detail::ChannelEpilogue<float16>>{
            packed.view(),
            out.data() - first,
            first,
            first + count,
            {},
            {1, NegativeSide::kept},
            {(parts & 1) != 0 ? scale.data() : nullptr, (parts & 2) != 0 ? shift.data() : nullptr,
             3, inner, (parts & 4) != 0 ? mask.data() : nullptr},
            walk},
        layout.num_groups());
    std::vector<float16> want;
    for (std::int64_t e = first; e < first + count; ++e) want.push_back(expected(e));
    support::check_same_values<float16>(out.span(), want);
  }
}

TEST_CASE_TEMPLATE("group kernels: decoding that keeps signs gives the host's values", T, float,
                   bfloat16, float16) {
  for (const support::Data data : support::all_data) {
    CAPTURE(support::name_of(data));
    for (const int bits : support::all_widths) {
      CAPTURE(bits);
      const Layout layout{.row_size = 700, .bits = bits};
      check_keeping_signs<T>(layout, support::make<T>(data, 700, 7));
    }
  }
  // Small values beside one large one, in groups and rows of other sizes.
  std::vector<T> y;
  for (const float value : support::gaussian(999, 11)) y.push_back(T(value * 1e-4F));
  y[10] = T(3.0F);
  y[700] = T(-3.0F);
  for (const std::int32_t group_size : support::all_group_sizes) {
    CAPTURE(group_size);
    check_keeping_signs<T>({.rows = 3, .row_size = 333, .group_size = group_size, .bits = 2}, y);
  }
}

TEST_CASE("group kernels: the ReLU's backward pass reads the sign plane, and poison") {
  const Layout layout{.rows = 3, .row_size = 333, .bits = 2};
  auto y = support::gaussian(999, 10);
  y[400] = std::numeric_limits<float>::quiet_NaN();
  GuardedSignMagnitude context(layout);
  context.encode(std::span<const float>(y), Rounding::stochastic(4));
  const auto dy = support::gaussian(999, 12);
  std::vector<float> want(dy.size());
  relu_backward(dy, ConstSignMagnitudeView(context.view()), want);
  for (const std::int64_t first : {0, 5, 640}) {
    const std::int64_t count = 999 - first - (first == 5 ? 300 : 0);
    GuardedBuffer<float> dx(count);
    run(detail::ReluBackwardRows<float>{dy.data(), context.view(), dx.data() - first, first,
                                        first + count, all_groups(layout)},
        layout.num_groups());
    support::check_same_values<float>(
        dx.span(), std::span<const float>(want).subspan(static_cast<std::size_t>(first),
                                                        static_cast<std::size_t>(count)));
  }
}
