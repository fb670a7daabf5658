// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How much noise rounding adds to values and to gradients: closed forms from ranges, and measured
// sums.
//
// A gradient is linear in the values it is computed from, so a value's rounding variance enters the
// gradient's with a factor, here called its gain: variance = Σ gain · noise. Where every value of a
// group has the same gain, the closed form is variance = sensitivity / (2^bits − 1)², which bit
// allocation works with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/float_environment.hpp"
#include "actpack/detail/host/arguments.hpp"
#include "actpack/detail/host/group_loop.hpp"
#include "actpack/detail/host/strips.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/sides.hpp"
#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sensitivity.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::inline ACTPACK_TARGET {

/// Returns the gain of an input value of a linear layer in the variance of the weight gradient Σ
/// x_n ∇y_nᵀ: the squared norm of its sample's output gradient. Source: ActNN, section 4.
constexpr double linear_gain(double squared_gradient_norm) { return squared_gradient_norm; }

}  // namespace actpack

namespace actpack {

/// One spatial axis of a convolution: tap t of output position o sees input position o · stride −
/// padding + t · dilation, or a zero where there is none. Transposed: tap t of input position i
/// adds to output position i · stride − padding + t · dilation, where there is one. The padding is
/// the one below position 0; the one above, like output padding, follows from the sizes.
struct ConvAxis {
  std::int64_t input = 1;   // positions
  std::int64_t output = 1;  // positions
  std::int64_t kernel = 1;  // taps
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t dilation = 1;
  bool transposed = false;
};

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// The positions that the stride takes one by one, and those that it strides over.
constexpr std::int64_t strided_size(const ConvAxis& axis) {
  return axis.transposed ? axis.input : axis.output;
}
constexpr std::int64_t spanned_size(const ConvAxis& axis) {
  return axis.transposed ? axis.output : axis.input;
}

/// Returns the number of pairs of an input and an output position that a tap connects.
constexpr std::int64_t count_pairs(const ConvAxis& axis) {
  // The strided positions p with p · stride < bound.
  const auto positions_below = [&](std::int64_t bound) {
    return bound <= 0 ? 0 : (std::min)((bound - 1) / axis.stride + 1, strided_size(axis));
  };
  std::int64_t pairs = 0;
  for (std::int64_t tap = 0; tap < axis.kernel; ++tap) {
    const std::int64_t lead = axis.padding - tap * axis.dilation;  // p meets p · stride − lead
    pairs += positions_below(lead + spanned_size(axis)) - positions_below(lead);
  }
  return pairs;
}

/// The positions of all axes together.
struct Pixels {
  std::int64_t input = 1, output = 1;
};

/// Refuses axes that describe no convolution, or one whose positions, pairs or pixels overflow.
inline Pixels require_axes(std::span<const ConvAxis> axes) {
  constexpr std::int64_t largest = (std::numeric_limits<std::int32_t>::max)();
  Pixels pixels;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const auto require_field = [&](const char* name, std::int64_t value, std::int64_t smallest) {
      refuse_unless(value >= smallest && value <= largest, "axes[", i, "].", name, " = ", value,
                    " is not in [", smallest, ", ", largest, "]");
    };
    const ConvAxis& axis = axes[i];
    require_field("input", axis.input, 1);
    require_field("output", axis.output, 1);
    require_field("kernel", axis.kernel, 1);
    require_field("stride", axis.stride, 1);
    require_field("padding", axis.padding, 0);
    require_field("dilation", axis.dilation, 1);
    refuse_unless(axis.input <= Layout::max_numel / pixels.input &&
                      axis.output <= Layout::max_numel / pixels.output,
                  "axes[", i, "] with input = ", axis.input, " and output = ", axis.output,
                  " makes more than ", Layout::max_numel, " pixels");
    pixels.input *= axis.input;
    pixels.output *= axis.output;
  }
  return pixels;
}

