// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Every instruction set of this processor against the portable path, byte for byte: the comparison,
// and the shapes and data that a vector could treat differently.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <actpack/affine.hpp>
#include <actpack/float16.hpp>
#include <actpack/instruction_set.hpp>
#include <actpack/layout.hpp>
#include <actpack/rounding.hpp>

#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/instruction_sets.hpp"

namespace same_everywhere {

using actpack::bfloat16;
using actpack::float16;
using actpack::InstructionSet;
using actpack::Layout;
using actpack::Rounding;
using support::Generator;
using support::GuardedBuffer;

// `size` elements between guards, `shift` elements after where they would lie otherwise, so that
// their address is any multiple of their alignment.
template <class T>
class Array {
 public:
  Array(std::int64_t size, std::size_t shift)
      : shift_(shift), buffer_(static_cast<std::size_t>(size) + shift) {}
  Array(const std::vector<T>& values, std::size_t shift)
      : Array(static_cast<std::int64_t>(values.size()), shift) {
    std::copy(values.begin(), values.end(), span().begin());
  }

  std::span<T> span() { return buffer_.span().subspan(shift_); }
  std::span<const T> span() const { return buffer_.span().subspan(shift_); }
  T* data() { return span().data(); }

  // With the elements before the first, which no verb may touch.
  std::span<const T> everything() const { return buffer_.span(); }

 private:
  std::size_t shift_;
  GuardedBuffer<T> buffer_;
};

// The results of one case with one instruction set.
class Outcome {
 public:
  template <class T>
  void add(const char* name, const Array<T>& array, double alpha = 0, std::int64_t first = 0) {
    const std::span<const T> elements = array.everything();
    Part part{name, alpha, first, sizeof(T), std::vector<std::uint8_t>(elements.size_bytes())};
    if (!elements.empty()) {
      std::memcpy(part.bytes.data(), elements.data(), elements.size_bytes());
    }
    parts_.push_back(std::move(part));
  }

  void check_equals(const Outcome& expected) const {
    REQUIRE(parts_.size() == expected.parts_.size());
    std::size_t different = 0;
    while (different < parts_.size() &&
           parts_[different].bytes == expected.parts_[different].bytes) {
      ++different;
    }
    if (different == parts_.size()) return;
    const Part& got = parts_[different];
    const auto [byte, expected_byte] =
        std::mismatch(got.bytes.begin(), got.bytes.end(), expected.parts_[different].bytes.begin());
    const char* const name = got.name;
    const auto element = static_cast<std::size_t>(byte - got.bytes.begin()) / got.element_size;
    const std::uint32_t got_bits = got.bits_of(element);
    const std::uint32_t expected_bits = expected.parts_[different].bits_of(element);
    CAPTURE(std::string(name));
    CAPTURE(got.alpha);
    CAPTURE(got.first);
    CAPTURE(element);  // counted from the array's start, its shift included
    CHECK(got_bits == expected_bits);
  }

 private:
  struct Part {
    const char* name;
    double alpha;
    std::int64_t first;
    std::size_t element_size;
    std::vector<std::uint8_t> bytes;

    std::uint32_t bits_of(std::size_t element) const {
      std::uint32_t bits = 0;
      std::memcpy(&bits, bytes.data() + element * element_size, element_size);
      return bits;
    }
  };

  std::vector<Part> parts_;
};

// compute() uses verbs and returns an Outcome, which must be the portable path's whatever they use.
template <class Compute>
void check_same_everywhere(Compute compute) {
  const auto outcome_with = [&](InstructionSet set) {
    const support::UsingInstructionSet use(set);
    return compute();
  };
  static const std::vector<InstructionSet> sets = support::vector_instruction_sets();
  if (sets.empty()) return;
  const Outcome expected = outcome_with(InstructionSet::portable);
  for (const InstructionSet set : sets) {
    const char* const instruction_set = support::name_of(set);
    CAPTURE(std::string(instruction_set));
    outcome_with(set).check_equals(expected);
  }
}

// ---- Cases ------------------------------------------------------------------------------------

struct Range {
  std::int64_t first;
  std::int64_t count;
};

struct Case {
  Layout layout;
  Rounding rounding;
  std::uint64_t seed = 0;
  std::vector<std::uint8_t> row_bits = {};
  std::vector<Range> ranges = {};
  std::vector<Range> chunks = {};  // of rows

