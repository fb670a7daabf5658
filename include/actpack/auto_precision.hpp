// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The controller that a trainer talks to: statistics of its saved tensors go in, widths for their
// rows come out, and what rounding adds to the gradient's variance stays the least that a budget
// allows.
//
// Rounding a row adds gain · noise to that variance (see variance.hpp). The noise is known when the
// row is packed, the gain once its gradient has come back; both enter moving averages, and every so
// many steps allocate_bits makes widths of them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "actpack/bit_allocation.hpp"
#include "actpack/codes.hpp"
#include "actpack/detail/allocation/knapsack.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/layout.hpp"
#include "actpack/variance.hpp"

namespace actpack {

/// What gets a width of its own. For widths by group, register the tensor with rows of one group.
enum class PrecisionPer { row, tensor };

struct AutoPrecisionOptions {
  double average_bits = 2;       // of codes, per value
  std::int64_t byte_budget = 0;  // if not 0, instead: of codes, parameters and widths together
  int min_bits = 1;
  int max_bits = 8;
  double decay = 0.5;                // the share of an average that a new one leaves
  std::int64_t solve_interval = 50;  // steps from one solution to the next

  /// For data-parallel training: adds up, in place, what all ranks have observed since the last
  /// solution. All call it in the same step with arrays of one size, if they have registered the
  /// same tensors, and all then find the same widths.
  std::function<void(std::span<double>)> all_reduce = {};
};

/// Decides on the widths of one model's tensors. Owns its memory and shares nothing: any number of
/// models may have one each. One thread at a time. Deterministic: widths are a function of the
/// options, the tensors, and what was observed in what order.
///
/// Until a tensor's noise and gain are known, its rows share its part of the budget evenly; the
/// others do not wait for it. Rows that were never observed count as the mean of their tensor.
/// Observations that are not finite, as after an overflow, are left out.
class AutoPrecision {
 public:
  /// Throws std::invalid_argument if an option makes no sense.
  explicit AutoPrecision(AutoPrecisionOptions options = {}) : options_(std::move(options)) {
    using detail::require;
    const AutoPrecisionOptions& o = options_;
    require(is_width(o.min_bits), "min_bits = ", o.min_bits, " is not 1, 2, 4 or 8");
    require(is_width(o.max_bits), "max_bits = ", o.max_bits, " is not 1, 2, 4 or 8");
    require(o.min_bits <= o.max_bits, "min_bits = ", o.min_bits,
            " exceeds max_bits = ", o.max_bits);
    require(o.byte_budget >= 0, "byte_budget = ", o.byte_budget, " is negative");
    require(o.byte_budget > 0 || (o.average_bits >= o.min_bits && o.average_bits <= 8),
            "average_bits = ", o.average_bits, " is not in [min_bits = ", o.min_bits, ", 8]");
    require(o.decay >= 0 && o.decay < 1, "decay = ", o.decay, " is not in [0, 1)");
    require(o.solve_interval > 0, "solve_interval = ", o.solve_interval, " is not positive");
  }

  /// Adds a tensor, whose layout's bits play no part, and returns its number, from 0. Throws
  /// std::invalid_argument if the layout is wrong or empty, the byte budget has no room for the
  /// tensor, or a step has been made.
  std::size_t add_tensor(const Layout& layout, PrecisionPer per = PrecisionPer::row) {
    layout.validate();
    detail::require(layout.numel() > 0, "layout has no elements");
    detail::require(steps_ == 0, "a tensor is added after ", steps_, " steps");
    const std::size_t rows = static_cast<std::size_t>(layout.rows);
    const std::size_t items = per == PrecisionPer::row ? rows : 1;
    const std::int64_t total_numel = total_numel_ + layout.numel();
    const std::int64_t overhead_bits =
        overhead_bits_ + overhead_of(layout, static_cast<std::int64_t>(items));
    if (options_.byte_budget > 0) {
      const std::int64_t least = (options_.min_bits * total_numel + overhead_bits + 7) / 8;
      detail::require(least <= options_.byte_budget, "byte_budget = ", options_.byte_budget,
                      " but ", tensors_.size() + 1, " tensors take at least ", least);
    }
    total_numel_ = total_numel;
    overhead_bits_ = overhead_bits;
    tensors_.push_back({layout, per, numel_.size(), items, row_bits_.size()});
    for (std::size_t i = 0; i < items; ++i) {
      numel_.push_back(per == PrecisionPer::row ? layout.size_of_row(static_cast<std::int64_t>(i))
                                                : layout.numel());
    }
    averages_.resize(numel_.size());
    pending_.insert(pending_.end() - 1, items * Sums::count, 0.0);
    row_bits_.resize(row_bits_.size() + rows);
    allocate();
    return tensors_.size() - 1;
  }