/// Calls visit(input, output) for each pair of pixels that a tap connects, row-major numbers that
/// continue `input` and `output`, the numbers of the pixels in the axes before these.
template <class Visit>
void for_each_pair(std::span<const ConvAxis> axes, std::int64_t input, std::int64_t output,
                   Visit& visit) {
  if (axes.empty()) {
    visit(input, output);
    return;
  }
  const ConvAxis& axis = axes.front();
  for (std::int64_t strided = 0; strided < strided_size(axis); ++strided) {
    for (std::int64_t tap = 0; tap < axis.kernel; ++tap) {
      const std::int64_t spanned = strided * axis.stride - axis.padding + tap * axis.dilation;
      if (spanned >= 0 && spanned < spanned_size(axis)) {
        for_each_pair(axes.subspan(1), input * axis.input + (axis.transposed ? strided : spanned),
                      output * axis.output + (axis.transposed ? spanned : strided), visit);
      }
    }
  }
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Returns the mean gain of an input value of a convolution, plain or transposed, in the variance
/// of its weight gradient: ‖∇y‖² · Π pairs / (input · output) / conv_groups, where `pairs` counts
/// an axis's pairs of an input and an output position that a tap connects. `squared_gradient_norm`
/// is of one sample's output gradient, `axes` [host] are its spatial axes, none for a linear layer.
/// Takes noise and gradients to be spread evenly over the image and the groups, which conv_gain_map
/// does not. Throws std::invalid_argument for a size, stride, dilation or conv_groups below 1, a
/// negative padding, numbers of 2^31 or more, or more than Layout::max_numel pixels. Allocates
/// nothing. Source: ActNN, section 4, whose kernel area / pixels leaves out borders and strides.
inline double conv_gain(double squared_gradient_norm, std::span<const ConvAxis> axes,
                        std::int64_t conv_groups = 1) {
  detail::require_axes(axes);
  detail::refuse_unless(conv_groups > 0, "conv_groups = ", conv_groups, " is not positive");
  double gain = squared_gradient_norm / static_cast<double>(conv_groups);
  for (const ConvAxis& axis : axes) {
    gain *= static_cast<double>(detail::count_pairs(axis)) /
            (static_cast<double>(axis.input) * static_cast<double>(axis.output));
  }
  return gain;
}

/// Writes the gain of every input pixel of one sample and channel group, the same for all its
/// channels: the sum of ‖∇y_o‖² over the taps that connect it to an output pixel o. Exact, since a
/// weight's gradient sums the products of different input pixels, and pays where noise and
/// gradients vary together over the image. `squared_gradient_norms` [host, output pixels] are of
/// the group's channels, `gains` [host, input pixels] must not overlap them; both are row-major in
/// `axes` [host], the outermost first. Throws std::invalid_argument, before anything is written,
/// for axes that conv_gain refuses and for wrong sizes. Allocates nothing; takes a step for every
/// output (transposed: input) pixel and tap. Source: Var Σ_o x_o ∇y_o = Σ_o Var(x_o) ∇y_o².
inline void conv_gain_map(std::span<const double> squared_gradient_norms, std::span<double> gains,
                          std::span<const ConvAxis> axes) {
  const detail::Pixels pixels = detail::require_axes(axes);
  const auto require_pixels = [](detail::NamedSize values, const char* side, std::int64_t size) {
    detail::refuse_unless(values.size == size, values.name, ".size() = ", values.size,
                          " but the axes have ", size, " ", side, " pixels");
  };
  require_pixels({"squared_gradient_norms", squared_gradient_norms}, "output", pixels.output);
  require_pixels({"gains", gains}, "input", pixels.input);
  std::ranges::fill(gains, 0.0);
  const auto add = [&](std::int64_t input, std::int64_t output) {
    gains[static_cast<std::size_t>(input)] +=
        squared_gradient_norms[static_cast<std::size_t>(output)];
  };
  detail::for_each_pair(axes, 0, 0, add);
}

/// Returns the mean gain of input values x of one channel of a batch normalisation in the summed
/// variance of its input gradient, (w / s)(∇y − mean ∇y − x̂ · mean(x̂ ∇y)):
/// w² / (s⁴ N²) · (N ∇y² + (Σ x̂ ∇y)²). `weight` and `deviation` are the channel's w and s, `count`
/// its N values in the batch. `mean_squared_gradient` is ∇y² at x, or its mean over the values that
/// the gain is meant for: a sample's, or ‖∇y‖² / N for the whole channel. `gradient_dot` is the
/// channel's Σ x̂ ∇y. Two terms are left out. Since x̂ stands there twice, the product of both
/// variances comes on top, w² / (s⁶ N²) · Σ Var x · Σ ∇y² Var x; it matters where the noise is not
/// small beside s. One rounding used twice adds terms that vanish with N. Source: the derivation of
/// ActNN's appendix, with x̂ for its y.
constexpr double batch_norm_gain(double weight, double deviation, double count,
                                 double mean_squared_gradient, double gradient_dot) {
  const double squared_deviation = deviation * deviation;
  return weight * weight / (squared_deviation * squared_deviation * count * count) *
         (count * mean_squared_gradient + gradient_dot * gradient_dot);
}

}  // namespace actpack

