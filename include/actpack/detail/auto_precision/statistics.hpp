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
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "actpack/detail/auto_precision/tensor.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/require.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

using NoiseByWidth = std::array<double, 4>;

/// Overflowed values are no observations, nor are values whose products could overflow.
inline bool is_usable(double value) { return value <= 1e140; }
inline bool is_usable(const NoiseByWidth& noise) {
  return std::ranges::all_of(noise, [](double n) { return is_usable(n); });
}

inline void require_noise(std::size_t row, const NoiseByWidth& noise) {
  for (const double n : noise)
    require(!(n < 0), "the noise of row ", row, " = ", n, " is negative");
}

/// The sums over one item: a view of plain numbers.
class ItemSums {
 public:
  static constexpr std::size_t count = 7;  // noise at four widths, its weight, gain, its weight
  explicit ItemSums(std::span<double> values) : values_(values) {}

  /// `weight` is 1 at the end of an observation, else 0.
  void add_noise(const NoiseByWidth& noise, double weight) {
    for (std::size_t width = 0; width < 4; ++width) values_[width] += noise[width];
    values_[4] += weight;
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

/// The moving averages of one item.
struct ItemAverage {
  NoiseByWidth noise{};
  double gain = 0;
  bool has_noise = false;
  bool has_gain = false;

  void update(const ItemSums& sums, double decay) {
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
    for (double& noise : mean.noise) noise /= std::max(noises, 1.0);
    mean.gain /= std::max(gains, 1.0);
    return mean;
  }

  /// Adds the noise of every row, noise_of(row). A tensor with one width adds up its rows' noise:
  /// all of them are one observation, and one that is not usable spoils it. Returns how many rows
  /// were observed.
  template <class NoiseOf>
  double add_noise(const PrecisionTensor& tensor, const NoiseOf& noise_of) {
    const std::size_t rows = tensor.rows();
    double usable = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      require_noise(row, noise_of(row));
      usable += is_usable(noise_of(row)) ? 1 : 0;
    }
    if (!tensor.has_width_per_row && usable < static_cast<double>(rows)) return 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const NoiseByWidth noise = noise_of(row);
      const bool ends_observation = tensor.has_width_per_row || row + 1 == rows;
      if (is_usable(noise)) sums(tensor.item_of(row)).add_noise(noise, ends_observation ? 1 : 0);
    }
    return usable;
  }

  /// The same, and remembers that so many rows were measured.
  template <class NoiseOf>
  void add_measured_noise(const PrecisionTensor& tensor, const NoiseOf& noise_of) {
    sums_.back() += add_noise(tensor, noise_of);
  }

  void add_gain(std::size_t item, double gain) {
    if (is_usable(gain)) sums(item).add_gain(gain);
  }

  /// Lets all ranks add up their sums. An exception leaves them as they were.
  template <class AllReduce>
  void reduce(const AllReduce& all_reduce) {
    std::vector<double> all = sums_;
    all_reduce(std::span<double>(all));
    sums_ = std::move(all);
  }

  /// Moves the sums into the averages. Returns whether some noise was measured.
  bool end_interval(double decay) {
    const bool was_measured = sums_.back() > 0;
    for (std::size_t i = 0; i < averages_.size(); ++i) averages_[i].update(sums(i), decay);
    std::ranges::fill(sums_, 0.0);
    return was_measured;
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
      for (double& noise : average.noise) noise = get_number(in);
      average.gain = get_number(in);
      const std::uint64_t known = in.get();
      require(known <= 3, "state has ", known, " instead of two truth values");
      average.has_noise = (known & 1) != 0;
      average.has_gain = (known & 2) != 0;
    }
    for (double& sum : sums_) sum = get_number(in);
  }

 private:
  ItemSums sums(std::size_t item) {
    return ItemSums(std::span(sums_).subspan(item * ItemSums::count, ItemSums::count));
  }

  static double get_number(ByteReader& in) {
    const double value = in.get_double();
    require(value >= 0 && value <= std::numeric_limits<double>::max(), "state has ", value,
            " where an average or a sum belongs");
    return value;
  }

  std::vector<ItemAverage> averages_;
  std::vector<double> sums_ = {0};  // [items][ItemSums::count], then how many rows were measured
};

}  // namespace actpack::detail::inline ACTPACK_TARGET
