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
#include <cstdint>
#include <span>

#include "actpack/affine.hpp"
#include "actpack/detail/element_range.hpp"
#include "actpack/detail/group_loop.hpp"
#include "actpack/detail/require.hpp"

namespace actpack {

/// The widths, narrowest first: the order of tables by width.
inline constexpr std::array<int, 4> widths = {1, 2, 4, 8};

/// Returns the variance that `sensitivity` gives at a width: sensitivity / (2^bits − 1)².
constexpr double variance_at(double sensitivity, int bits) {
  const double levels = max_code(bits);
  return sensitivity / (levels * levels);
}

/// Returns the sensitivity of the sum of squared rounding errors of groups of `group_size` values
/// whose ranges have the squared norm `squared_range_norm` (the sum of their squares), decoded
/// plainly: (G / 6) ‖R‖². Exact if positions between codes are uniform; half of it is true for ReLU
/// outputs, whose zeros carry no noise. Subtractive decoding: half, whatever the values. Source:
/// ActNN, section 4.
constexpr double rounding_sensitivity(double squared_range_norm, double group_size) {
  return group_size / 6 * squared_range_norm;
}

/// Returns the gain of an input value of a linear layer in the variance of the weight gradient Σ
/// x_n ∇y_nᵀ: the squared norm of its sample's output gradient. Source: ActNN, section 4.
constexpr double linear_gain(double squared_gradient_norm) { return squared_gradient_norm; }

/// Returns the mean gain of an input value of a convolution: of the kernel's `kernel_area` taps per
/// input pixel, each sees one output pixel's gradient, (1 / conv_groups) of its channels.
/// `squared_gradient_norm` is of one sample's output gradient, `input_pixels` counts the pixels of
/// one channel. Borders, where fewer taps apply, are averaged over. Source: ActNN, section 4.
constexpr double conv_gain(double squared_gradient_norm, double kernel_area, double input_pixels,
                           double conv_groups = 1) {
  return squared_gradient_norm * kernel_area / (input_pixels * conv_groups);
}

/// The same for a transposed convolution, where every input pixel reaches `kernel_area` of the
/// `output_pixels`, whatever the stride.
constexpr double transposed_conv_gain(double squared_gradient_norm, double kernel_area,
                                      double output_pixels, double conv_groups = 1) {
  return squared_gradient_norm * kernel_area / (output_pixels * conv_groups);
}

/// Returns the gain of one input value x of a batch normalisation in the summed variance of its
/// input gradient, (w / s)(∇y − mean ∇y − x̂ · mean(x̂ ∇y)): w² / (s⁴ N²) · (N ∇y² + (Σ x̂ ∇y)²), for
/// two independent roundings of x; one rounding used twice adds terms that vanish with N. `weight`
/// and `deviation` are the channel's w and s, `count` its N values, `gradient` is ∇y at x,
/// `gradient_dot` its channel's Σ x̂ ∇y. Source: the derivation of ActNN's appendix, with x̂ for its
/// y.
constexpr double batch_norm_gain(double weight, double deviation, double count, double gradient,
                                 double gradient_dot) {
  const double squared_deviation = deviation * deviation;
  return weight * weight / (squared_deviation * squared_deviation * count * count) *
         (count * gradient * gradient + gradient_dot * gradient_dot);
}

/// Summed variances of rounding a set of values, one entry per width in the order of `widths`.
struct RoundingNoise {
  std::array<double, 4>
      plain{};  // Σ f (1 − f) scale², f being how far a value lies between two codes
  std::array<double, 4> subtractive{};  // Σ scale² / 12
};

/// Measures what quantizing `row` [host], one row of groups of `group_size`, would add as noise at
/// each width: against the parameters and positions that quantizing uses, hence exact to the 2^−14
/// of a step that positions resolve. NaN if a group is poisoned. Throws std::invalid_argument for a
/// wrong group size. Allocates nothing.
template <class T>
RoundingNoise measure_rounding_noise(std::span<const T> row, std::int32_t group_size = 256) {
  const Layout layout{.row_size = static_cast<std::int64_t>(row.size()), .group_size = group_size};
  layout.validate();
  detail::require_memory(row, "row");
  RoundingNoise noise;
  detail::for_each_group(layout, 0, layout.numel(), [&](const detail::Group& group) {
    const T* values = row.data() + group.first;
    const detail::ValueRange range = detail::range_of(values, group.size);
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const GroupParams params = fit_params(range.min, range.max, widths[i]);
      const double scale = float{params.scale};
      double sum = 0;
      if (scale > 0) {
        const Encoder encoder(params);
        for (std::int64_t e = 0; e < group.size; ++e) {
          const double fraction = (encoder(values[e]) & ((1 << fraction_bits) - 1)) * 0x1p-14;
          sum += fraction * (1 - fraction);
        }
      }
      noise.plain[i] += sum * scale * scale;
      noise.subtractive[i] += static_cast<double>(group.size) * scale * scale / 12;
    }
  });
  return noise;
}

/// The same for vectors, arrays and other contiguous ranges.
template <detail::ElementRange R>
RoundingNoise measure_rounding_noise(const R& row, std::int32_t group_size = 256) {
  return measure_rounding_noise(detail::as_const_span(row), group_size);
}

}  // namespace actpack