namespace actpack {

/// Summed variances of rounding a set of values, one entry per width in the order of `widths`.
struct RoundingNoise {
  std::array<double, 4>
      plain{};  // Σ f (1 − f) scale², f being how far a value lies between two codes
  std::array<double, 4> subtractive{};  // Σ scale² / 12
};

/// The noise that a sign-magnitude context adds for each of its readers.
struct SignMagnitudeNoise {
  RoundingNoise relu;   // decode_relu: positive values
  RoundingNoise whole;  // decode: all values
};

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// Returns f (1 − f), f being the fraction of a position: the variance of its rounding, in steps².
constexpr double rounding_variance(std::int32_t position) {
  const double fraction = (position & ((1 << fraction_bits) - 1)) * 0x1p-14;
  return fraction * (1 - fraction);
}

/// Adds the noise of `count` values of one step, whose rounding variances sum to `plain` steps².
inline void add_noise(RoundingNoise& noise, std::size_t width, bfloat16 step, double plain,
                      std::int64_t count) {
  const double scale = static_cast<double>(float{step});
  noise.plain[width] += plain * scale * scale;
  noise.subtractive[width] += static_cast<double>(count) * scale * scale / 12;
}

/// Calls visit(values, their range, width index) for each group of `row` and each width.
template <class T, class Visit>
void for_each_group_and_width(std::span<const T> row, std::int32_t group_size, Visit visit) {
  const Layout layout{.row_size = static_cast<std::int64_t>(row.size()), .group_size = group_size};
  layout.validate();
  require_memory(row, "row");
  for (GroupCursor cursor(layout, {0, layout.numel()}); cursor.has_group(); cursor.skip(1)) {
    const Group group = cursor.group();
    const std::span<const T> values =
        row.subspan(static_cast<std::size_t>(group.first), static_cast<std::size_t>(group.size));
    const ValueRange range = range_of(values.data(), group.size);
    for (std::size_t width = 0; width < widths.size(); ++width) {
      visit(values, range, width);
    }
  }
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Measures what quantizing `row` [host], one row of groups of `group_size`, would add as noise at
/// each width: against the parameters and positions that quantizing uses, hence exact to the 2^−14
/// of a step that positions resolve. NaN if a group is poisoned. Throws std::invalid_argument for a
/// wrong group size. Allocates nothing.
template <detail::ElementRange R>
RoundingNoise measure_rounding_noise(const R& row, std::int32_t group_size = 256) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment([&] {
    RoundingNoise noise;
    detail::for_each_group_and_width(detail::as_const_span(row), group_size,
                                     [&](auto values, detail::ValueRange range, std::size_t width) {
                                       const GroupParams params =
                                           fit_params(range.min, range.max, widths[width]);
                                       double plain = 0;
                                       if (params.scale > 0) {
                                         const Encoder encoder(params);
                                         for (const float x : values) {
                                           plain += detail::rounding_variance(encoder(x));
                                         }
                                       }
                                       detail::add_noise(noise, width, params.scale, plain,
                                                         static_cast<std::int64_t>(values.size()));
                                     });
    return noise;
  });
}

/// Measures what encoding `row` [host], one row of groups of `group_size`, as a sign-magnitude
/// context would add as noise at each width of the magnitude; accuracy, NaN, exceptions and
/// allocation as for measure_rounding_noise. A value's step is that of its sign bit's side, so a
/// zero lies on level 0 of the negative side: without noise unless `decode` is subtractive.
template <detail::ElementRange R>
SignMagnitudeNoise measure_sign_magnitude_noise(const R& row, std::int32_t group_size = 256) {
  detail::require_ieee_arithmetic();
  return detail::in_default_float_environment([&] {
    SignMagnitudeNoise noise;
    detail::for_each_group_and_width(
        detail::as_const_span(row), group_size,
        [&](auto values, detail::ValueRange range, std::size_t width) {
          const SignMagnitudeParams params = detail::fit_sides(range, widths[width]);
          std::array<double, 2> plain{};  // by sign bit
          std::array<std::int64_t, 2> count{};
          if (!detail::is_poisoned(params)) {
            const detail::SideEncoder encoder(params);
            for (const float y : values) {
              const std::size_t sign = y > 0 ? 1 : 0;
              plain[sign] += detail::rounding_variance(encoder(y));
              ++count[sign];
            }
          }
          detail::add_noise(noise.relu, width, params.positive, plain[1], count[1]);
          detail::add_noise(noise.whole, width, params.positive, plain[1], count[1]);
          detail::add_noise(noise.whole, width, params.negative, plain[0], count[0]);
        });
    return noise;
  });
}

}  // namespace actpack