  std::size_t num_tensors() const { return tensors_.size(); }

  /// Returns the widths of a tensor's rows [host, rows], valid until the next step.
  std::span<const std::uint8_t> row_bits(std::size_t tensor) const {
    const Tensor& t = at(tensor);
    return std::span(row_bits_).subspan(t.first_row, static_cast<std::size_t>(t.layout.rows));
  }

  /// The noise of this step's rows, from their ranges: `squared_range_norms` [host, rows] has the
  /// sum of the squared ranges of each row's groups. With half the noise for subtractive decoding,
  /// say, pass half of them: they count in proportion.
  void observe_ranges(std::size_t tensor, std::span<const double> squared_range_norms) {
    const Tensor& t = at(tensor);
    require_rows(t, squared_range_norms.size(), "squared_range_norms");
    observe_rows(t,
                 [&](std::size_t row) { return closed_form(t.layout, squared_range_norms[row]); });
  }

  /// The same, measured at every width: `noise` [host, rows] in the order of `widths`, from
  /// measure_rounding_noise.
  void observe_noise(std::size_t tensor, std::span<const std::array<double, 4>> noise) {
    const Tensor& t = at(tensor);
    require_rows(t, noise.size(), "noise");
    pending_.back() += observe_rows(t, [&](std::size_t row) { return noise[row]; });
  }

  /// The gains of this step's rows, from their gradients: `gains` [host, rows], as linear_gain,
  /// conv_gain and the others in variance.hpp return.
  void observe_gains(std::size_t tensor, std::span<const double> gains) {
    const Tensor& t = at(tensor);
    require_rows(t, gains.size(), "gains");
    for (std::size_t row = 0; row < gains.size(); ++row) {
      detail::require(!(gains[row] < 0), "gains[", row, "] = ", gains[row], " is negative");
    }
    for (std::size_t row = 0; row < gains.size(); ++row) {
      if (is_usable(gains[row])) sums(t.item_of(row)).add_gain(gains[row]);
    }
  }

  /// The gain of a tensor that no formula is known for, from two gradients of the same batch and
  /// model, rounded alike but for this tensor's seed: `squared_difference` is the squared norm of
  /// their difference over all parameters. Without a copy of a gradient: add up the gradients of
  /// the loss with one seed and of minus the loss with the other. Needs the tensor's noise. Source:
  /// GACT, section 4.2, with norms instead of gradients.
  void observe_perturbation(std::size_t tensor, double squared_difference) {
    const Tensor& t = at(tensor);
    detail::require(!(squared_difference < 0), "squared_difference = ", squared_difference,
                    " is negative");
    double noise = 0;
    double known = 0;
    for (std::size_t i = t.first_item; i < t.first_item + t.items; ++i) {
      Average average = averages_[i];
      average.update(sums(i), 0);
      if (!average.has_noise) continue;
      noise += average.noise[static_cast<std::size_t>(detail::index_of_width(item_bits(t, i)))];
      ++known;
    }
    detail::require(known > 0, "tensor ", tensor, " is perturbed before its noise was observed");
    noise *= static_cast<double>(t.items) / known;
    // The two gradients vary independently: their difference varies twice as much.
    const double gain = squared_difference / 2 / noise;
    if (!is_usable(gain)) return;  // without noise there is no telling
    for (std::size_t i = t.first_item; i < t.first_item + t.items; ++i) sums(i).add_gain(gain);
  }

