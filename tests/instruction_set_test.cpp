// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares every instruction set of this processor with the portable path, byte for byte: words,
// parameters, masks, codes and decoded values of every verb, over all shapes, places and data that
// a vector could treat differently. That the portable path is right is for the verbs' own tests.
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
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/instruction_set.hpp>
#include <actpack/mask.hpp>
#include <actpack/philox.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/instruction_sets.hpp"

namespace {

using actpack::bfloat16;
using actpack::ConstPackedView;
using actpack::ConstSignMagnitudeView;
using actpack::Decoding;
using actpack::float16;
using actpack::GroupParams;
using actpack::InstructionSet;
using actpack::Layout;
using actpack::PackedView;
using actpack::Rounding;
using actpack::SignMagnitudeParams;
using actpack::SignMagnitudeView;
using support::Generator;
using support::GuardedBuffer;

// ---- Comparison -------------------------------------------------------------------------------

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

  // With the elements before the first, which nobody may touch.
  std::span<const T> everything() const { return buffer_.span(); }

 private:
  std::size_t shift_;
  GuardedBuffer<T> buffer_;
};

// What one instruction set makes of one case.
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
  smallest_steps,   // steps of about 2^-112, below which there are none
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

constexpr auto kinds_of_support = static_cast<std::uint32_t>(support::all_data.size());
constexpr std::uint32_t number_of(Kind kind) {
  return kinds_of_support + static_cast<std::uint32_t>(kind);
}
constexpr std::uint32_t all_kinds = number_of(Kind::count);

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
      const double step = std::max(0x1p-112, smallest) * generator.uniform(0.4, 2.5);
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
        const std::uint32_t dither = actpack::dither(c.rounding, index, layout.group_size,
                                                     static_cast<std::int32_t>(element));
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

// ---- Verbs ------------------------------------------------------------------------------------

constexpr std::array alphas{1.0F, 0.3F, 0.0F, 1e-40F, 0.77F};

Rounding random_rounding(Generator& generator) {
  if (generator.below(3) == 0) return Rounding::nearest();
  return Rounding::stochastic(generator.bits(), generator.below(2) == 0 ? 0 : generator.bits());
}

// Calls decode(type, decoding, name) for plain decoding to every type and subtractive decoding with
// every alpha to one.
template <class Decode>
void for_each_decoding(const Case& c, Decode decode) {
  decode(float{}, Decoding::plain());
  decode(bfloat16{}, Decoding::plain());
  decode(float16{}, Decoding::plain());
  if (!c.rounding.is_stochastic) return;
  for (std::size_t i = 0; i < alphas.size(); ++i) {
    const Decoding decoding = Decoding::subtractive(c.rounding, alphas[i]);
    switch ((c.seed + i) % 3) {
      case 0: decode(float{}, decoding); break;
      case 1: decode(bfloat16{}, decoding); break;
      default: decode(float16{}, decoding); break;
    }
  }
}

template <class T>
void check_affine(const Case& c, const std::vector<T>& x) {
  const std::vector<std::int64_t> row_offsets = c.row_offsets();
  const std::int64_t words_size = c.row_bits.empty() ? c.layout.num_words() : row_offsets.back();
  const Array<T> input(x, c.shift());
  check_same_everywhere([&] {
    Outcome outcome;
    Array<std::uint32_t> words(words_size, c.shift());
    Array<GroupParams> params(c.layout.num_groups(), c.shift() / 2);
    const PackedView view{c.layout, words.data(), params.data(),
                          c.row_bits.empty() ? nullptr : c.row_bits.data(),
                          c.row_bits.empty() ? nullptr : row_offsets.data()};
    for (const Range& rows : c.chunks) {
      actpack::quantize(
          input.span().subspan(static_cast<std::size_t>(rows.first * c.layout.row_size),
                               static_cast<std::size_t>(
                                   std::min(rows.count * c.layout.row_size,
                                            c.layout.numel() - rows.first * c.layout.row_size))),
          view, c.rounding, rows.first);
      outcome.add("words of a chunk", words);
      outcome.add("params of a chunk", params);
    }
    actpack::quantize(input.span(), view, c.rounding);
    outcome.add("words", words);
    outcome.add("params", params);
    for_each_decoding(c, [&](auto type, const Decoding& decoding) {
      Array<decltype(type)> decoded(c.layout.numel(), c.shift());
      actpack::dequantize(view, decoded.span(), decoding);
      outcome.add("dequantize", decoded, static_cast<double>(decoding.alpha));
      for (const Range& range : c.ranges) {
        Array<decltype(type)> part(range.count, c.shift());
        actpack::dequantize(view, range.first, part.span(), decoding);
        outcome.add("dequantize a range", part, static_cast<double>(decoding.alpha), range.first);
      }
    });
    return outcome;
  });
}

