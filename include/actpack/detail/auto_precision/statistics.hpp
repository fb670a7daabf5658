// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The observations of AutoPrecision, item by item: sums since the last solution, which ranks can
// add up, and moving averages of their means.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "actpack/detail/auto_precision/tensor.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

using NoiseByWidth = std::array<double, 4>;

/// Overflowed values are no observations, nor are values whose products could overflow.
inline constexpr double max_observation = 1e140;
inline bool is_usable(double value) { return value >= 0 && value <= max_observation; }
inline bool is_usable(const NoiseByWidth& noise) {
  return std::ranges::all_of(noise, [](double n) { return is_usable(n); });
}

inline void require_noise(std::size_t row, const NoiseByWidth& noise) {
  for (const double n : noise)
    refuse_unless(!(n < 0), "the noise of row ", row, " = ", n, " is negative");
}

/// The sums over one item: a view of plain numbers. They may come back from other ranks, so that
/// nothing about them is certain.
class ItemSums {
 public:
  static constexpr std::size_t count = 7;  // noise at four widths, how many, gain, how many
  explicit ItemSums(std::span<double> values) : values_(values) {}

  void add_noise(const NoiseByWidth& noise) {
    for (std::size_t width = 0; width < 4; ++width) values_[width] += noise[width];
    ++values_[4];
  }
  void add_gain(double gain) {
    values_[5] += gain;
    ++values_[6];
  }
  NoiseByWidth mean_noise() const {
    NoiseByWidth mean{};
    for (std::size_t width = 0; width < 4; ++width) mean[width] = values_[width] / values_[4];
    return mean;
  }
  double mean_gain() const { return values_[5] / values_[6]; }
  bool has_noise() const { return is_count(values_[4]) && is_usable(mean_noise()); }
  bool has_gain() const { return is_count(values_[6]) && is_usable(mean_gain()); }

  static bool is_count(double value) { return value > 0 && is_usable(value); }

 private:
  std::span<double> values_;
};

/// The largest sums of observations: adding one more, or 1 to their number, rounds to the same.
inline constexpr double max_sum = 0x1p54 * max_observation;
inline constexpr double max_count = 0x1p53;

/// The moving averages of one item, all of them usable numbers.
struct ItemAverage {
  NoiseByWidth noise{};
  double gain = 0;
  bool has_noise = false;
  bool has_gain = false;

  /// Takes in the means of the sums; a mean that is not usable is left out.
  void update(const ItemSums& sums, double decay) {
    if (sums.has_noise()) {
      const NoiseByWidth mean = sums.mean_noise();
      for (std::size_t width = 0; width < 4; ++width) {
        noise[width] = mixed(noise[width], mean[width], has_noise ? decay : 0);
      }
      has_noise = true;
    }
    if (sums.has_gain()) {
      gain = mixed(gain, sums.mean_gain(), has_gain ? decay : 0);
      has_gain = true;
    }
  }

 private:
  static double mixed(double old, double mean, double weight) {
    return (std::min)(weight * old + (1 - weight) * mean,
                      max_observation);  // rounded up, it exceeds
  }
};

class PrecisionStatistics {
 public:
  void add_items(std::size_t items) {
    averages_.resize(averages_.size() + items);
    sums_.insert(sums_.end() - 1, items * ItemSums::count, 0.0);
  }

  const ItemAverage& average(std::size_t item) const { return averages_[item]; }

  /// The average as the next solution would see it if nothing before counted.
  ItemAverage latest(std::size_t item) {
    ItemAverage average = averages_[item];
    average.update(sums(item), 0);
    return average;
  }

  /// The mean over a tensor's items that were observed.
  ItemAverage mean_of(const PrecisionTensor& tensor) const {
    ItemAverage mean;
    double noises = 0;
    double gains = 0;
    for (const ItemAverage& average :
         std::span(averages_).subspan(tensor.first_item, tensor.items)) {
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
    for (double& noise : mean.noise) noise /= (std::max)(noises, 1.0);
    mean.gain /= (std::max)(gains, 1.0);
    return mean;
  }

  /// Adds the noise of every row, noise_of(row). A tensor with one width adds up its rows' noise:
  /// all of them are one observation, and one that is not usable spoils it. Returns whether there
  /// was an observation.
  template <class NoiseOf>
  bool add_noise(const PrecisionTensor& tensor, const NoiseOf& noise_of) {
    NoiseByWidth total{};
    for (std::size_t row = 0; row < tensor.rows(); ++row) {
      const NoiseByWidth noise = noise_of(row);
      require_noise(row, noise);
      for (std::size_t width = 0; width < 4; ++width) total[width] += noise[width];
    }
    if (!tensor.has_width_per_row) return add_usable_noise(tensor.first_item, total);
    bool is_observed = false;
    for (std::size_t row = 0; row < tensor.rows(); ++row) {
      is_observed |= add_usable_noise(tensor.item_of(row), noise_of(row));
    }
    return is_observed;
  }

  /// The same, and remembers that it was measured.
  template <class NoiseOf>
  void add_measured_noise(const PrecisionTensor& tensor, const NoiseOf& noise_of) {
    if (add_noise(tensor, noise_of)) ++sums_.back();
  }

  void add_gain(std::size_t item, double gain) {
    if (is_usable(gain)) sums(item).add_gain(gain);
  }

  /// The sums, for ranks to add up.
  std::span<double> sums() { return sums_; }

  /// Moves the sums into the averages. Returns whether some noise was measured.
  bool end_interval(double decay) {
    const bool was_measured = ItemSums::is_count(sums_.back());
    for (std::size_t i = 0; i < averages_.size(); ++i) averages_[i].update(sums(i), decay);
    std::ranges::fill(sums_, 0.0);
    return was_measured;
  }

  std::int64_t saved_size() const {
    return 8 * static_cast<std::int64_t>(6 * averages_.size() + sums_.size());
  }

  void save(ByteWriter& out) const {
    for (const ItemAverage& average : averages_) {
      for (const double noise : average.noise) out.put(noise);
      out.put(average.gain);
      out.put(std::uint64_t{average.has_noise} | std::uint64_t{average.has_gain} << 1);
    }
    for (const double sum : sums_) out.put(sum);
  }

  void restore(ByteReader& in) {
    for (ItemAverage& average : averages_) {
      for (double& noise : average.noise) noise = get_number(in, max_observation);
      average.gain = get_number(in, max_observation);
      const std::uint64_t known = in.get<std::uint64_t>();
      refuse_unless(known <= 3, "state has ", known, " instead of two truth values");
      average.has_noise = (known & 1) != 0;
      average.has_gain = (known & 2) != 0;
    }
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      const std::size_t place = i % ItemSums::count;
      const bool is_count = place == 4 || place == 6 || i + 1 == sums_.size();
      sums_[i] = get_number(in, is_count ? max_count : max_sum);
    }
  }

 private:
  ItemSums sums(std::size_t item) {
    return ItemSums(std::span(sums_).subspan(item * ItemSums::count, ItemSums::count));
  }

  bool add_usable_noise(std::size_t item, const NoiseByWidth& noise) {
    if (!is_usable(noise)) return false;
    sums(item).add_noise(noise);
    return true;
  }

  static double get_number(ByteReader& in, double largest) {
    const double value = in.get_double();
    refuse_unless(value >= 0 && value <= largest, "state has ", value,
                  " where an average or a sum of at most ", largest, " belongs");
    return value;
  }

  std::vector<ItemAverage> averages_;
  std::vector<double> sums_ = {0};  // [items][ItemSums::count], then how many noises were measured
};

}  // namespace actpack::detail
