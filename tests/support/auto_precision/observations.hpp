// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Observations of tensors that a trainer tells a controller, at random or row by row.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/allocation_reference.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"

namespace support::auto_precision {

using Table = std::array<double, 4>;  // noise at 1, 2, 4 and 8 bits

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr std::array not_usable{not_a_number, infinity, 1e200};

struct Observation {
  bool is_measured = false;
  std::vector<double> ranges = {};  // squared norms; or
  std::vector<Table> noise = {};
  std::vector<double> gains = {};
};

inline Table closed_form(const TensorSpec& tensor, double squared_range_norm) {
  return reference::variance_by_width(tensor.layout.group_size / 6.0 * squared_range_norm);
}

inline Observation random_observation(const TensorSpec& tensor, bool is_measured,
                                      Generator& generator) {
  Observation observation{.is_measured = is_measured};
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    observation.ranges.push_back(reference::log_uniform(generator, -3, 3));
    observation.noise.push_back(
        reference::make_table(reference::Noise::decreasing_table, generator));
    observation.gains.push_back(reference::log_uniform(generator, -3, 3));
  }
  return observation;
}

inline void observe_noise(AutoPrecision& precision, std::size_t tensor,
                          const Observation& observation) {
  if (observation.is_measured) {
    precision.observe_noise(tensor, observation.noise);
  } else {
    precision.observe_ranges(tensor, observation.ranges);
  }
}

inline void observe(AutoPrecision& precision, std::size_t tensor, const Observation& observation) {
  observe_noise(precision, tensor, observation);
  precision.observe_gains(tensor, observation.gains);
}

// Every row alike: enough to know a tensor.
inline void observe_all(AutoPrecision& precision, std::size_t tensor, double range, double gain) {
  const std::size_t rows = precision.row_bits(tensor).size();
  precision.observe_ranges(tensor, std::vector<double>(rows, range));
  precision.observe_gains(tensor, std::vector<double>(rows, gain));
}

// Does anything that a trainer may do in a step, the same for the same seed.
inline void observe_anything(AutoPrecision& precision, const std::vector<TensorSpec>& tensors,
                             std::uint64_t seed) {
  Generator generator(seed);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    Observation seen = random_observation(tensors[t], generator.below(5) == 0, generator);
    if (generator.below(4) == 0) seen.ranges[0] = not_a_number;
    if (generator.below(4) != 0 || seed % 1000 == 0) observe_noise(precision, t, seen);
    if (generator.below(4) != 0) precision.observe_gains(t, seen.gains);
    const double difference = reference::log_uniform(generator, -3, 3);
    if (generator.below(4) == 0 && seed % 1000 > 10) precision.observe_perturbation(t, difference);
  }
}

}  // namespace support::auto_precision
