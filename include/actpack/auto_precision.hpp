// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// AutoPrecision, the controller that a trainer talks to: statistics of its saved tensors go in, and
// widths for their rows come out. The variance that rounding adds to the gradient stays the least
// that a budget allows.
//
// Rounding a row adds gain · noise to that variance (see variance.hpp). The trainer knows the noise
// when it packs the row, and the gain once the row's gradient has come back. Both enter moving
// averages; every so many steps, allocate_bits turns these into widths.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "actpack/detail/auto_precision/state.hpp"
#include "actpack/detail/auto_precision/tensor.hpp"
#include "actpack/layout.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

class WidthSolver;

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_ONCE {

/// The unit that gets a width of its own. For widths by group, register a tensor with rows of one
/// group.
enum class PrecisionPer { row, tensor };

struct AutoPrecisionOptions {
  double average_bits = 2;       // of codes, per value
  std::int64_t byte_budget = 0;  // if not 0, instead: for codes, parameters and widths together,
                                 // as a frame stores them, without row offsets
  int min_bits = 1;
  int max_bits = 8;
  double decay = 0.5;                // the weight of the old average when a new one comes in
  std::int64_t solve_interval = 50;  // steps from one solution to the next

  /// For data-parallel training: adds up, in place, what all ranks have observed since the last
  /// solution. All ranks call it in the same step, once. If they have registered the same tensors,
  /// their arrays have one size, and all find the same widths. Sums of an item that come back
  /// negative, not finite or too large count on no rank.
  std::function<void(std::span<double>)> all_reduce = {};
};

/// Decides the widths of one model's tensors. Owns its memory and shares nothing: any number of
/// models may have one each. One thread at a time. Deterministic: widths are a function of the
/// options, the tensors, and the observations in their order.
///
/// Until a tensor's noise and gain are known, its rows share its part of the budget evenly; other
/// tensors do not wait for it. Rows that were never observed count as the mean of their tensor.
/// Observations that are not finite or beyond 10^140, as after an overflow, are left out.
///
/// A function that throws has changed nothing, whatever the exception: it can be called again.
///
/// All arrays are host memory. The functions that take a tensor's number throw
/// std::invalid_argument if there is no such tensor, if an array does not have an element for each
/// row, or if one is negative.
class AutoPrecision {
 public:
  /// Throws std::invalid_argument if an option makes no sense.
  explicit AutoPrecision(AutoPrecisionOptions options = {});

  /// Adds a tensor and returns its number, from 0. The layout's bits do not matter. Throws
  /// std::invalid_argument if the layout is wrong or empty, the byte budget has no room for the
  /// tensor, a step has been made, or all tensors together have more than 2^50 elements or 2^32 - 1
  /// widths.
  std::size_t add_tensor(const Layout& layout, PrecisionPer per = PrecisionPer::row);

  std::size_t num_tensors() const { return state_.tensors.size(); }

  /// Returns the widths of a tensor's rows [host, rows], valid until the next step or tensor.
  std::span<const std::uint8_t> row_bits(std::size_t tensor) const;

  /// Observes the noise of this step's rows by their ranges: `squared_range_norms` [host, rows] has
  /// the sum of the squared ranges of each row's groups. Values count in proportion: for half the
  /// noise, as with subtractive decoding, pass half of them.
  void observe_ranges(std::size_t tensor, std::span<const double> squared_range_norms);

  /// The same, measured at every width: `noise` [host, rows] in the order of `widths`, from
  /// measure_rounding_noise.
  void observe_noise(std::size_t tensor, std::span<const std::array<double, 4>> noise);

  /// Observes the gains of this step's rows, known from their gradients: `gains` [host, rows], as
  /// linear_gain, conv_gain and the others in variance.hpp return them.
  void observe_gains(std::size_t tensor, std::span<const double> gains);

  /// Observes the gain of a tensor that has no formula for it. Compute two gradients of the same
  /// batch and model, rounded alike except for this tensor's seed: `squared_difference` is the
  /// squared norm of their difference over all parameters. To do without a copy of a gradient, add
  /// up the gradients of the loss with one seed and of minus the loss with the other. Throws
  /// std::invalid_argument also if the tensor's noise was never observed. Source: GACT, section
  /// 4.2, with norms instead of gradients.
  void observe_perturbation(std::size_t tensor, double squared_difference);

  /// Ends a training step. Returns whether it found new widths: it does after the first step, and
  /// whenever solve_interval steps have been made. All memory is taken before all_reduce is called,
  /// and nothing fails after it. So a rank whose all_reduce has returned makes the step as the
  /// others do, and a step that threw can be made again.
  bool step();

  /// For rows that differ from step to step, such as samples: writes to `bits` [host, rows] the
  /// best widths for the rows' present ranges. Together they take no more bits than the tensor's
  /// own widths. A row whose norm is not finite gets the narrowest width.
  void allocate_rows(std::size_t tensor, std::span<const double> squared_range_norms,
                     std::span<std::uint8_t> bits) const;

  /// The same for the rows' present noise, measured at every width.
  void allocate_rows(std::size_t tensor, std::span<const std::array<double, 4>> noise,
                     std::span<std::uint8_t> bits) const;

  /// Returns everything that future widths depend on as a frame for a checkpoint: see
  /// serialize.hpp.
  std::vector<std::byte> save() const;

  /// Continues where save() was called, given the same options, of which solve_interval may differ,
  /// and the same tensors. `state` [host] has any alignment. Throws std::invalid_argument if the
  /// bytes are damaged, of another version, or of other options or tensors.
  void restore(std::span<const std::byte> state);

 private:
  using State = detail::PrecisionState;
  using Tensor = detail::PrecisionTensor;

  const Tensor& at(std::size_t tensor) const;
  std::int64_t bit_budget(const State& state) const;
  void find_widths(State& state, detail::WidthSolver& solver) const;
  template <class NoiseOf>
  void allocate_rows(std::size_t tensor, std::span<std::uint8_t> bits, bool is_measured,
                     const NoiseOf& noise_of) const;

  AutoPrecisionOptions options_;
  State state_;
};

}  // namespace actpack

#if !ACTPACK_EXTERN_KERNELS
#include "actpack/detail/auto_precision/members.hpp"
#endif