template <class T>
void check_sign_magnitude(const Case& c, const std::vector<T>& y) {
  const Array<T> input(y, c.shift());
  check_same_everywhere([&] {
    Outcome outcome;
    Array<std::uint32_t> signs(c.layout.with_bits(1).num_words(), c.shift() / 2);
    Array<std::uint32_t> magnitudes(c.layout.num_words(), c.shift());
    Array<SignMagnitudeParams> params(c.layout.num_groups(), c.shift() / 3);
    const SignMagnitudeView view{c.layout, signs.data(), magnitudes.data(), params.data()};
    for (const Range& rows : c.chunks) {
      actpack::encode(input.span().subspan(static_cast<std::size_t>(rows.first * c.layout.row_size),
                                           static_cast<std::size_t>(std::min(
                                               rows.count * c.layout.row_size,
                                               c.layout.numel() - rows.first * c.layout.row_size))),
                      view, c.rounding, rows.first);
      outcome.add("signs of a chunk", signs);
      outcome.add("magnitudes of a chunk", magnitudes);
      outcome.add("params of a chunk", params);
    }
    actpack::encode(input.span(), view, c.rounding);
    outcome.add("signs", signs);
    outcome.add("magnitudes", magnitudes);
    outcome.add("params", params);
    for_each_decoding(c, [&](auto type, const Decoding& decoding) {
      const auto alpha = static_cast<double>(decoding.alpha);
      Array<decltype(type)> whole(c.layout.numel(), c.shift());
      actpack::decode(view, whole.span(), decoding);
      outcome.add("decode", whole, alpha);
      Array<decltype(type)> relu(c.layout.numel(), c.shift());
      actpack::decode_relu(view, relu.span(), decoding);
      outcome.add("decode_relu", relu, alpha);
      for (const Range& range : c.ranges) {
        Array<decltype(type)> part(range.count, c.shift());
        actpack::decode(view, range.first, part.span(), decoding);
        outcome.add("decode a range", part, alpha, range.first);
        actpack::decode_relu(view, range.first, part.span(), decoding);
        outcome.add("decode_relu a range", part, alpha, range.first);
      }
    });
    // The values themselves are as good a gradient as any.
    Array<T> dx(c.layout.numel(), c.shift());
    actpack::relu_backward(input.span(), view, dx.span());
    outcome.add("relu_backward", dx);
    Array<T> in_place(y, c.shift());
    actpack::relu_backward(std::as_const(in_place).span(), view, in_place.span());
    outcome.add("relu_backward in place", in_place);
    for (const Range& range : c.ranges) {
      Array<T> part(range.count, c.shift());
      actpack::relu_backward(input.span().subspan(static_cast<std::size_t>(range.first),
                                                  static_cast<std::size_t>(range.count)),
                             view, range.first, part.span());
      outcome.add("relu_backward of a range", part, 0, range.first);
    }
    return outcome;
  });
}

// ---- Grids ------------------------------------------------------------------------------------

// 160: its half is no multiple of 32; the last: one range for all.
constexpr std::array<std::int32_t, 9> group_sizes{32, 64, 96, 128, 160, 256, 512, 1024, 1 << 20};

// Around every boundary of a vector, a word, a block of codes and a group.
std::vector<std::int64_t> sizes() {
  std::vector<std::int64_t> all;
  for (std::int64_t size = 1; size <= 70; ++size) all.push_back(size);
  for (const std::int64_t size :
       {127, 128, 129, 130, 255, 256, 257, 258, 511, 512, 513, 783, 784, 1000}) {
    all.push_back(size);
  }
  return all;
}

// Under sanitizers every seventh case: no divisor of the lengths of the loops.
constexpr std::uint64_t thinning = support::runs_slowly ? 7 : 1;