  /// Ends a training step. Returns whether it found new widths: after the first step, and whenever
  /// solve_interval steps have been made. An exception of all_reduce leaves all as it was.
  bool step() {
    const std::int64_t steps = steps_ + 1;
    const bool is_due = steps == 1 || steps % options_.solve_interval == 0;
    if (is_due && options_.all_reduce) {
      std::vector<double> all = pending_;
      options_.all_reduce(all);
      pending_ = std::move(all);
    }
    steps_ = steps;
    if (!is_due) return false;
    is_measured_ |= pending_.back() > 0;
    for (std::size_t i = 0; i < averages_.size(); ++i) averages_[i].update(sums(i), options_.decay);
    std::ranges::fill(pending_, 0.0);
    allocate();
    return true;
  }

  /// For rows that differ from step to step, such as samples: writes to `bits` [host, rows] the
  /// best widths for the ranges that the rows have now, within what the tensor's own widths take
  /// together. A row whose norm is not finite gets the narrowest.
  void allocate_rows(std::size_t tensor, std::span<const double> squared_range_norms,
                     std::span<std::uint8_t> bits) const {
    const Tensor& t = at(tensor);
    require_rows(t, squared_range_norms.size(), "squared_range_norms");
    allocate_rows(tensor, t, bits, false,
                  [&](std::size_t row) { return closed_form(t.layout, squared_range_norms[row]); });
  }

  /// The same from the noise that the rows have now, measured at every width.
  void allocate_rows(std::size_t tensor, std::span<const std::array<double, 4>> noise,
                     std::span<std::uint8_t> bits) const {
    const Tensor& t = at(tensor);
    require_rows(t, noise.size(), "noise");
    allocate_rows(tensor, t, bits, true, [&](std::size_t row) { return noise[row]; });
  }

  /// Returns all that the tensors' next widths depend on, as bytes for a checkpoint.
  std::vector<std::byte> save() const {
    detail::ByteWriter out;
    out.put(magic);
    out.put(state_version);
    out.put(steps_);
    out.put(std::uint64_t{is_measured_});
    out.put(std::uint64_t{tensors_.size()});
    for (const Tensor& t : tensors_) {
      for (const std::int64_t number : t.shape()) out.put(number);
    }
    for (const Average& average : averages_) {
      for (const double noise : average.noise) out.put(noise);
      out.put(average.gain);
      out.put(std::uint64_t{average.has_noise} | std::uint64_t{average.has_gain} << 1);
    }
    for (const double sum : pending_) out.put(sum);
    for (const std::uint8_t bits : row_bits_) out.put(std::uint64_t{bits});
    return out.take();
  }

  /// Goes on where save() was called, given the same tensors. Throws std::invalid_argument, and
  /// changes nothing, if the bytes are of another version, of other tensors, or damaged.
  void restore(std::span<const std::byte> state) {
    using detail::require;
    AutoPrecision next = *this;
    detail::ByteReader in(state, "state");
    require(in.get() == magic, "state is none of an AutoPrecision");
    const std::uint64_t version = in.get();
    require(version == state_version, "state has version ", version, " instead of ", state_version);
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
    for (Average& average : next.averages_) {
      for (double& noise : average.noise) noise = get_average(in);
      average.gain = get_average(in);
      const std::uint64_t known = in.get();
      require(known <= 3, "state has ", known, " instead of two truth values");
      average.has_noise = (known & 1) != 0;
      average.has_gain = (known & 2) != 0;
    }
    for (double& sum : next.pending_) sum = get_average(in);
    for (std::uint8_t& bits : next.row_bits_) {
      const std::uint64_t width = in.get();
      require(width <= 8 && is_width(static_cast<int>(width)), "state has a width of ", width,
              " bits");
      bits = static_cast<std::uint8_t>(width);
    }
    in.require_end();
    *this = std::move(next);
  }

