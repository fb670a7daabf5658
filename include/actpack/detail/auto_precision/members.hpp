// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The member functions of AutoPrecision: the end of auto_precision.hpp, or compiled once. Those
// that compute do so in the default floating-point environment, as verbs do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "actpack/auto_precision.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/allocation/items.hpp"
#include "actpack/detail/auto_precision/widths.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/float_environment.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/serialize/frame.hpp"
#include "actpack/sensitivity.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_rows(const PrecisionTensor& tensor, std::size_t size, const char* name) {
  refuse_unless(size == tensor.rows(), name, ".size() = ", size, " but the tensor has ",
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

inline WidthLimits limits_of(const AutoPrecisionOptions& options) {
  return {options.min_bits, options.max_bits};
}

/// More steps than any training makes; one more does not overflow.
inline constexpr std::int64_t max_steps = std::int64_t{1} << 62;

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_ONCE {

// ---- Options and tensors ----------------------------------------------------------------------

ACTPACK_COMPILED_ONCE AutoPrecision::AutoPrecision(AutoPrecisionOptions options)
    : options_(std::move(options)) {
  using detail::refuse_unless;
  const AutoPrecisionOptions& o = options_;
  refuse_unless(is_width(o.min_bits), "min_bits = ", o.min_bits, " is not 1, 2, 4 or 8");
  refuse_unless(is_width(o.max_bits), "max_bits = ", o.max_bits, " is not 1, 2, 4 or 8");
  refuse_unless(o.min_bits <= o.max_bits, "min_bits = ", o.min_bits,
                " exceeds max_bits = ", o.max_bits);
  refuse_unless(o.byte_budget >= 0, "byte_budget = ", o.byte_budget, " is negative");
  refuse_unless(o.byte_budget > 0 || (o.average_bits >= o.min_bits && o.average_bits <= 8),
                "average_bits = ", o.average_bits, " is not in [min_bits = ", o.min_bits, ", 8]");
  refuse_unless(o.decay >= 0 && o.decay < 1, "decay = ", o.decay, " is not in [0, 1)");
  refuse_unless(o.solve_interval > 0, "solve_interval = ", o.solve_interval, " is not positive");
}

ACTPACK_COMPILED_ONCE std::size_t AutoPrecision::add_tensor(const Layout& layout,
                                                            PrecisionPer per) {
  const detail::DefaultFloatEnvironment environment;
  layout.validate();
  detail::refuse_unless(layout.numel() > 0, "layout has no elements");
  detail::refuse_unless(state_.steps == 0, "a tensor is added after ", state_.steps, " steps");
  const std::int64_t items = per == PrecisionPer::row ? layout.rows : 1;
  const std::int64_t items_before = static_cast<std::int64_t>(state_.numel.size());
  detail::refuse_unless(
      layout.numel() <= detail::PrecisionBudget::max_numel - state_.budget.total_numel,
      "layout.numel() = ", layout.numel(), " and the ", state_.budget.total_numel,
      " elements of other tensors exceed 2^50");
  detail::refuse_unless(items <= detail::max_items - items_before, "the tensor's ", items,
                        " widths and the ", items_before, " of other tensors exceed 2^32 - 1");
  const detail::PrecisionBudget budget = state_.budget.with_tensor(layout, items);
  if (options_.byte_budget > 0) {
    const std::int64_t least = budget.least_bytes(options_.min_bits);
    detail::refuse_unless(least <= options_.byte_budget, "byte_budget = ", options_.byte_budget,
                          " but ", num_tensors() + 1, " tensors take at least ", least);
  }
  State next = state_;
  next.budget = budget;
  next.tensors.push_back({layout, per == PrecisionPer::row, next.numel.size(),
                          static_cast<std::size_t>(items), next.row_bits.size()});
  for (std::int64_t i = 0; i < items; ++i) {
    next.numel.push_back(per == PrecisionPer::row ? layout.size_of_row(i) : layout.numel());
  }
  next.statistics.add_items(static_cast<std::size_t>(items));
  next.row_bits.resize(next.row_bits.size() + static_cast<std::size_t>(layout.rows));
  detail::WidthSolver solver(0, {});  // no tensor is known before the first step
  find_widths(next, solver);
  state_ = std::move(next);
  return num_tensors() - 1;
}

ACTPACK_COMPILED_ONCE const detail::PrecisionTensor& AutoPrecision::at(std::size_t tensor) const {
  detail::refuse_unless(tensor < num_tensors(), "tensor ", tensor, " is not one of ",
                        num_tensors());
  return state_.tensors[tensor];
}

ACTPACK_COMPILED_ONCE std::span<const std::uint8_t> AutoPrecision::row_bits(
    std::size_t tensor) const {
  const Tensor& t = at(tensor);
  return std::span(state_.row_bits).subspan(t.first_row, t.rows());
}

// ---- Observations -----------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_ranges(
    std::size_t tensor, std::span<const double> squared_range_norms) {
  const detail::DefaultFloatEnvironment environment;
  const Tensor& t = at(tensor);
  detail::require_rows(t, squared_range_norms.size(), "squared_range_norms");
  state_.statistics.add_noise(t, [&](std::size_t row) {
    return detail::noise_of_ranges(t.layout, squared_range_norms[row]);
  });
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_noise(
    std::size_t tensor, std::span<const std::array<double, 4>> noise) {
  const detail::DefaultFloatEnvironment environment;
  const Tensor& t = at(tensor);
  detail::require_rows(t, noise.size(), "noise");
  state_.statistics.add_measured_noise(t, [&](std::size_t row) { return noise[row]; });
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_gains(std::size_t tensor,
                                                        std::span<const double> gains) {
  const detail::DefaultFloatEnvironment environment;
  const Tensor& t = at(tensor);
  detail::require_rows(t, gains.size(), "gains");
  for (std::size_t row = 0; row < gains.size(); ++row) {
    detail::refuse_unless(!(gains[row] < 0), "gains[", row, "] = ", gains[row], " is negative");
  }
  for (std::size_t row = 0; row < gains.size(); ++row) {
    state_.statistics.add_gain(t.item_of(row), gains[row]);
  }
}

ACTPACK_COMPILED_ONCE void AutoPrecision::observe_perturbation(std::size_t tensor,
                                                               double squared_difference) {
  const detail::DefaultFloatEnvironment environment;
  const Tensor& t = at(tensor);
  detail::refuse_unless(!(squared_difference < 0), "squared_difference = ", squared_difference,
                        " is negative");
  double noise = 0;
  double known = 0;
  for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
    const detail::ItemAverage latest = state_.statistics.latest(i);
    if (!latest.has_noise) continue;
    const int width_index = detail::index_of_width(state_.row_bits[t.row_of(i)]);
    noise += latest.noise[static_cast<std::size_t>(width_index)];
    ++known;
  }
  detail::refuse_unless(known > 0, "tensor ", tensor,
                        " is perturbed before its noise was observed");
  noise *= static_cast<double>(t.items) / known;
  // The two gradients vary independently, so their difference varies twice as much. Without noise,
  // the gain is infinite or NaN, which add_gain leaves out.
  const double gain = squared_difference / 2 / noise;
  for (std::size_t i = t.first_item; i < t.end_item(); ++i) state_.statistics.add_gain(i, gain);
}

// ---- Widths -----------------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE bool AutoPrecision::step() {
  const detail::DefaultFloatEnvironment environment;
  detail::refuse_unless(state_.steps < detail::max_steps, "steps = ", state_.steps,
                        " is as far as an AutoPrecision counts");
  const std::int64_t steps = state_.steps + 1;
  const bool is_due = steps == 1 || steps % options_.solve_interval == 0;
  if (!is_due) {
    state_.steps = steps;
    return false;
  }
  State next = state_;
  detail::WidthSolver solver(next.numel.size(), detail::limits_of(options_));
  if (options_.all_reduce) options_.all_reduce(next.statistics.sums());
  // The other ranks go on from here, so this one must: nothing below allocates or is refused.
  next.steps = steps;
  next.is_measured |= next.statistics.end_interval(options_.decay);
  find_widths(next, solver);
  state_ = std::move(next);
  return true;
}

ACTPACK_COMPILED_ONCE std::int64_t AutoPrecision::bit_budget(const State& state) const {
  return options_.byte_budget == 0 ? state.budget.bits_of_average(options_.average_bits)
                                   : state.budget.bits_of_bytes(options_.byte_budget);
}

/// Finds widths for all rows: by allocate_bits for the tensors whose noise and gains are known,
/// evenly for the others. Cannot fail if `solver` has room for the items of known tensors: averages
/// are at most 10^140, their products below the 2^960 that allocate_bits takes, and the even widths
/// leave the others their share of the budget.
ACTPACK_COMPILED_ONCE void AutoPrecision::find_widths(State& state,
                                                      detail::WidthSolver& solver) const {
  std::int64_t budget = bit_budget(state);
  const double average_bits =
      static_cast<double>(budget) / static_cast<double>(state.budget.total_numel);
  const auto is_known = [&](const Tensor& t) {
    const detail::ItemAverage mean = state.statistics.mean_of(t);
    return mean.has_noise && mean.has_gain;
  };
  for (const Tensor& t : state.tensors) {
    const detail::ItemAverage mean = state.statistics.mean_of(t);
    if (!is_known(t)) {
      const auto numel = std::span<const std::int64_t>(state.numel).subspan(t.first_item, t.items);
      budget -= detail::spread_evenly(
          numel, average_bits, detail::limits_of(options_),
          [&](std::size_t i, std::uint8_t bits) { state.set_bits(t, t.first_item + i, bits); });
      continue;
    }
    for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
      const detail::ItemAverage& own = state.statistics.average(i);
      detail::NoiseByWidth variance = own.has_noise ? own.noise : mean.noise;
      for (double& noise : variance) noise *= own.has_gain ? own.gain : mean.gain;
      solver.add(variance, state.numel[i]);
    }
  }
  auto next = solver.solve(budget, state.is_measured).begin();
  for (const Tensor& t : state.tensors) {
    if (!is_known(t)) continue;
    for (std::size_t i = t.first_item; i < t.end_item(); ++i) state.set_bits(t, i, *next++);
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
  const detail::DefaultFloatEnvironment environment;
  const Tensor& t = at(tensor);
  detail::refuse_unless(t.has_width_per_row, "tensor ", tensor, " has one width for all rows");
  detail::require_rows(t, bits.size(), "bits");
  const detail::ItemAverage mean = state_.statistics.mean_of(t);
  detail::WidthSolver solver(t.items, detail::limits_of(options_));
  std::int64_t budget = 0;
  for (std::size_t row = 0; row < t.items; ++row) {
    const detail::ItemAverage& own = state_.statistics.average(t.first_item + row);
    const double gain = own.has_gain ? own.gain : mean.has_gain ? mean.gain : 1;
    const detail::NoiseByWidth noise = noise_of(row);
    detail::require_noise(row, noise);
    detail::NoiseByWidth variance{};
    if (detail::is_usable(noise)) {
      for (std::size_t width = 0; width < 4; ++width) variance[width] = gain * noise[width];
    }
    const std::int64_t numel = state_.numel[t.first_item + row];
    solver.add(variance, numel);
    budget += numel * state_.row_bits[t.first_row + row];
  }
  std::ranges::copy(solver.solve(budget, is_measured), bits.begin());
  for (std::size_t row = 0; row < t.items; ++row) {
    if (!detail::is_usable(noise_of(row))) {
      bits[row] = static_cast<std::uint8_t>(options_.min_bits);
    }
  }
}

// ---- The saved state --------------------------------------------------------------------------

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

/// Refuses a state that was saved with another value of an option.
template <class T>
void require_option(const char* name, T saved, T own) {
  refuse_unless(saved == own, "state was saved with ", name, " = ", saved, " instead of ", own);
}

/// The average that counts: beside a byte budget, none does.
inline double average_bits_of(const AutoPrecisionOptions& options) {
  return options.byte_budget > 0 ? 0 : options.average_bits;
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_ONCE {

ACTPACK_COMPILED_ONCE std::vector<std::byte> AutoPrecision::save() const {
  const std::int64_t items = static_cast<std::int64_t>(state_.numel.size());
  const std::int64_t tensors = static_cast<std::int64_t>(num_tensors());
  const std::int64_t size = detail::frame_overhead + 8 * (8 + 5 * tensors) +
                            state_.statistics.saved_size() + detail::padded_size(items);
  std::vector<std::byte> frame(static_cast<std::size_t>(size));
  detail::ByteWriter out(frame);
  put_header(out, detail::controller_contents, size);
  out.put(options_.byte_budget);
  out.put(detail::average_bits_of(options_));
  out.put(std::int64_t{options_.min_bits});
  out.put(std::int64_t{options_.max_bits});
  out.put(options_.decay);
  out.put(state_.steps);
  out.put(std::uint64_t{state_.is_measured});
  out.put(tensors);
  for (const Tensor& t : state_.tensors) {
    for (const std::int64_t number : t.shape()) out.put(number);
  }
  state_.statistics.save(out);
  std::vector<std::uint8_t> bits;
  bits.reserve(state_.numel.size());
  for (const Tensor& t : state_.tensors) {
    for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
      bits.push_back(state_.row_bits[t.row_of(i)]);
    }
  }
  out.put_array(bits.data(), items);
  detail::seal_frame(frame);
  return frame;
}

ACTPACK_COMPILED_ONCE void AutoPrecision::restore(std::span<const std::byte> state) {
  using detail::refuse_unless;
  using detail::require_option;
  const detail::OpenFrame opened = detail::open_frame(state, "state");
  refuse_unless(opened.contents.form == Form::controller, "state holds ",
                detail::name_of(opened.contents.form), ", not ", detail::name_of(Form::controller));
  detail::ByteReader in(opened.body, "state");
  require_option("byte_budget", in.get_integer(), options_.byte_budget);
  require_option("average_bits", in.get_double(), detail::average_bits_of(options_));
  require_option("min_bits", in.get_integer(), std::int64_t{options_.min_bits});
  require_option("max_bits", in.get_integer(), std::int64_t{options_.max_bits});
  require_option("decay", in.get_double(), options_.decay);
  State next = state_;
  next.steps = in.get_integer();
  refuse_unless(next.steps >= 0 && next.steps <= detail::max_steps, "state has made ", next.steps,
                " steps, which is not in [0, 2^62]");
  const std::uint64_t is_measured = in.get<std::uint64_t>();
  refuse_unless(is_measured <= 1, "state has ", is_measured, " instead of a truth value");
  next.is_measured = is_measured == 1;
  const std::uint64_t count = in.get<std::uint64_t>();
  refuse_unless(count == num_tensors(), "state has ", count, " tensors instead of ", num_tensors());
  for (std::size_t tensor = 0; tensor < num_tensors(); ++tensor) {
    for (const std::int64_t number : state_.tensors[tensor].shape()) {
      const std::int64_t saved = in.get_integer();
      refuse_unless(saved == number, "state's tensor ", tensor, " has another shape: ", saved,
                    " instead of ", number);
    }
  }
  next.statistics.restore(in);
  const std::byte* bits = in.get_array(static_cast<std::int64_t>(next.numel.size()));
  for (const Tensor& t : next.tensors) {
    for (std::size_t i = t.first_item; i < t.end_item(); ++i) {
      const int width = std::to_integer<int>(*bits++);
      refuse_unless(is_width(width) && width >= options_.min_bits && width <= options_.max_bits,
                    "state has a width of ", width,
                    " bits, but widths are in [min_bits = ", options_.min_bits,
                    ", max_bits = ", options_.max_bits, "]");
      next.set_bits(t, i, static_cast<std::uint8_t>(width));
    }
  }
  in.require_end();
  state_ = std::move(next);
}

}  // namespace actpack
