// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Bit allocation a second time, sharing nothing with the library: random problems, what an answer
// costs, and the least cost by exhaustive search or by a table over budgets.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/reference.hpp"

namespace reference {

// ---- Problems ---------------------------------------------------------------------------------

struct AllocationInstance {
  std::vector<double> sensitivity;              // empty where the variances are measured
  std::vector<std::array<double, 4>> variance;  // at 1, 2, 4 and 8 bits, in either case
  std::vector<std::int64_t> numel;
  std::int64_t bit_budget = 0;
  std::vector<std::uint8_t> min_bits;  // empty: 1
  std::vector<std::uint8_t> max_bits;  // empty: 8

  std::size_t items() const { return variance.size(); }
  std::uint8_t min_of(std::size_t item) const { return min_bits.empty() ? 1 : min_bits[item]; }
  std::uint8_t max_of(std::size_t item) const { return max_bits.empty() ? 8 : max_bits[item]; }
};

inline std::uint8_t width_at(std::size_t index) { return static_cast<std::uint8_t>(1U << index); }
inline std::size_t index_of(std::uint8_t bits) {
  return static_cast<std::size_t>(std::bit_width(bits)) - 1;
}

inline std::array<double, 4> variance_by_width(double sensitivity) {
  return {sensitivity, sensitivity / 9, sensitivity / 225, sensitivity / 65025};
}

inline void set_sensitivity(AllocationInstance& instance, std::size_t item, double sensitivity) {
  instance.sensitivity[item] = sensitivity;
  instance.variance[item] = variance_by_width(sensitivity);
}

enum class Sizes { equal, similar, wild };
enum class Noise {
  log_uniform,  // sensitivities over six decades
  few_values,   // sensitivities 1, 2, 3: many ties
  some_zeros,   // a third of the sensitivities
  convex_table,
  decreasing_table,  // not convex
  arbitrary_table,
  few_values_table,  // 0 to 4 in any order: ties between widths, items and sums
};
enum class Limits { none, min, max, both };

inline constexpr std::array all_sizes_of_items{Sizes::equal, Sizes::similar, Sizes::wild};
inline constexpr std::array closed_forms{Noise::log_uniform, Noise::few_values, Noise::some_zeros};
inline constexpr std::array all_noises{
    Noise::log_uniform,      Noise::few_values,      Noise::some_zeros,      Noise::convex_table,
    Noise::decreasing_table, Noise::arbitrary_table, Noise::few_values_table};
inline constexpr std::array all_limits{Limits::none, Limits::min, Limits::max, Limits::both};

inline const char* name_of(Sizes sizes) {
  switch (sizes) {
    case Sizes::equal: return "equal";
    case Sizes::similar: return "similar";
    case Sizes::wild: return "wild";
  }
  return "?";
}

inline const char* name_of(Noise noise) {
  switch (noise) {
    case Noise::log_uniform: return "log_uniform";
    case Noise::few_values: return "few_values";
    case Noise::some_zeros: return "some_zeros";
    case Noise::convex_table: return "convex_table";
    case Noise::decreasing_table: return "decreasing_table";
    case Noise::arbitrary_table: return "arbitrary_table";
    case Noise::few_values_table: return "few_values_table";
  }
  return "?";
}

inline const char* name_of(Limits limits) {
  switch (limits) {
    case Limits::none: return "none";
    case Limits::min: return "min";
    case Limits::max: return "max";
    case Limits::both: return "both";
  }
  return "?";
}

/// Calls test(sizes, noise, limits, seed) for every kind of problem with these noises; each call
/// gets a thousand seeds of its own.
template <class Noises, class Test>
void for_each_kind(const Noises& noises, Test test) {
  std::uint64_t seed = 0;
  for (const Sizes sizes : all_sizes_of_items) {
    for (const Noise noise : noises) {
      for (const Limits limits : all_limits) {
        if (support::is_left_out(++seed, 5)) continue;
        const char* const sizes_name = name_of(sizes);
        const char* const noise_name = name_of(noise);
        const char* const limits_name = name_of(limits);
        CAPTURE(sizes_name);
        CAPTURE(noise_name);
        CAPTURE(limits_name);
        test(sizes, noise, limits, 1000 * seed);
      }
    }
  }
}

inline double log_uniform(support::Generator& generator, double low_decade, double high_decade) {
  return std::pow(10, generator.uniform(low_decade, high_decade));
}

inline double make_sensitivity(Noise noise, support::Generator& generator) {
  if (noise == Noise::few_values) return 1 + generator.below(3);
  if (noise == Noise::some_zeros && generator.below(3) == 0) return 0;
  return log_uniform(generator, -3, 3);
}

inline std::array<double, 4> make_table(Noise noise, support::Generator& generator) {
  std::array<double, 4> table{};
  if (noise == Noise::few_values_table) {
    for (double& variance : table) variance = generator.below(5);
    return table;
  }
  const double size = log_uniform(generator, -3, 3);
  if (noise == Noise::arbitrary_table) {
    for (double& variance : table) variance = size * log_uniform(generator, -2, 0);
    return table;
  }
  // What one bit less costs between 8 and 4, 4 and 2, 2 and 1 bits.
  std::array<double, 3> slopes{};
  for (double& slope : slopes) slope = size * log_uniform(generator, -2, 0);
  if (noise == Noise::convex_table) std::ranges::sort(slopes);
  table[3] = size * generator.uniform() / 100;
  table[2] = table[3] + 4 * slopes[0];
  table[1] = table[2] + 2 * slopes[1];
  table[0] = table[1] + slopes[2];
  return table;
}

inline std::int64_t make_size(Sizes sizes, support::Generator& generator) {
  if (sizes == Sizes::similar) return 1 + generator.below(20);
  return static_cast<std::int64_t>(log_uniform(generator, 0, 6));
}

inline bool is_closed_form(Noise noise) {
  return noise == Noise::log_uniform || noise == Noise::few_values || noise == Noise::some_zeros;
}

// ---- What an answer costs ---------------------------------------------------------------------

inline std::int64_t bits_used(const AllocationInstance& instance,
                              const std::vector<std::uint8_t>& bits) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) sum += instance.numel[i] * bits[i];
  return sum;
}