 private:
  static constexpr std::uint64_t magic = 0x636572706b636170;  // "packprec"
  static constexpr std::uint64_t state_version = 1;

  struct Tensor {
    Layout layout;
    PrecisionPer per;
    std::size_t first_item;
    std::size_t items;
    std::size_t first_row;

    std::size_t item_of(std::size_t row) const {
      return first_item + (per == PrecisionPer::row ? row : 0);
    }
    std::array<std::int64_t, 5> shape() const {
      return {layout.rows, layout.row_size, layout.group_size, layout.last_row_size,
              static_cast<std::int64_t>(per)};
    }
  };

  /// Sums over one item since the last solution, as a row of `pending_`: plain numbers, which ranks
  /// can add up.
  class Sums {
   public:
    static constexpr std::size_t count = 7;
    explicit Sums(std::span<double> values) : values_(values) {}

    void add_noise(const std::array<double, 4>& noise, double share) {
      for (std::size_t width = 0; width < 4; ++width) values_[width] += noise[width];
      values_[4] += share;
    }
    void add_gain(double gain) {
      values_[5] += gain;
      values_[6] += 1;
    }
    double noise(std::size_t width) const { return values_[width] / values_[4]; }
    double gain() const { return values_[5] / values_[6]; }
    bool has_noise() const { return values_[4] > 0; }
    bool has_gain() const { return values_[6] > 0; }

   private:
    std::span<double> values_;
  };

  struct Average {
    std::array<double, 4> noise{};
    double gain = 0;
    bool has_noise = false;
    bool has_gain = false;

    void update(const Sums& sums, double decay) {
      if (sums.has_noise()) {
        const double old = has_noise ? decay : 0;
        for (std::size_t width = 0; width < 4; ++width) {
          noise[width] = old * noise[width] + (1 - old) * sums.noise(width);
        }
        has_noise = true;
      }
      if (sums.has_gain()) {
        const double old = has_gain ? decay : 0;
        gain = old * gain + (1 - old) * sums.gain();
        has_gain = true;
      }
    }
  };

  const Tensor& at(std::size_t tensor) const {
    detail::require(tensor < tensors_.size(), "tensor ", tensor, " is not one of ",
                    tensors_.size());
    return tensors_[tensor];
  }

  static void require_rows(const Tensor& t, std::size_t size, const char* name) {
    detail::require(static_cast<std::int64_t>(size) == t.layout.rows, name, ".size() = ", size,
                    " but the tensor has ", t.layout.rows, " rows");
  }

  Sums sums(std::size_t item) {
    return Sums(std::span(pending_).subspan(item * Sums::count, Sums::count));
  }

  int item_bits(const Tensor& t, std::size_t item) const {
    return row_bits_[t.first_row + (item - t.first_item)];
  }

  static std::array<double, 4> closed_form(const Layout& layout, double squared_range_norm) {
    const double sensitivity = rounding_sensitivity(squared_range_norm, layout.group_size);
    std::array<double, 4> noise{};
    for (std::size_t width = 0; width < 4; ++width) {
      noise[width] = variance_at(sensitivity, widths[width]);
    }
    return noise;
  }

  template <class NoiseOf>
  void allocate_rows(std::size_t tensor, const Tensor& t, std::span<std::uint8_t> bits,
                     bool is_measured, const NoiseOf& noise_of) const {
    detail::require(t.per == PrecisionPer::row, "tensor ", tensor, " has one width for all rows");
    require_rows(t, bits.size(), "bits");
    const Average mean = mean_of(t);
    std::vector<std::array<double, 4>> variance(t.items);
    std::int64_t budget = 0;
    for (std::size_t row = 0; row < t.items; ++row) {
      const Average& own = averages_[t.first_item + row];
      const double gain = own.has_gain ? own.gain : mean.has_gain ? mean.gain : 1;
      const std::array<double, 4> noise = noise_of(row);
      require_noise(row, noise);
      if (is_usable(noise)) {
        for (std::size_t width = 0; width < 4; ++width) variance[row][width] = gain * noise[width];
      }
      budget += numel_[t.first_item + row] * row_bits_[t.first_row + row];
    }
    const auto numel = std::span(numel_).subspan(t.first_item, t.items);
    std::ranges::copy(solve(variance, numel, budget, is_measured), bits.begin());
    for (std::size_t row = 0; row < t.items; ++row) {
      if (!is_usable(noise_of(row))) bits[row] = static_cast<std::uint8_t>(options_.min_bits);
    }
  }

