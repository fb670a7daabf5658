// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The values that tests feed to the library: ordinary activations and every awkward case.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace support {

// splitmix64 (Steele, Lea and Flood, OOPSLA'14): unrelated to the library's generator.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
    return mixed ^ (mixed >> 31);
  }
  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>((bits() >> 32) * bound >> 32);
  }
  // In (0, 1).
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) / 9007199254740992.0; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  double normal() {
    return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
  }

 private:
  std::uint64_t state_;
};

inline std::vector<float> gaussian(std::size_t size, std::uint64_t seed, double mean = 0,
                                   double deviation = 1) {
  Generator generator(seed);
  std::vector<float> x(size);
  for (float& value : x) value = static_cast<float>(mean + deviation * generator.normal());
  return x;
}

inline std::vector<float> relu_of_gaussian(std::size_t size, std::uint64_t seed) {
  std::vector<float> x = gaussian(size, seed);
  for (float& value : x) value = std::max(value, 0.0F);
  return x;
}

inline std::vector<float> uniform(std::size_t size, std::uint64_t seed, double low, double high) {
  Generator generator(seed);
  std::vector<float> x(size);
  for (float& value : x) value = static_cast<float>(generator.uniform(low, high));
  return x;
}

enum class Data {
  gaussian,
  relu,
  offset_100,
  constant,  // not a bfloat16
  bfloat16_constant,
  zeros,  // +0 and -0
  subnormal,
  tiny_range,      // a few units in the last place around 1
  wide_exponents,  // magnitudes from subnormal to large in one group
  near_overflow,   // both signs: the range exceeds the largest finite number
  huge,            // positive, up to the largest finite number, which is in it
  one_nan,
  infinities,
};

inline constexpr std::array all_data{
    Data::gaussian,          Data::relu,          Data::offset_100, Data::constant,
    Data::bfloat16_constant, Data::zeros,         Data::subnormal,  Data::tiny_range,
    Data::wide_exponents,    Data::near_overflow, Data::huge,       Data::one_nan,
    Data::infinities};

inline const char* name_of(Data data) {
  switch (data) {
    case Data::gaussian: return "gaussian";
    case Data::relu: return "relu";
    case Data::offset_100: return "offset_100";
    case Data::constant: return "constant";
    case Data::bfloat16_constant: return "bfloat16_constant";
    case Data::zeros: return "zeros";
    case Data::subnormal: return "subnormal";
    case Data::tiny_range: return "tiny_range";
    case Data::wide_exponents: return "wide_exponents";
    case Data::near_overflow: return "near_overflow";
    case Data::huge: return "huge";
    case Data::one_nan: return "one_nan";
    case Data::infinities: return "infinities";
  }
  return "?";
}

// `largest` and `smallest` are the finite limits of the type the values will be stored in, so that
// the extreme sets are extreme there too.
inline std::vector<float> make(Data data, std::size_t size, std::uint64_t seed,
                               float largest = std::numeric_limits<float>::max(),
                               float smallest = std::numeric_limits<float>::denorm_min()) {
  Generator generator(seed);
  std::vector<float> x(size);
  for (std::size_t i = 0; i < size; ++i) {
    double value = 0;
    switch (data) {
      case Data::gaussian: value = generator.normal(); break;
      case Data::relu: value = std::max(0.0, generator.normal()); break;
      case Data::offset_100: value = 100 + generator.normal(); break;
      case Data::constant: value = 0.1; break;
      case Data::bfloat16_constant: value = -1.5; break;
      case Data::zeros: value = generator.below(2) == 0 ? 0.0 : -0.0; break;
      case Data::subnormal: value = std::round(generator.uniform(-900, 900)) * smallest; break;
      case Data::tiny_range: value = 1 + generator.below(5) * 0x1p-23; break;
      case Data::wide_exponents:
        value = std::ldexp(generator.normal(), static_cast<int>(generator.below(240)) - 135);
        value = std::clamp(value, -static_cast<double>(largest), static_cast<double>(largest));
        break;
      case Data::near_overflow: value = largest * generator.uniform(-0.88, 0.88); break;
      case Data::huge:
        value = generator.below(8) == 0 ? largest : largest * generator.uniform();
        break;
      case Data::one_nan: value = generator.normal(); break;
      case Data::infinities: value = generator.normal(); break;
    }
    x[i] = static_cast<float>(value);
  }
  const std::size_t victim = size == 0 ? 0 : generator.below(static_cast<std::uint32_t>(size));
  if (data == Data::one_nan && size > 0) x[victim] = std::numeric_limits<float>::quiet_NaN();
  if (data == Data::infinities && size > 0) {
    x[victim] = seed % 2 == 0 ? std::numeric_limits<float>::infinity()
                              : -std::numeric_limits<float>::infinity();
  }
  return x;
}

}  // namespace support