inline std::int64_t least_bits(const AllocationInstance& instance) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < instance.items(); ++i) sum += instance.numel[i] * instance.min_of(i);
  return sum;
}

inline std::int64_t most_bits(const AllocationInstance& instance) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < instance.items(); ++i) sum += instance.numel[i] * instance.max_of(i);
  return sum;
}

// Compensated: right to a few units in the last place for any number of items.
inline double variance_of(const AllocationInstance& instance,
                          const std::vector<std::uint8_t>& bits) {
  double sum = 0;
  double rest = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const ExactSum next = exact_sum(sum, instance.variance[i][index_of(bits[i])]);
    sum = next.high;
    rest += next.low;
  }
  return sum + rest;
}

// Every item at the same width, the widest that fits, as far as its own limits let it.
inline std::vector<std::uint8_t> widest_for_all(const AllocationInstance& instance) {
  std::vector<std::uint8_t> bits(instance.items());
  for (std::size_t width = 4; width-- > 0;) {
    for (std::size_t i = 0; i < bits.size(); ++i) {
      bits[i] = std::clamp(width_at(width), instance.min_of(i), instance.max_of(i));
    }
    if (bits_used(instance, bits) <= instance.bit_budget) break;
  }
  return bits;
}

// ---- Random problems --------------------------------------------------------------------------

// One budget in eight is the least that the limits allow. The others are uniform between that and a
// tenth more than all items can use.
inline AllocationInstance make_instance(Sizes sizes, Noise noise, Limits limits, std::size_t items,
                                        std::uint64_t seed) {
  support::Generator generator(seed);
  AllocationInstance instance;
  const std::int64_t common_size = make_size(Sizes::wild, generator);
  for (std::size_t i = 0; i < items; ++i) {
    instance.numel.push_back(sizes == Sizes::equal ? common_size : make_size(sizes, generator));
    if (is_closed_form(noise)) {
      instance.sensitivity.push_back(make_sensitivity(noise, generator));
      instance.variance.push_back(variance_by_width(instance.sensitivity.back()));
    } else {
      instance.variance.push_back(make_table(noise, generator));
    }
    const std::uint32_t low = limits == Limits::max ? 0 : generator.below(4);
    const std::uint32_t high = low + generator.below(4 - low);
    if (limits == Limits::min || limits == Limits::both) instance.min_bits.push_back(width_at(low));
    if (limits == Limits::max || limits == Limits::both)
      instance.max_bits.push_back(width_at(high));
  }
  const std::int64_t least = least_bits(instance);
  const auto range = static_cast<double>(most_bits(instance) - least);
  instance.bit_budget =
      least + static_cast<std::int64_t>(
                  generator.below(8) == 0 ? 0 : generator.uniform() * (range * 1.1 + 2));
  return instance;
}

// ---- The least cost ---------------------------------------------------------------------------

inline void search(const AllocationInstance& instance, std::size_t item, std::int64_t bits_left,
                   double variance, double& best) {
  if (bits_left < 0 || variance >= best) return;  // variances are not negative: sums only grow
  if (item == instance.items()) {
    best = variance;
    return;
  }
  for (std::size_t width = index_of(instance.min_of(item));
       width <= index_of(instance.max_of(item)); ++width) {
    search(instance, item + 1, bits_left - instance.numel[item] * width_at(width),
           variance + instance.variance[item][width], best);
  }
}

// Tries every choice: for a few items.
inline double least_variance(const AllocationInstance& instance) {
  double best = std::numeric_limits<double>::infinity();
  search(instance, 0, instance.bit_budget, 0, best);
  return best;
}

// best[u] is the least variance of the items so far with at most u units of bits, a unit being the
// greatest common divisor of the sizes: for many items of equal or of small sizes.
inline double least_variance_by_budgets(const AllocationInstance& instance) {
  std::int64_t unit = 0;
  for (const std::int64_t size : instance.numel) unit = std::gcd(unit, size);
  const std::int64_t units = std::min(instance.bit_budget, most_bits(instance)) / unit;
  std::vector<double> best(static_cast<std::size_t>(units) + 1, 0.0);
  for (std::size_t item = 0; item < instance.items(); ++item) {
    const std::size_t first = index_of(instance.min_of(item));
    const std::size_t last = index_of(instance.max_of(item));
    const auto size = static_cast<std::size_t>(instance.numel[item] / unit);
    for (std::size_t u = best.size(); u-- > 0;) {
      double least = std::numeric_limits<double>::infinity();
      for (std::size_t width = first; width <= last && size * width_at(width) <= u; ++width) {
        least = std::min(least, best[u - size * width_at(width)] + instance.variance[item][width]);
      }
      best[u] = least;
    }
  }
  return best.back();
}

}  // namespace reference
