// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The member functions of AutoPrecision: the end of auto_precision.hpp, or compiled once.
#pragma once

#include <algorithm>
#include <utility>

#include "actpack/auto_precision.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/auto_precision/widths.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/sensitivity.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_rows(const PrecisionTensor& tensor, std::size_t size, const char* name) {
  require(size == tensor.rows(), name, ".size() = ", size, " but the tensor has ",
          tensor.layout.rows, " rows");
}

inline NoiseByWidth noise_of_ranges(const Layout& layout, double squared_range_norm) {
  const double sensitivity = rounding_sensitivity(squared_range_norm, layout.group_size);
  NoiseByWidth noise{};
  for (int w = 0; w < num_widths; ++w) {
    noise[static_cast<std::size_t>(w)] = variance_at(sensitivity, bits_at(w));
  }
  return noise;
}

}  // namespace actpack::detail::inline ACTPACK_TARGET

namespace actpack::inline ACTPACK_ONCE {

// ---- Options and tensors ----------------------------------------------------------------------

ACTPACK_COMPILED_ONCE AutoPrecision::AutoPrecision(AutoPrecisionOptions options)
    : options_(std::move(options)) {
  using detail::require;
  const AutoPrecisionOptions& o = options_;
  require(is_width(o.min_bits), "min_bits = ", o.min_bits, " is not 1, 2, 4 or 8");
  require(is_width(o.max_bits), "max_bits = ", o.max_bits, " is not 1, 2, 4 or 8");
  require(o.min_bits <= o.max_bits, "min_bits = ", o.min_bits, " exceeds max_bits = ", o.max_bits);
  require(o.byte_budget >= 0, "byte_budget = ", o.byte_budget, " is negative");
  require(o.byte_budget > 0 || (o.average_bits >= o.min_bits && o.average_bits <= 8),
          "average_bits = ", o.average_bits, " is not in [min_bits = ", o.min_bits, ", 8]");
  require(o.decay >= 0 && o.decay < 1, "decay = ", o.decay, " is not in [0, 1)");
  require(o.solve_interval > 0, "solve_interval = ", o.solve_interval, " is not positive");
}

ACTPACK_COMPILED_ONCE std::size_t AutoPrecision::add_tensor(const Layout& layout,
                                                            PrecisionPer per) {
  layout.validate();
  detail::require(layout.numel() > 0, "layout has no elements");
  detail::require(steps_ == 0, "a tensor is added after ", steps_, " steps");
  const std::size_t rows = static_cast<std::size_t>(layout.rows);
  const std::size_t items = per == PrecisionPer::row ? rows : 1;
  const detail::PrecisionBudget budget =
      budget_.with_tensor(layout, static_cast<std::int64_t>(items));
  if (options_.byte_budget > 0) {
    const std::int64_t least = budget.least_bytes(options_.min_bits);
    detail::require(least <= options_.byte_budget, "byte_budget = ", options_.byte_budget, " but ",
                    tensors_.size() + 1, " tensors take at least ", least);
  }
  budget_ = budget;
  tensors_.push_back({layout, per == PrecisionPer::row, numel_.size(), items, row_bits_.size()});
  for (std::size_t i = 0; i < items; ++i) {
    numel_.push_back(per == PrecisionPer::row ? layout.size_of_row(static_cast<std::int64_t>(i))
                                              : layout.numel());
  }
  statistics_.add_items(items);
  row_bits_.resize(row_bits_.size() + rows);
  find_widths();
  return tensors_.size() - 1;
}

ACTPACK_COMPILED_ONCE const detail::PrecisionTensor& AutoPrecision::at(std::size_t tensor) const {
  detail::require(tensor < tensors_.size(), "tensor ", tensor, " is not one of ", tensors_.size());
  return tensors_[tensor];
}

ACTPACK_COMPILED_ONCE std::span<const std::uint8_t> AutoPrecision::row_bits(
    std::size_t tensor) const {
  const Tensor& t = at(tensor);
  return std::span(row_bits_).subspan(t.first_row, t.rows());
}

// ---- Observations -----------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_ranges(
    std::size_t tensor, std::span<const double> squared_range_norms) {
  const Tensor& t = at(tensor);
  detail::require_rows(t, squared_range_norms.size(), "squared_range_norms");
  statistics_.add_noise(t, [&](std::size_t row) {
    return detail::noise_of_ranges(t.layout, squared_range_norms[row]);
  });
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_noise(
    std::size_t tensor, std::span<const std::array<double, 4>> noise) {
  const Tensor& t = at(tensor);
  detail::require_rows(t, noise.size(), "noise");
  statistics_.add_measured_noise(t, [&](std::size_t row) { return noise[row]; });
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_gains(std::size_t tensor,
                                                        std::span<const double> gains) {
  const Tensor& t = at(tensor);
  detail::require_rows(t, gains.size(), "gains");
  for (std::size_t row = 0; row < gains.size(); ++row) {
    detail::require(!(gains[row] < 0), "gains[", row, "] = ", gains[row], " is negative");
  }
  for (std::size_t row = 0; row < gains.size(); ++row) {
    statistics_.add_gain(t.item_of(row), gains[row]);
  }
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_perturbation(std::size_t tensor,
                                                               double squared_difference) {
  const Tensor& t = at(tensor);
  detail::require(!(squared_difference < 0), "squared_difference = ", squared_difference,
                  " is negative");
  double noise = 0;
  double known = 0;
  for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
    const detail::ItemAverage latest = statistics_.latest(i);
    if (!latest.has_noise) continue;
    const int width_index = detail::index_of_width(row_bits_[t.row_of(i)]);
    noise += latest.noise[static_cast<std::size_t>(width_index)];
    ++known;
  }
  detail::require(known > 0, "tensor ", tensor, " is perturbed before its noise was observed");
  noise *= static_cast<double>(t.items) / known;
  // The two gradients vary independently, so their difference varies twice as much. Without noise,
  // the gain is infinite or NaN, which add_gain leaves out.
  const double gain = squared_difference / 2 / noise;
  for (std::size_t i = t.first_item; i < t.end_item(); ++i) statistics_.add_gain(i, gain);
}

// ---- Widths -----------------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE bool AutoPrecision::step() {
  const std::int64_t steps = steps_ + 1;
  const bool is_due = steps == 1 || steps % options_.solve_interval == 0;
  if (is_due && options_.all_reduce) statistics_.reduce(options_.all_reduce);
  steps_ = steps;
  if (!is_due) return false;
  is_measured_ |= statistics_.end_interval(options_.decay);
  find_widths();
  return true;
}

ACTPACK_COMPILED_ONCE std::int64_t AutoPrecision::bit_budget() const {
  return options_.byte_budget == 0 ? budget_.bits_of_average(options_.average_bits)
                                   : budget_.bits_of_bytes(options_.byte_budget);
}

/// Finds widths for all rows: by allocate_bits for the tensors whose noise and gains are known,
/// evenly for the others.
ACTPACK_COMPILED_ONCE void AutoPrecision::find_widths() {
  const detail::WidthLimits limits{options_.min_bits, options_.max_bits};
  std::int64_t budget = bit_budget();
  const double average_bits =
      static_cast<double>(budget) / static_cast<double>(budget_.total_numel);
  std::vector<const Tensor*> known;
  std::vector<std::int64_t> known_numel;
  std::vector<detail::NoiseByWidth> variance;
  for (const Tensor& t : tensors_) {
    const detail::ItemAverage mean = statistics_.mean_of(t);
    if (!mean.has_noise || !mean.has_gain) {
      const auto numel = std::span<const std::int64_t>(numel_).subspan(t.first_item, t.items);
      budget -= detail::spread_evenly(
          numel, average_bits, limits,
          [&](std::size_t i, std::uint8_t bits) { set_bits(t, t.first_item + i, bits); });
      continue;
    }
    known.push_back(&t);
    for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
      const detail::ItemAverage& own = statistics_.average(i);
      variance.push_back(own.has_noise ? own.noise : mean.noise);
      for (double& noise : variance.back()) noise *= own.has_gain ? own.gain : mean.gain;
      known_numel.push_back(numel_[i]);
    }
  }
  const std::vector<std::uint8_t> bits =
      detail::solve_widths(variance, known_numel, budget, limits, is_measured_);
  auto next = bits.begin();
  for (const Tensor* t : known) {
    for (std::size_t i = t->first_item; i < t->end_item(); ++i) set_bits(*t, i, *next++);
  }
}