// check(case, kind of data) for three kinds of data for each shape of one row.
template <class Check>
void for_each_shape(Check check) {
  Generator generator(1);
  std::uint64_t seed = 0;
  for (const int bits : support::all_widths) {
    for (const std::int32_t group_size : group_sizes) {
      for (const std::int64_t size : sizes()) {
        for (int repetition = 0; repetition < 3; ++repetition) {
          const Case c{Layout{1, size, group_size, bits}, random_rounding(generator), ++seed};
          const std::uint32_t kind = generator.below(all_kinds);
          if (seed % thinning != 0) continue;
          CAPTURE(bits);
          CAPTURE(group_size);
          CAPTURE(size);
          CAPTURE(kind);
          CAPTURE(seed);
          CAPTURE(c.rounding.is_stochastic);
          check(c, kind);
        }
      }
    }
  }
}

// check(case, kind of data) for every kind of data, in groups of few sizes and one row.
template <class Check>
void for_each_kind(Check check) {
  std::uint64_t seed = 20000;
  for (std::uint32_t kind = 0; kind < all_kinds; ++kind) {
    for (const int bits : support::all_widths) {
      for (const std::int32_t group_size : {32, 96, 256, 1 << 20}) {
        for (const std::int64_t size : {61, 300, 1003}) {
          for (const bool is_stochastic : {false, true}) {
            if (++seed % thinning != 0) continue;
            CAPTURE(kind);
            CAPTURE(bits);
            CAPTURE(group_size);
            CAPTURE(size);
            CAPTURE(seed);
            CAPTURE(is_stochastic);
            check(Case{Layout{1, size, group_size, bits},
                       is_stochastic ? Rounding::stochastic(seed, seed << 40) : Rounding::nearest(),
                       seed},
                  kind);
          }
        }
      }
    }
  }
}

std::vector<Range> random_ranges(std::int64_t size, std::int64_t boundary, int count,
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

// check(case, kind of data) for several rows, of one width or, if wanted, of their own, with
// ranges that start and end anywhere.
template <class Check>
void for_each_table(bool has_row_bits, Check check) {
  Generator generator(2);
  for (std::uint64_t trial = 0; trial < 400; ++trial) {
    const auto rows = static_cast<std::int64_t>(1 + generator.below(9));
    const auto row_size =
        static_cast<std::int64_t>(1 + generator.below(trial % 4 == 0 ? 1200 : 200));
    const auto last = static_cast<std::int64_t>(
        generator.below(2) == 0 ? 0 : 1 + generator.below(static_cast<std::uint32_t>(row_size)));
    const std::int32_t group_size = group_sizes[generator.below(9)];
    const int bits = has_row_bits ? 8 : support::all_widths[generator.below(4)];
    Case c{Layout{rows, row_size, group_size, bits, last}, random_rounding(generator), trial};
    for (std::int64_t row = 0; has_row_bits && row < rows; ++row) {
      c.row_bits.push_back(static_cast<std::uint8_t>(1 << generator.below(4)));
    }
    c.ranges =
        random_ranges(c.layout.numel(), trial % 2 == 0 ? group_size : row_size, 3, generator);
    const std::int64_t first_row = generator.below(static_cast<std::uint32_t>(rows));
    const std::int64_t row_count =
        1 + generator.below(static_cast<std::uint32_t>(rows - first_row));
    c.chunks = {{first_row, row_count}};
    const std::uint32_t kind = generator.below(all_kinds);
    if (trial % thinning != 0) continue;
    CAPTURE(trial);
    CAPTURE(rows);
    CAPTURE(row_size);
    CAPTURE(last);
    CAPTURE(group_size);
    CAPTURE(bits);
    CAPTURE(kind);
    CAPTURE(c.rounding.is_stochastic);
    check(c, kind);
  }
}

template <class Check>
void for_each_large_shape(Check check) {
  std::uint64_t seed = 30000;
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : {4097, 65537}) {
      for (const std::int32_t group_size : {32, 256, 1 << 20}) {
        if (++seed % thinning != 0) continue;
        CAPTURE(bits);
        CAPTURE(size);
        CAPTURE(group_size);
        Case c{Layout{1, size, group_size, bits}, Rounding::stochastic(seed, 5), seed};
        c.ranges = {{size / 3, size / 2}};
        for (const Kind kind : {Kind::ties, Kind::relu_minus_zeros, Kind::boundaries}) {
          const std::uint32_t number = number_of(kind);
          CAPTURE(number);
          check(c, number);
        }
      }
    }
  }
}

