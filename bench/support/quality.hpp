// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The error that every codec and every decoding leaves in a tensor, and the bits that it stores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/bit_allocation.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "actpack/variance.hpp"
#if ACTPACK_HAS_ZFP
#include "support/zfp_codec.hpp"
#endif

namespace bench {

/// A tensor and what is known of it.
struct QualitySet {
  std::string name;
  std::string description;
  bool is_relu_output;
  std::int64_t rows;
  std::vector<float> values;
};

struct QualityResult {
  std::string codec;
  int bits = 0;            // of a code
  double stored_bits = 0;  // per value, all that decoding needs
  double nmse = 0;         // Σ (decoded − x)² / Σ x²
  double standard_error = 0;
  std::optional<double> alpha = {};  // of subtractive decoding
};

/// All results of one tensor, group size 256.
class Quality {
 public:
  explicit Quality(const QualitySet& set)
      : set_(set), numel_(static_cast<std::int64_t>(set.values.size())),
        decoded_(set.values.size()) {}

  std::vector<QualityResult> results() {
    for (const int bits : actpack::widths) {
      add_affine(bits);
      if (std::ranges::any_of(set_.values, [](float x) { return x <= 0; })) {  // there are signs
        add_sign_magnitude(bits);
      }
      add_widths_by_group(bits);
    }
#if ACTPACK_HAS_ZFP
    for (const int bits : {2, 4, 8}) {
      ZfpCodec codec(numel_, bits);
      codec.compress(set_.values);
      codec.decompress(decoded_);
      add("zfp/fixed_rate", bits, codec.bits_per_value());
    }
#endif
    return std::move(results_);
  }

 private:
  using Decoding = actpack::Decoding;
  static constexpr std::int64_t group_size = 256;

  actpack::Layout layout(int bits) const {
    return {.rows = set_.rows, .row_size = numel_ / set_.rows, .bits = bits};
  }
  double per_value(std::size_t bytes) const {
    return 8 * static_cast<double>(bytes) / static_cast<double>(numel_);
  }

  void add_affine(int bits) {
    actpack::PackedBuffer packed(layout(bits));
    const double stored = per_value(packed.size_bytes());
    actpack::quantize(set_.values, packed.view(), actpack::Rounding::nearest());
    actpack::dequantize(packed.view(), decoded_);
    add("affine/nearest", bits, stored);

    actpack::quantize(set_.values, packed.view(), rounding_);
    actpack::dequantize(packed.view(), decoded_);
    add("affine/plain", bits, stored);
    const auto add_subtractive = [&](const std::string& name, double alpha) {
      actpack::dequantize(packed.view(), decoded_,
                          Decoding::subtractive(rounding_, static_cast<float>(alpha)));
      add(name, bits, stored, alpha);
    };
    add_subtractive("affine/subtractive/best_alpha", best_alpha(packed));
    add_subtractive("affine/subtractive", 1);
    if (set_.is_relu_output) {  // the backward pass of the ReLU needs a bit per value anyway
      for (std::size_t i = 0; i < decoded_.size(); ++i) {
        decoded_[i] = set_.values[i] > 0 ? decoded_[i] : 0.0f;
      }
      add("affine/subtractive/known_zeros", bits, stored + 1, 1.0);
    }
  }

  /// The alpha of least error. With f the share of a step by which a value is above a level, the
  /// error at alpha has variance f (1 − f) (1 − alpha) + alpha² / 12 steps².
  double best_alpha(const actpack::PackedBuffer& packed) const {
    const actpack::Layout& shape = packed.layout();
    double plain = 0;
    double uniform = 0;
    for (std::int64_t i = 0; i < numel_; ++i) {
      const std::int64_t group =
          i / shape.row_size * shape.groups_per_row() + i % shape.row_size / shape.group_size;
      const actpack::GroupParams params = packed.view().params[group];
      const double scale = float{params.scale};
      const double min = float{params.min};
      if (scale == 0) {
        continue;
      }
      const double position = (double{set_.values[static_cast<std::size_t>(i)]} - min) / scale;
      const double share = position - std::floor(position);
      plain += share * (1 - share) * scale * scale;
      uniform += scale * scale / 12;
    }
    return uniform == 0 ? 1 : std::clamp(plain / (2 * uniform), 0.0, 1.0);
  }