ACTPACK_COMPILED_ONCE void AutoPrecision::set_bits(const Tensor& tensor, std::size_t item,
                                                   std::uint8_t bits) {
  if (tensor.has_width_per_row) {
    row_bits_[tensor.row_of(item)] = bits;
  } else {
    std::ranges::fill(std::span(row_bits_).subspan(tensor.first_row, tensor.rows()), bits);
  }
}

ACTPACK_COMPILED_ONCE void AutoPrecision::allocate_rows(std::size_t tensor,
                                                        std::span<const double> squared_range_norms,
                                                        std::span<std::uint8_t> bits) const {
  const Tensor& t = at(tensor);
  detail::require_rows(t, squared_range_norms.size(), "squared_range_norms");
  allocate_rows(tensor, bits, false, [&](std::size_t row) {
    return detail::noise_of_ranges(t.layout, squared_range_norms[row]);
  });
}

ACTPACK_COMPILED_ONCE void AutoPrecision::allocate_rows(
    std::size_t tensor, std::span<const std::array<double, 4>> noise,
    std::span<std::uint8_t> bits) const {
  detail::require_rows(at(tensor), noise.size(), "noise");
  allocate_rows(tensor, bits, true, [&](std::size_t row) { return noise[row]; });
}

template <class NoiseOf>
void AutoPrecision::allocate_rows(std::size_t tensor, std::span<std::uint8_t> bits,
                                  bool is_measured, const NoiseOf& noise_of) const {
  const Tensor& t = at(tensor);
  detail::require(t.has_width_per_row, "tensor ", tensor, " has one width for all rows");
  detail::require_rows(t, bits.size(), "bits");
  const detail::ItemAverage mean = statistics_.mean_of(t);
  std::vector<detail::NoiseByWidth> variance(t.items);
  std::int64_t budget = 0;
  for (std::size_t row = 0; row < t.items; ++row) {
    const detail::ItemAverage& own = statistics_.average(t.first_item + row);
    const double gain = own.has_gain ? own.gain : mean.has_gain ? mean.gain : 1;
    const detail::NoiseByWidth noise = noise_of(row);
    detail::require_noise(row, noise);
    if (detail::is_usable(noise)) {
      for (std::size_t width = 0; width < 4; ++width) variance[row][width] = gain * noise[width];
    }
    budget += numel_[t.first_item + row] * row_bits_[t.first_row + row];
  }
  const auto numel = std::span<const std::int64_t>(numel_).subspan(t.first_item, t.items);
  const detail::WidthLimits limits{options_.min_bits, options_.max_bits};
  std::ranges::copy(detail::solve_widths(variance, numel, budget, limits, is_measured),
                    bits.begin());
  for (std::size_t row = 0; row < t.items; ++row) {
    if (!detail::is_usable(noise_of(row))) bits[row] = static_cast<std::uint8_t>(options_.min_bits);
  }
}