// Noise is named by 64 bits: here a group's calls to the generator pass 2^32, and that within a
// vector. Rows are short beside their groups, so that it takes little memory.
template <class Check>
void for_each_far_group(Check check) {
  constexpr std::int64_t calls_of_group = 66076418;  // 65 times as many: 2^32 - 126
  constexpr std::int64_t row_size = 3100;
  for (const int bits : support::all_widths) {
    Case c{Layout{67, row_size, static_cast<std::int32_t>(16 * calls_of_group), bits},
           Rounding::stochastic(7, ~std::uint64_t{0}), 40000};
    c.ranges = {{66 * row_size - 49, 49}, {65 * row_size + 7, row_size - 7}};
    c.chunks = {{65, 1}};
    CAPTURE(bits);
    check(c, 0);
  }
}

// Short ranges from every element of two large groups and a part of a third.
template <class Check>
void for_each_start(Check check) {
  for (const int bits : support::all_widths) {
    constexpr std::int64_t size = 2100;
    Case c{Layout{1, size, 1024, bits}, Rounding::stochastic(8), 45000};
    for (std::int64_t first = 0; first < size; first += static_cast<std::int64_t>(thinning)) {
      c.ranges.push_back({first, std::min(1 + first % 150, size - first)});
    }
    CAPTURE(bits);
    check(c, 0);
  }
}

// ---- Masks and codes --------------------------------------------------------------------------

template <class T>
void check_masks(const std::vector<T>& x, std::uint64_t seed) {
  const auto size = static_cast<std::int64_t>(x.size());
  const std::size_t shift = seed % 17;
  const Array<T> input(x, shift);
  Generator generator(seed);
  // Some chunks straddle the element whose call to the generator is number 2^32.
  const std::int64_t first =
      std::array<std::int64_t, 4>{0, 32 * 5, (INT64_C(1) << 34) - 32, INT64_C(1) << 40}[seed % 4];
  const Rounding rounding = Rounding::stochastic(generator.bits(), generator.bits());
  // The last one drops all. In every other case one element's word is the first that is dropped.
  constexpr std::array probabilities{0.0, 0.1, 0.5, 0.75, 0.999, 1e-12, 1 - 1e-11};
  double drop = probabilities[generator.below(7)];
  if (generator.below(2) == 0) {
    const auto element = static_cast<std::uint64_t>(first + std::max(size - 1, INT64_C(0)) / 2);
    drop = 1 - actpack::philox4x32(element / 4, rounding.offset, rounding.seed).word[element % 4] *
                   0x1p-32;
  }
  CAPTURE(drop);
  CAPTURE(first);
  check_same_everywhere([&] {
    Outcome outcome;
    const auto new_mask = [&] {
      return Array<std::uint32_t>(actpack::words_for(size, 1), shift / 2);
    };
    Array<std::uint32_t> mask = new_mask();
    actpack::make_mask(input.span(), mask.span(), [](T value) { return value >= T(0.25F); });
    outcome.add("make_mask", mask);
    Array<T> y(size, shift);
    actpack::relu(input.span(), y.span(), mask.span());
    outcome.add("relu's mask", mask);
    outcome.add("relu", y);
    Array<T> in_place(x, shift);
    Array<std::uint32_t> other_mask = new_mask();
    actpack::relu(std::as_const(in_place).span(), in_place.span(), other_mask.span());
    outcome.add("relu's mask in place", other_mask);
    outcome.add("relu in place", in_place);

    Array<T> dx(size, shift);
    actpack::relu_backward(input.span(), std::as_const(mask).span(), dx.span());
    outcome.add("relu_backward", dx);
    Array<T> gradient(x, shift);
    actpack::relu_backward(std::as_const(gradient).span(), std::as_const(mask).span(),
                           gradient.span());
    outcome.add("relu_backward in place", gradient);

    Array<T> kept(size, shift);
    Array<std::uint32_t> kept_mask = new_mask();
    actpack::dropout(input.span(), kept.span(), kept_mask.span(), drop, rounding, first);
    outcome.add("dropout's mask", kept_mask);
    outcome.add("dropout", kept);
    Array<T> kept_in_place(x, shift);
    actpack::dropout(std::as_const(kept_in_place).span(), kept_in_place.span(), other_mask.span(),
                     drop, rounding, first);
    outcome.add("dropout's mask in place", other_mask);
    outcome.add("dropout in place", kept_in_place);
    Array<T> back(size, shift);
    actpack::dropout_backward(input.span(), std::as_const(kept_mask).span(), back.span(), drop);
    outcome.add("dropout_backward", back);
    Array<T> back_in_place(x, shift);
    actpack::dropout_backward(std::as_const(back_in_place).span(), std::as_const(kept_mask).span(),
                              back_in_place.span(), drop);
    outcome.add("dropout_backward in place", back_in_place);
    return outcome;
  });
}