  std::size_t shift() const { return seed % 17; }
  std::vector<std::int64_t> row_offsets() const {
    if (row_bits.empty()) return {};
    std::vector<std::int64_t> offsets(row_bits.size() + 1);
    actpack::row_offsets(layout, row_bits, offsets);
    return offsets;
  }
};

// ---- Data -------------------------------------------------------------------------------------

template <class T>
T from_bits(std::uint32_t bits) {
  if constexpr (std::same_as<T, float>) {
    return std::bit_cast<float>(bits);
  } else {
    return T::from_bits(static_cast<std::uint16_t>(bits));
  }
}

template <class T, class ValueAt>
std::vector<T> generate(std::int64_t size, ValueAt value_at) {
  std::vector<T> x;
  for (std::int64_t i = 0; i < size; ++i) x.push_back(value_at(i));
  return x;
}

// Beside support::Data, what decides between two codes, two steps or two instructions.
enum class Kind {
  ties,             // on the codes' levels and halfway between them
  beside_ties,      // one unit in the last place next to those
  smallest_steps,   // steps of about 2^-111, below which there are none
  extremes,         // the largest and smallest numbers of either sign
  some_not_finite,  // NaN of any payload, +Inf and -Inf in some groups
  one_outlier,      // in every group
  negative,
  minus_zeros,
  relu_minus_zeros,
  random_bits,  // any finite number, from few binades in each group
  boundaries,   // where, with the element's dither, the next smaller number has another code
  count
};

inline constexpr auto kinds_of_support = static_cast<std::uint32_t>(support::all_data.size());
constexpr std::uint32_t number_of(Kind kind) {
  return kinds_of_support + static_cast<std::uint32_t>(kind);
}
inline constexpr std::uint32_t all_kinds = number_of(Kind::count);

template <class T>
std::vector<T> make_own(Kind kind, const Case& c) {
  const Layout& layout = c.layout;
  const std::int64_t size = layout.numel();
  const std::uint64_t seed = c.seed;
  Generator generator(seed);
  const double largest = support::largest_finite<T>();
  const double smallest = support::smallest_positive<T>();
  const auto normal = [&] { return static_cast<float>(generator.normal()); };
  const std::int64_t group = std::min<std::int64_t>(layout.group_size, std::max(size, INT64_C(1)));
  const auto per_group = [&](std::int64_t i) { return i % layout.group_size; };
  switch (kind) {
    case Kind::ties:
    case Kind::beside_ties: {
      const auto levels = static_cast<std::uint32_t>(1 << layout.bits) - 1;
      double step = 1;
      double low = 0;
      return generate<T>(size, [&](std::int64_t i) {
        if (per_group(i) == 0) {
          constexpr std::array mantissas{1.0, 1.0, 1.5, 1.25, 1.0078125, 1.9921875};
          step = mantissas[generator.below(6)] * std::ldexp(1.0, int(generator.below(8)) - 4);
          low = step * std::floor(generator.uniform(-2.0 * levels, 0.5 * levels));
        }
        double halves = generator.below(2 * levels + 1);
        if (per_group(i) < 2) halves = per_group(i) == 0 ? 0 : 2.0 * levels;
        const T value(static_cast<float>(low + halves / 2 * step));
        if (kind == Kind::ties || per_group(i) < 2 || value == T(0.0F)) return value;
        return from_bits<T>(support::bits_of(value) + generator.below(3) - 1);
      });
    }
    case Kind::smallest_steps: {
      const double step = std::max(0x1p-111, smallest) * generator.uniform(0.4, 2.5);
      const double reach = step * (1 << layout.bits);
      const double low = generator.below(2) == 0 ? 0 : -reach * generator.uniform();
      return generate<T>(size, [&](std::int64_t) {
        return T(static_cast<float>(low + reach * generator.uniform()));
      });
    }
    case Kind::extremes:
      return generate<T>(size, [&](std::int64_t) {
        const std::array values{largest, largest * 0.8, largest / 2, smallest, 0.0, largest / 64};
        const double sign = generator.below(2) == 0 && seed % 3 != 0 ? -1 : 1;
        return T(static_cast<float>(sign * values[generator.below(6)]));
      });
    case Kind::some_not_finite: {
      std::vector<T> x = generate<T>(size, [&](std::int64_t) { return T(normal()); });
      for (std::int64_t first = 0; first < size; first += group) {
        if (generator.below(2) == 0) continue;
        const auto victim =
            first + generator.below(static_cast<std::uint32_t>(std::min(group, size - first)));
        const std::uint32_t infinity = support::bits_of(T(std::numeric_limits<float>::infinity()));
        const std::uint32_t sign = generator.below(2) << (8 * sizeof(T) - 1);
        const std::uint32_t mantissa = (infinity & (0 - infinity)) - 1;
        const std::uint32_t payload = generator.below(3) == 0 ? 0 : 1 + generator.below(mantissa);
        x[static_cast<std::size_t>(victim)] = from_bits<T>(infinity | payload | sign);
      }
      return x;
    }
    case Kind::one_outlier: {
      const std::int64_t place =
          generator.below(static_cast<std::uint32_t>(std::min<std::int64_t>(group, 1 << 20)));
      return generate<T>(size, [&](std::int64_t i) {
        return T(per_group(i) == place ? 1000.0F * normal() : normal());
      });
    }
    case Kind::negative:
      return generate<T>(size, [&](std::int64_t) { return T(-std::fabs(normal()) - 0.01F); });
    case Kind::minus_zeros: return generate<T>(size, [&](std::int64_t) { return T(-0.0F); });
    case Kind::relu_minus_zeros:
      return generate<T>(size, [&](std::int64_t) {
        const float value = normal();
        return T(value > 0 ? value : -0.0F);
      });
    case Kind::random_bits: {
      std::uint32_t binade = 0;
      return generate<T>(size, [&](std::int64_t i) {
        constexpr int bits = 8 * sizeof(T);
        if (per_group(i) == 0) binade = static_cast<std::uint32_t>(generator.bits() >> 32);
        for (;;) {
          const auto random = static_cast<std::uint32_t>(generator.bits() >> 32);
          const std::uint32_t keep = std::uint32_t{0x70} << (bits - 8);
          const T value = from_bits<T>(((random & ~keep) | (binade >> (32 - bits) & keep)) &
                                       (0xFFFFFFFFU >> (32 - bits)));
          if (std::isfinite(static_cast<float>(value))) return value;
        }
      });
    }
    case Kind::boundaries: {
      // ±(code − dither / 2^14) steps, or the same without signs from 0 or −3 steps.
      const double step = seed % 5 == 0 ? 1.5 : 1;
      const bool has_signs = seed % 2 == 0;
      const double low = has_signs || seed % 3 == 0 ? 0 : -3 * step;
      return generate<T>(size, [&](std::int64_t i) {
        const std::int64_t row = i / layout.row_size;
        const std::int64_t column = i % layout.row_size;
        const std::int64_t element = column % layout.group_size;
        const std::int64_t index = row * layout.groups_per_row() + column / layout.group_size;
        const int bits =
            c.row_bits.empty() ? layout.bits : c.row_bits[static_cast<std::size_t>(row)];
        const std::uint32_t largest_code = actpack::max_code(bits);
        const std::uint32_t dither = actpack::dither(
            c.rounding, index, layout.group_size, static_cast<std::int32_t>(element),
            has_signs ? actpack::NoiseDomain::magnitudes : actpack::NoiseDomain::values);
        double position = 1 + generator.below(largest_code) - dither * 0x1p-14;
        if (generator.below(8) == 0 || dither == 0) position = 0;
        if (element < 2) position = element == 0 && !has_signs ? 0 : largest_code;
        const T value(static_cast<float>(low + step * position));
        std::uint32_t value_bits = support::bits_of(value);
        if (element >= 2 && position != 0 && value != T(0.0F)) value_bits += generator.below(3) - 1;
        const bool is_negative = has_signs && (element == 1 || generator.below(2) == 0);
        if (is_negative || (value == T(0.0F) && generator.below(2) == 0)) {
          value_bits |= std::uint32_t{1} << (8 * sizeof(T) - 1);
        }
        return from_bits<T>(value_bits);
      });
    }
    case Kind::count: break;
  }
  return {};
}

template <class T>
std::vector<T> make(std::uint32_t kind, const Case& c) {
  if (kind >= kinds_of_support) {
    return make_own<T>(static_cast<Kind>(kind - kinds_of_support), c);
  }
  return support::make<T>(support::all_data[kind], c.layout.numel(), c.seed);
}

// ---- Grids ------------------------------------------------------------------------------------

// Around every boundary of a vector, a word, a block of codes and a group.
inline std::vector<std::int64_t> sizes() {
  std::vector<std::int64_t> all;
  for (std::int64_t size = 1; size <= 70; ++size) all.push_back(size);
  for (const std::int64_t size :
       {127, 128, 129, 130, 255, 256, 257, 258, 511, 512, 513, 783, 784, 1000}) {
    all.push_back(size);
  }
  return all;
}

inline Rounding random_rounding(Generator& generator) {
  if (generator.below(3) == 0) return Rounding::nearest();
  return Rounding::stochastic(generator.bits(), generator.below(2) == 0 ? 0 : generator.bits());
}

inline std::vector<Range> random_ranges(std::int64_t size, std::int64_t boundary, int count,
                                        Generator& generator) {
  std::vector<Range> ranges{{0, 0}, {size, 0}, {size - 1, 1}};
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int64_t>(generator.below(static_cast<std::uint32_t>(bound)));
  };
  for (int i = 0; i < count; ++i) {
    std::int64_t first = below(size);
    if (i % 3 == 0)
      first = std::clamp(first / boundary * boundary + below(3) - 1, INT64_C(0), size);
    std::int64_t length = below(size - first + 1);
    if (i % 2 == 0) length = std::min(length, below(40));
    ranges.push_back({first, length});
  }
  return ranges;
}

}  // namespace same_everywhere