  static double get_average(detail::ByteReader& in) {
    const double value = in.get_double();
    detail::require(value >= 0 && std::isfinite(value), "state has ", value,
                    " where an average or a sum belongs");
    return value;
  }

  // A tensor's noise is the sum of its rows', so each row is a share of one observation. Returns
  // how many rows were observed.
  template <class NoiseOf>
  double observe_rows(const Tensor& t, const NoiseOf& noise_of) {
    const std::size_t rows = static_cast<std::size_t>(t.layout.rows);
    double usable = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      require_noise(row, noise_of(row));
      usable += is_usable(noise_of(row)) ? 1 : 0;
    }
    if (t.per == PrecisionPer::tensor && usable < static_cast<double>(rows)) return 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const std::array<double, 4> noise = noise_of(row);
      const bool ends_observation = t.per == PrecisionPer::row || row + 1 == rows;
      if (is_usable(noise)) sums(t.item_of(row)).add_noise(noise, ends_observation ? 1 : 0);
    }
    return usable;
  }

  static void require_noise(std::size_t row, const std::array<double, 4>& noise) {
    for (const double n : noise) {
      detail::require(!(n < 0), "the noise of row ", row, " = ", n, " is negative");
    }
  }

  // What overflowed is no observation, nor is what could make products overflow.
  static bool is_usable(double value) { return value <= 1e140; }
  static bool is_usable(const std::array<double, 4>& noise) {
    return std::ranges::all_of(noise, [](double n) { return is_usable(n); });
  }

  // Over the items that were observed.
  Average mean_of(const Tensor& t) const {
    Average mean;
    double noises = 0;
    double gains = 0;
    for (const Average& average : std::span(averages_).subspan(t.first_item, t.items)) {
      if (average.has_noise) {
        for (std::size_t width = 0; width < 4; ++width) mean.noise[width] += average.noise[width];
        ++noises;
      }
      if (average.has_gain) {
        mean.gain += average.gain;
        ++gains;
      }
    }
    mean.has_noise = noises > 0;
    mean.has_gain = gains > 0;
    for (double& noise : mean.noise) noise /= std::max(noises, 1.0);
    mean.gain /= std::max(gains, 1.0);
    return mean;
  }

  // The bits of a tensor besides its codes: parameters, widths, and what rounding rows up to words
  // takes at most.
  static std::int64_t overhead_of(const Layout& layout, std::int64_t items) {
    const auto padding_of = [](std::int64_t size) {
      std::int64_t padding = 0;
      for (const int bits : widths) {
        padding = std::max(padding, 32 * words_for(size, bits) - size * bits);
      }
      return padding;
    };
    return 32 * layout.num_groups() + 8 * items + (layout.rows - 1) * padding_of(layout.row_size) +
           padding_of(layout.size_of_row(layout.rows - 1));
  }

  // For the codes of all tensors.
  std::int64_t bit_budget() const {
    if (options_.byte_budget == 0) {
      return static_cast<std::int64_t>(options_.average_bits * static_cast<double>(total_numel_));
    }
    constexpr std::int64_t most = std::int64_t{1} << 59;
    return 8 * std::min(options_.byte_budget, most) - overhead_bits_;
  }

  // Finds widths for all rows: by allocate_bits for the tensors whose noise and gains are known,
  // evenly for the others.
  void allocate() {
    std::int64_t budget = bit_budget();
    const double average = static_cast<double>(budget) / static_cast<double>(total_numel_);
    std::vector<const Tensor*> known;
    std::vector<std::int64_t> known_numel;
    std::vector<std::array<double, 4>> variance;
    for (const Tensor& t : tensors_) {
      const Average mean = mean_of(t);
      if (!mean.has_noise || !mean.has_gain) {
        budget -= allocate_evenly(t, average);
        continue;
      }
      known.push_back(&t);
      for (std::size_t i = t.first_item; i < t.first_item + t.items; ++i) {
        const Average& own = averages_[i];
        variance.push_back(own.has_noise ? own.noise : mean.noise);
        for (double& noise : variance.back()) noise *= own.has_gain ? own.gain : mean.gain;
        known_numel.push_back(numel_[i]);
      }
    }
    const std::vector<std::uint8_t> bits = solve(variance, known_numel, budget, is_measured_);
    auto next = bits.begin();
    for (const Tensor* t : known) {
      for (std::size_t i = t->first_item; i < t->first_item + t->items; ++i)
        set_bits(*t, i, *next++);
    }
  }

  std::vector<std::uint8_t> solve(std::span<const std::array<double, 4>> variance,
                                  std::span<const std::int64_t> numel, std::int64_t budget,
                                  bool is_measured) const {
    const std::vector<std::uint8_t> min_bits(numel.size(),
                                             static_cast<std::uint8_t>(options_.min_bits));
    const std::vector<std::uint8_t> max_bits(numel.size(),
                                             static_cast<std::uint8_t>(options_.max_bits));
    if (is_measured) {
      return allocate_measured_bits({variance, numel, budget, min_bits, max_bits}).bits;
    }
    std::vector<double> sensitivity(numel.size());  // the variance at one bit
    std::ranges::transform(variance, sensitivity.begin(), [](const auto& row) { return row[0]; });
    return allocate_bits({sensitivity, numel, budget, min_bits, max_bits}).bits;
  }

  // Gives a tensor's rows the widths next to `average`, the wider ones spread among the others.
  // Returns the bits that takes, at most the tensor's part.
  std::int64_t allocate_evenly(const Tensor& t, double average) {
    const int most = options_.max_bits;
    int narrow = options_.min_bits;
    while (2 * narrow <= std::min<double>(most, average)) narrow *= 2;
    const int wide = std::min(2 * narrow, most);
    const double extra = average - narrow;
    std::int64_t numel = 0;  // of the rows so far
    std::int64_t used = 0;   // bits beyond `narrow` for each of them
    for (std::size_t i = t.first_item; i < t.first_item + t.items; ++i) {
      numel += numel_[i];
      const std::int64_t cost = (wide - narrow) * numel_[i];
      const bool is_wide =
          used + cost <= static_cast<std::int64_t>(extra * static_cast<double>(numel));
      if (is_wide) used += cost;
      set_bits(t, i, static_cast<std::uint8_t>(is_wide ? wide : narrow));
    }
    return narrow * numel + used;
  }

  void set_bits(const Tensor& t, std::size_t item, std::uint8_t bits) {
    const std::size_t rows = static_cast<std::size_t>(t.layout.rows);
    const std::span<std::uint8_t> all = std::span(row_bits_).subspan(t.first_row, rows);
    if (t.per == PrecisionPer::tensor) {
      std::ranges::fill(all, bits);
    } else {
      all[item - t.first_item] = bits;
    }
  }

  AutoPrecisionOptions options_;
  std::vector<Tensor> tensors_;
  std::vector<std::int64_t> numel_;    // [items]
  std::vector<Average> averages_;      // [items]
  std::vector<double> pending_ = {0};  // [items][Sums::count], and how many rows were measured
  std::int64_t total_numel_ = 0;
  std::int64_t overhead_bits_ = 0;
  std::vector<std::uint8_t> row_bits_;
  std::int64_t steps_ = 0;
  bool is_measured_ = false;
};

}  // namespace actpack