void check_pack(std::int64_t size, int bits, std::uint64_t seed) {
  Generator generator(seed);
  const std::size_t shift = seed % 67;
  const Array<std::uint8_t> codes(
      generate<std::uint8_t>(
          size,
          [&](std::int64_t) { return static_cast<std::uint8_t>(generator.below(1U << bits)); }),
      shift);
  const std::vector<Range> ranges = random_ranges(size, 32 / bits, 6, generator);
  check_same_everywhere([&] {
    Outcome outcome;
    Array<std::uint32_t> words(actpack::words_for(size, bits), shift % 16);
    actpack::pack(codes.span(), bits, words.span());
    outcome.add("pack", words);
    Array<std::uint8_t> unpacked(size, shift);
    actpack::unpack(std::as_const(words).span(), bits, unpacked.span());
    outcome.add("unpack", unpacked);
    for (const Range& range : ranges) {
      Array<std::uint8_t> part(range.count, shift);
      actpack::unpack(std::as_const(words).span(), bits, range.first, part.span());
      outcome.add("unpack a range", part, 0, range.first);
    }
    return outcome;
  });
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE("use_instruction_set: chooses any that the processor has") {
  const support::UsingInstructionSet restore(actpack::instruction_set());
  for (const InstructionSet set : support::all_instruction_sets) {
    if (!support::is_available(set)) continue;
    actpack::use_instruction_set(set);
    CHECK(actpack::instruction_set() == set);
  }
  if (support::vector_instruction_sets().empty()) {
    MESSAGE("this processor has no vector instruction set: there is nothing to compare");
  }
}

TEST_CASE("use_instruction_set: refuses what the processor lacks and keeps what was chosen") {
  const support::UsingInstructionSet portable(InstructionSet::portable);
  const auto beyond_all = static_cast<InstructionSet>(static_cast<int>(InstructionSet::avx512) + 1);
  for (const InstructionSet set : {InstructionSet::avx2, InstructionSet::avx512, beyond_all}) {
    if (support::is_available(set)) continue;
    CHECK_THROWS_AS(actpack::use_instruction_set(set), std::invalid_argument);
    CHECK(actpack::instruction_set() == InstructionSet::portable);
  }
}

TEST_CASE_TEMPLATE("affine: one row of any size", T, float, bfloat16, float16) {
  for_each_shape([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: any data", T, float, bfloat16, float16) {
  for_each_kind([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: rows, ranges and chunks", T, float, bfloat16, float16) {
  for (const bool has_row_bits : {false, true}) {
    for_each_table(has_row_bits,
                   [](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
  }
}

TEST_CASE_TEMPLATE("affine: large tensors", T, float, bfloat16, float16) {
  for_each_large_shape(
      [](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: ranges from every element", T, float, bfloat16) {
  for_each_start([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("affine: noise of far groups", T, float) {
  for_each_far_group([](const Case& c, std::uint32_t kind) { check_affine(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: one row of any size", T, float, bfloat16, float16) {
  for_each_shape(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: any data", T, float, bfloat16, float16) {
  for_each_kind(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: rows, ranges and chunks", T, float, bfloat16, float16) {
  for_each_table(
      false, [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: large tensors", T, float, bfloat16, float16) {
  for_each_large_shape(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: ranges from every element", T, float, bfloat16) {
  for_each_start(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("sign and magnitude: noise of far groups", T, float) {
  for_each_far_group(
      [](const Case& c, std::uint32_t kind) { check_sign_magnitude(c, make<T>(kind, c)); });
}

TEST_CASE_TEMPLATE("masks: any size and data", T, float, bfloat16, float16) {
  std::vector<std::int64_t> all = sizes();
  all.insert(all.end(), {0, 4097, 65537});
  std::uint64_t seed = 50000;
  for (const std::int64_t size : all) {
    for (std::uint32_t kind = 0; kind < all_kinds; ++kind) {
      if (++seed % thinning != 0 || (size > 5000 && kind % 7 != 0)) continue;
      CAPTURE(size);
      CAPTURE(kind);
      CAPTURE(seed);
      check_masks(make<T>(kind, Case{Layout{1, size, 64, 2}, Rounding::nearest(), seed}), seed);
    }
  }
}

// What is decoded into 32 MiB and more goes past the caches, if it starts at a cache line.
TEST_CASE_TEMPLATE("decoding: values too many for the caches", T, float, bfloat16, float16) {
  constexpr std::int64_t numel = (INT64_C(33) << 20) / sizeof(T) + 37;
  constexpr std::size_t line = 64 / sizeof(T);
  const Layout layout{.row_size = numel, .bits = 2};
  const Rounding rounding = Rounding::stochastic(5, 6);
  Generator generator(7);
  const std::vector<float> table =
      generate<float>(4099, [&](std::int64_t) { return static_cast<float>(generator.normal()); });
  const std::vector<T> x = generate<T>(
      numel, [&](std::int64_t i) { return T(table[static_cast<std::size_t>(i) % table.size()]); });
  for (const std::size_t beyond_line : {0U, 1U}) {
    Array<T> decoded(numel + 2 * static_cast<std::int64_t>(line), 0);
    const std::size_t address = reinterpret_cast<std::uintptr_t>(decoded.data()) / sizeof(T);
    const std::span<T> values =
        decoded.span().subspan((line - address % line) % line + beyond_line, numel);
    check_same_everywhere([&] {
      Outcome outcome;
      Array<std::uint32_t> words(layout.num_words(), 0);
      Array<std::uint32_t> signs(layout.with_bits(1).num_words(), 0);
      Array<GroupParams> params(layout.num_groups(), 0);
      Array<SignMagnitudeParams> sides(layout.num_groups(), 0);
      const PackedView packed{layout, words.data(), params.data()};
      actpack::quantize(std::span(x), packed, rounding);
      outcome.add("words", words);
      actpack::dequantize(packed, values);
      outcome.add("dequantize", decoded);
      if (support::runs_slowly) return outcome;
      actpack::dequantize(packed, values, Decoding::subtractive(rounding));
      outcome.add("dequantize", decoded, 1);
      const SignMagnitudeView context{layout, signs.data(), words.data(), sides.data()};
      actpack::encode(std::span(x), context, rounding);
      outcome.add("magnitudes", words);
      actpack::decode(context, values, Decoding::subtractive(rounding));
      outcome.add("decode", decoded, 1);
      return outcome;
    });
  }
}

TEST_CASE("pack, unpack: any size, any range") {
  std::vector<std::int64_t> all = sizes();
  all.insert(all.end(), {1023, 1024, 1025, 4097, 65537});
  std::uint64_t seed = 60000;
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : all) {
      for (int repetition = 0; repetition < 4; ++repetition) {
        CAPTURE(bits);
        CAPTURE(size);
        CAPTURE(++seed);
        check_pack(size, bits, seed);
      }
    }
  }
}

// No guards here: sanitizers see reads beyond arrays that end where their elements do.
TEST_CASE_TEMPLATE("all verbs: nothing is read beyond an array", T, float, bfloat16, float16) {
  for (const InstructionSet set : support::vector_instruction_sets()) {
    const support::UsingInstructionSet use(set);
    for (const int bits : support::all_widths) {
      for (std::int64_t size = 1; size <= 530; size += size < 140 ? 1 : 13) {
        const Layout layout{1, size, size % 2 == 0 ? 64 : 256, bits};
        std::vector<T> x =
            make<T>(0, Case{layout, Rounding::nearest(), static_cast<std::uint64_t>(size)});
        std::vector<T> y(x.size());
        x.shrink_to_fit();
        const Rounding rounding = Rounding::stochastic(3);
        actpack::PackedBuffer packed(layout);
        actpack::quantize(x, packed.view(), rounding);
        actpack::dequantize(packed.view(), y);
        actpack::dequantize(packed.view(), y, Decoding::subtractive(rounding));
        actpack::SignMagnitudeBuffer sides(layout);
        actpack::encode(x, sides.view(), rounding);
        actpack::decode(sides.view(), y);
        actpack::decode_relu(sides.view(), y, Decoding::subtractive(rounding));
        actpack::relu_backward(x, sides.view(), y);
        std::vector<std::uint32_t> mask(static_cast<std::size_t>(actpack::words_for(size, 1)));
        actpack::make_mask(x, mask, [](T value) { return value > T(0.0F); });
        actpack::relu(x, y, mask);
        actpack::relu_backward(x, mask, y);
        actpack::dropout(x, y, mask, 0.5, rounding);
        actpack::dropout_backward(x, mask, y, 0.5);
        CHECK(y.size() == x.size());
      }
    }
  }
}