  void add_sign_magnitude(int bits) {
    actpack::SignMagnitudeBuffer context(layout(bits));
    const double stored = per_value(context.size_bytes());
    actpack::encode(set_.values, context.view(), rounding_);
    for (const bool is_subtractive : {false, true}) {
      const Decoding decoding =
          is_subtractive ? Decoding::subtractive(rounding_) : Decoding::plain();
      // Of a ReLU's output the context is that of its input: no value is negative.
      if (set_.is_relu_output) {
        actpack::decode_relu(context.view(), decoded_, decoding);
      } else {
        actpack::decode(context.view(), decoded_, decoding);
      }
      add(is_subtractive ? "sign_magnitude/subtractive" : "sign_magnitude/plain", bits, stored);
    }
  }

  /// Every group is a row with a width of its own, by the closed form and within what the same
  /// groups store at `bits` for all: the byte that says a group's width is paid for.
  void add_widths_by_group(int bits) {
    const std::int64_t groups = (numel_ + group_size - 1) / group_size;
    const std::int64_t last = numel_ - (groups - 1) * group_size;
    const std::int64_t bit_budget = numel_ * bits - 8 * groups;
    if (bit_budget < numel_) {
      return;  // not even a bit for every value
    }
    const actpack::Layout shape{.rows = groups,
                                .row_size = group_size,
                                .bits = 8,
                                .last_row_size = last == group_size ? 0 : last};
    std::vector<double> sensitivity;
    std::vector<std::int64_t> sizes;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t size = shape.size_of_row(group);
      const auto values = std::span(set_.values)
                              .subspan(static_cast<std::size_t>(group * group_size),
                                       static_cast<std::size_t>(size));
      const auto [low, high] = std::ranges::minmax(values);
      const double range = double{high} - double{low};
      sizes.push_back(size);
      sensitivity.push_back(
          actpack::rounding_sensitivity(range * range, static_cast<double>(size)));
    }
    const actpack::Allocation allocation = actpack::allocate_bits(
        {.sensitivity = sensitivity, .numel = sizes, .bit_budget = bit_budget});
    actpack::PackedBuffer packed(shape, allocation.bits);
    actpack::quantize(set_.values, packed.view(), rounding_);
    const double stored = per_value(packed.size_bytes());
    actpack::dequantize(packed.view(), decoded_);
    add("affine_by_group/plain", bits, stored);
    actpack::dequantize(packed.view(), decoded_, Decoding::subtractive(rounding_));
    add("affine_by_group/subtractive", bits, stored, 1.0);
  }

  /// The error of decoded_. Its standard error is that of a ratio of sums over independent groups,
  /// so it covers both the draw of the values and that of the noise.
  void add(const std::string& codec, int bits, double stored_bits,
           std::optional<double> alpha = std::nullopt) {
    double error = 0;
    double energy = 0;
    std::vector<std::pair<double, double>> groups;
    for (std::size_t first = 0; first < decoded_.size(); first += group_size) {
      double group_error = 0;
      double group_energy = 0;
      for (std::size_t i = first; i < std::min(first + group_size, decoded_.size()); ++i) {
        const double x = double{set_.values[i]};
        group_error += (double{decoded_[i]} - x) * (double{decoded_[i]} - x);
        group_energy += x * x;
      }
      error += group_error;
      energy += group_energy;
      groups.emplace_back(group_error, group_energy);
    }
    const double nmse = error / energy;
    double variance = 0;
    for (const auto& [group_error, group_energy] : groups) {
      const double residual = group_error - nmse * group_energy;
      variance += residual * residual;
    }
    results_.push_back({codec, bits, stored_bits, nmse, std::sqrt(variance) / energy, alpha});
  }

  const QualitySet& set_;
  std::int64_t numel_;
  std::vector<float> decoded_;
  std::vector<QualityResult> results_;
  actpack::Rounding rounding_ = actpack::Rounding::stochastic(1);
};

}  // namespace bench