// ---- The saved state --------------------------------------------------------------------------

}  // namespace actpack::inline ACTPACK_ONCE

namespace actpack::detail::inline ACTPACK_TARGET {

inline constexpr std::uint64_t precision_state_magic = 0x636572706b636170;  // "packprec"
inline constexpr std::uint64_t precision_state_version = 1;

}  // namespace actpack::detail::inline ACTPACK_TARGET

namespace actpack::inline ACTPACK_ONCE {

ACTPACK_COMPILED_ONCE std::vector<std::byte> AutoPrecision::save() const {
  detail::ByteWriter out;
  out.put(detail::precision_state_magic);
  out.put(detail::precision_state_version);
  out.put(steps_);
  out.put(std::uint64_t{is_measured_});
  out.put(std::uint64_t{tensors_.size()});
  for (const Tensor& t : tensors_) {
    for (const std::int64_t number : t.shape()) out.put(number);
  }
  statistics_.save(out);
  for (const std::uint8_t bits : row_bits_) out.put(std::uint64_t{bits});
  return out.take();
}

ACTPACK_COMPILED_ONCE void AutoPrecision::restore(std::span<const std::byte> state) {
  using detail::require;
  AutoPrecision next = *this;
  detail::ByteReader in(state, "state");
  require(in.get() == detail::precision_state_magic, "state is none of an AutoPrecision");
  const std::uint64_t version = in.get();
  require(version == detail::precision_state_version, "state has version ", version, " instead of ",
          detail::precision_state_version);
  next.steps_ = in.get_integer();
  require(next.steps_ >= 0, "state has made ", next.steps_, " steps");
  const std::uint64_t is_measured = in.get();
  require(is_measured <= 1, "state has ", is_measured, " instead of a truth value");
  next.is_measured_ = is_measured == 1;
  const std::uint64_t count = in.get();
  require(count == tensors_.size(), "state has ", count, " tensors instead of ", tensors_.size());
  for (std::size_t tensor = 0; tensor < tensors_.size(); ++tensor) {
    for (const std::int64_t number : tensors_[tensor].shape()) {
      const std::int64_t saved = in.get_integer();
      require(saved == number, "state's tensor ", tensor, " has another shape: ", saved,
              " instead of ", number);
    }
  }
  next.statistics_.restore(in);
  for (std::uint8_t& bits : next.row_bits_) {
    const std::uint64_t width = in.get();
    require(width <= 8 && is_width(static_cast<int>(width)), "state has a width of ", width,
            " bits");
    bits = static_cast<std::uint8_t>(width);
  }
  in.require_end();
  *this = std::move(next);
}

}  // namespace actpack::inline ACTPACK_ONCE
