// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The format written down a second time, in integers and double, sharing nothing with the library:
// slow, textbook arithmetic that the tests compare every stored bit and every decoded value with.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace reference {

// ---- Exact sums -------------------------------------------------------------------------------

struct ExactSum {
  double high;  // the sum rounded to the nearest double
  double low;   // what the rounding left: high + low is the exact sum
};

// Knuth's two-sum: exact for any two doubles whose sum does not overflow.
inline ExactSum exact_sum(double a, double b) {
  const double high = a + b;
  const double part_of_b = high - a;
  const double low = (a - (high - part_of_b)) + (b - part_of_b);
  return {high, low};
}

// The exact sum rounded to odd. A value rounded to odd with 53 bits and then to nearest with 24 or
// fewer is rounded as if once (Boldo and Melquiond: the wider format has two or more extra bits).
inline double sum_rounded_to_odd(double a, double b) {
  const ExactSum sum = exact_sum(a, b);
  if (sum.low == 0 || (std::bit_cast<std::uint64_t>(sum.high) & 1) != 0) return sum.high;
  const double infinity = std::numeric_limits<double>::infinity();
  return std::nextafter(sum.high, sum.low > 0 ? infinity : -infinity);
}

// a * b + c, rounded once to float. The product of two floats is exact in double.
inline float fused_multiply_add(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  return static_cast<float>(sum_rounded_to_odd(product, static_cast<double>(c)));
}

// To 24 significant bits as float would, but with no largest exponent.
inline double round_to_24_bits(double value) {
  if (std::fabs(value) < std::ldexp(1.0, 126))
    return static_cast<double>(static_cast<float>(value));
  return 4 * static_cast<double>(static_cast<float>(value / 4));
}

// ---- The two 16-bit formats -------------------------------------------------------------------

struct Format {
  int exponent_bits;
  int mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  }
  std::uint16_t largest() const { return static_cast<std::uint16_t>(infinity() - 1); }
  std::uint16_t quiet_nan() const {
    return static_cast<std::uint16_t>(infinity() | (1 << (mantissa_bits - 1)));
  }
};

inline constexpr Format bfloat16{8, 7};
inline constexpr Format float16{5, 10};
inline constexpr std::uint16_t poison = 0x7FC0;

inline bool is_nan(Format format, std::uint16_t bits) {
  return (bits & 0x7FFF) > format.infinity();
}

// 2^exponent, as far as doubles are normal; std::ldexp would take half of a test's time.
inline double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// The number a non-negative pattern stands for; infinity's pattern gives the power of two that
// would follow the largest finite number, which is what rounding to nearest compares with.
inline double magnitude_of(Format format, std::uint16_t bits) {
  const int exponent = bits >> format.mantissa_bits;
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int lowest = 1 - format.bias() - format.mantissa_bits;
  if (exponent == 0) return mantissa * power_of_two(lowest);
  return (mantissa + (1 << format.mantissa_bits)) * power_of_two(lowest + exponent - 1);
}

inline double value_of(Format format, std::uint16_t bits) {
  const auto magnitude_bits = static_cast<std::uint16_t>(bits & 0x7FFF);
  double magnitude = magnitude_of(format, magnitude_bits);
  if (magnitude_bits == format.infinity()) magnitude = std::numeric_limits<double>::infinity();
  if (is_nan(format, bits)) magnitude = std::numeric_limits<double>::quiet_NaN();
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The largest finite pattern whose number is at most `magnitude`: patterns grow with their numbers.
inline std::uint16_t largest_not_above(Format format, double magnitude) {
  std::uint16_t low = 0;
  std::uint16_t high = format.infinity();
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (magnitude_of(format, middle) <= magnitude ? low : high) = middle;
  }
  return low;
}

// Round to nearest, ties to even; beyond the largest finite number (plus half a unit) infinity.
inline std::uint16_t round_nearest(Format format, double value) {
  if (std::isnan(value)) return format.quiet_nan();
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(value);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | format.infinity());
  std::uint16_t bits = largest_not_above(format, magnitude);
  const double below = magnitude - magnitude_of(format, bits);
  const double above = magnitude_of(format, static_cast<std::uint16_t>(bits + 1)) - magnitude;
  if (above < below || (above == below && bits % 2 == 1)) ++bits;
  return static_cast<std::uint16_t>(sign | bits);
}

// As round_nearest, but a finite number becomes a finite number.
inline std::uint16_t round_saturating(Format format, double value) {
  const std::uint16_t bits = round_nearest(format, value);
  if (!std::isfinite(value) || (bits & 0x7FFF) != format.infinity()) return bits;
  return static_cast<std::uint16_t>((bits & 0x8000) | format.largest());
}

// The largest number of the format that is at most a finite `value`; below them all -infinity.
inline std::uint16_t round_down(Format format, double value) {
  const double magnitude = std::fabs(value);
  std::uint16_t bits = largest_not_above(format, magnitude);
  if (value >= 0) return bits;
  if (magnitude_of(format, bits) < magnitude) ++bits;
  return static_cast<std::uint16_t>(0x8000 | bits);
}

// ---- Random bits ------------------------------------------------------------------------------

struct Block {
  std::uint32_t word[4];
};

// Philox4x32 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11).
inline Block philox4x32(Block counter, std::uint32_t key0, std::uint32_t key1, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter.word[2];
    const auto low0 = static_cast<std::uint32_t>(product0);
    const auto low1 = static_cast<std::uint32_t>(product1);
    const auto high0 = static_cast<std::uint32_t>(product0 >> 32);
    const auto high1 = static_cast<std::uint32_t>(product1 >> 32);
    counter = {{high1 ^ counter.word[1] ^ key0, low1, high0 ^ counter.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

inline Block random_block(std::uint64_t index, std::uint64_t offset, std::uint64_t seed) {
  const Block counter{{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                       static_cast<std::uint32_t>(offset),
                       static_cast<std::uint32_t>(offset >> 32)}};
  return philox4x32(counter, static_cast<std::uint32_t>(seed),
                    static_cast<std::uint32_t>(seed >> 32), 7);
}

struct Rounding {
  bool stochastic = false;
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;
};

inline constexpr int one_step = 1 << 14;

// Who draws: the top byte of every call's index.
enum class Domain : std::uint8_t { dropout = 0, values = 1, magnitudes = 2 };

inline Block random_block(Domain domain, std::int64_t call, const Rounding& rounding) {
  return random_block(static_cast<std::uint64_t>(call) | static_cast<std::uint64_t>(domain) << 56,
                      rounding.offset, rounding.seed);
}

// The 16 random bits that elements 2j and 2j + 1 of a group share.
inline std::uint32_t half_word(const Rounding& rounding, Domain domain, std::int64_t group,
                               int group_size, int element) {
  const int half = group_size / 2;
  const bool second_half = element >= half;
  const int position = second_half ? element - half : element;
  const std::int64_t call = group * (group_size / 16) + position / 8;
  const Block block = random_block(domain, call, rounding);
  const std::uint32_t word = block.word[(second_half ? 2 : 0) + position % 8 / 4];
  return position % 4 < 2 ? word % 65536 : word / 65536;
}

// Even elements read the half-word's two bytes in order, odd ones swapped, the low byte inverted.
inline int dither_of(std::uint32_t half_word_bits, bool odd) {
  const std::uint32_t high = half_word_bits / 256;
  const std::uint32_t low = half_word_bits % 256;
  return static_cast<int>((odd ? 256 * low + (255 - high) : 256 * high + low) / 4);
}

inline int dither(const Rounding& rounding, Domain domain, std::int64_t group, int group_size,
                  int element) {
  if (!rounding.stochastic) return one_step / 2;
  return dither_of(half_word(rounding, domain, group, group_size, element), element % 2 == 1);
}

// ---- One group: parameters, codes, values -----------------------------------------------------

struct Params {
  std::uint16_t scale;
  std::uint16_t min;
  bool operator==(const Params&) const = default;
};

inline int max_code(int bits) { return (1 << bits) - 1; }

// Whether max_code * scale >= max - min holds for the real numbers. With high + low = max - min and
// high its nearest double, rounding is monotone, so a double other than `high` decides by itself.
inline bool covers(double scale, double min, double max, int bits) {
  const ExactSum range = exact_sum(max, -min);
  const double reach = max_code(bits) * scale;
  return reach != range.high ? reach > range.high : range.low <= 0;
}

// The smallest scale of the format that covers, found by bisection over all of its patterns;
// nothing between 0 and 2^-111. Returns the pattern of infinity when no finite one covers.
inline std::uint16_t smallest_scale(double min, double max, int bits) {
  if (covers(0, min, max, bits)) return 0;
  std::uint16_t low = 0;
  std::uint16_t high = bfloat16.infinity();
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (covers(magnitude_of(bfloat16, middle), min, max, bits) ? high : low) = middle;
  }
  const std::uint16_t least = largest_not_above(bfloat16, power_of_two(-111));
  return high < least ? least : high;
}

inline Params fit(double min, double max, int bits) {
  const std::uint16_t stored_min = round_down(bfloat16, min == 0 ? 0.0 : min);
  if ((stored_min & 0x7FFF) == bfloat16.infinity()) return {poison, poison};
  const std::uint16_t scale = smallest_scale(value_of(bfloat16, stored_min), max, bits);
  if (scale == bfloat16.infinity()) return {poison, poison};
  return {scale, stored_min};
}

inline bool is_poisoned(Params params) { return params.scale == poison; }

// 2^14 / scale to 24 bits, half up: with scale = m 2^e, 128 <= m < 256, the quotient is
// 2^31 / m times a power of two, has 24 bits before the point unless m = 128 (then it is exact),
// and is never halfway between two integers.
inline double inverse_step(std::uint16_t scale) {
  int exponent = 0;
  const double fraction = std::frexp(magnitude_of(bfloat16, scale), &exponent);
  const auto mantissa = static_cast<std::int64_t>(256 * fraction);
  const std::int64_t quotient = ((std::int64_t{1} << 31) + mantissa / 2) / mantissa;
  return std::ldexp(static_cast<double>(quotient), 14 - (exponent - 8) - 31);
}

// The number of 2^-14 steps in (x - min) / scale, both factors rounded to float, the product exact:
// 24 times 24 bits fit a double.
inline std::int64_t steps(double x, Params params) {
  if (params.scale == 0 || is_poisoned(params)) return 0;
  const double distance = round_to_24_bits(sum_rounded_to_odd(x, -value_of(bfloat16, params.min)));
  return static_cast<std::int64_t>(std::floor(distance * inverse_step(params.scale)));
}

inline int encode(double x, Params params, int dither_value) {
  return static_cast<int>((steps(x, params) + dither_value) / one_step);
}

inline float saturate_float(double rounded_to_odd) {
  const auto value = static_cast<float>(rounded_to_odd);
  const float largest = std::numeric_limits<float>::max();
  return std::isinf(value) ? std::copysign(largest, value) : value;
}

inline float decode(int code, Params params) {
  if (is_poisoned(params)) return std::numeric_limits<float>::quiet_NaN();
  return saturate_float(
      sum_rounded_to_odd(code * value_of(bfloat16, params.scale), value_of(bfloat16, params.min)));
}

// alpha of the dither taken out again: w = code 2^15 - alpha (2R + 1 - 2^14) rounded to float, then
// min + w scale 2^-15 rounded to float. 24 times 14 and 24 times 8 bits are exact in double.
inline float decode_subtractive(int code, Params params, int dither_value, float alpha) {
  if (is_poisoned(params)) return std::numeric_limits<float>::quiet_NaN();
  const double share = static_cast<double>(alpha) * (2 * dither_value + 1 - one_step);
  const double position = round_to_24_bits(sum_rounded_to_odd(code * 32768.0, -share));
  const double scale = value_of(bfloat16, params.scale) * power_of_two(-15);
  return saturate_float(sum_rounded_to_odd(position * scale, value_of(bfloat16, params.min)));
}

// ---- Whole tensors ----------------------------------------------------------------------------

struct Shape {
  std::int64_t rows = 1;
  std::int64_t row_size = 0;
  int group_size = 256;
  int bits = 2;
  std::int64_t last_row_size = 0;      // 0: the last row is full
  std::vector<std::uint8_t> row_bits;  // empty: every row has `bits`

  std::int64_t size_of_row(std::int64_t row) const {
    return row == rows - 1 && last_row_size != 0 ? last_row_size : row_size;
  }
  int bits_of_row(std::int64_t row) const {
    return row_bits.empty() ? bits : row_bits[static_cast<std::size_t>(row)];
  }
};

// One group as the loops below meet them: rows in order, each cut from its start.
struct Group {
  std::int64_t index;  // among the groups of the tensor
  std::int64_t first;  // its first element, in the tensor
  std::int64_t first_in_row;
  int size;
  int bits;
  std::int64_t sign_word;  // where its row starts in a plane of single bits
  std::int64_t word;       // where its row starts among the words
};

inline std::int64_t words_for(std::int64_t elements, int bits) {
  std::int64_t words = 0;
  while (32 * words < elements * bits) ++words;
  return words;
}

inline std::vector<Group> groups_of(const Shape& shape) {
  std::vector<Group> groups;
  std::int64_t element = 0;
  std::int64_t word = 0;
  std::int64_t sign_word = 0;
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    const std::int64_t size = shape.size_of_row(row);
    for (std::int64_t start = 0; start < size; start += shape.group_size) {
      const std::int64_t left = size - start;
      const int group = left < shape.group_size ? static_cast<int>(left) : shape.group_size;
      groups.push_back({static_cast<std::int64_t>(groups.size()), element + start, start, group,
                        shape.bits_of_row(row), sign_word, word});
    }
    element += size;
    word += words_for(size, shape.bits_of_row(row));
    sign_word += words_for(size, 1);
  }
  return groups;
}

inline std::int64_t count_words(const Shape& shape) {
  std::int64_t words = 0;
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    words += words_for(shape.size_of_row(row), shape.bits_of_row(row));
  }
  return words;
}

inline std::int64_t count_sign_words(const Shape& shape) {
  std::int64_t words = 0;
  for (std::int64_t row = 0; row < shape.rows; ++row) words += words_for(shape.size_of_row(row), 1);
  return words;
}

inline std::int64_t count_elements(const Shape& shape) {
  std::int64_t elements = 0;
  for (std::int64_t row = 0; row < shape.rows; ++row) elements += shape.size_of_row(row);
  return elements;
}

// Bit by bit: element e of a row owns bits [e b, (e + 1) b) of the row's words, lowest first.
inline void store_code(std::vector<std::uint32_t>& words, std::int64_t row_start,
                       std::int64_t element, int bits, int code) {
  for (int bit = 0; bit < bits; ++bit) {
    const std::int64_t position = element * bits + bit;
    const auto word = static_cast<std::size_t>(row_start + position / 32);
    if ((code >> bit) % 2 == 1) words[word] |= std::uint32_t{1} << (position % 32);
  }
}

inline int load_code(const std::vector<std::uint32_t>& words, std::int64_t row_start,
                     std::int64_t element, int bits) {
  int code = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const std::int64_t position = element * bits + bit;
    const auto word = static_cast<std::size_t>(row_start + position / 32);
    if ((words[word] >> (position % 32)) % 2 == 1) code += 1 << bit;
  }
  return code;
}

struct Packed {
  std::vector<std::uint32_t> words;
  std::vector<Params> params;
};

inline Packed quantize(const std::vector<float>& x, const Shape& shape, const Rounding& rounding) {
  Packed packed;
  packed.words.assign(static_cast<std::size_t>(count_words(shape)), 0);
  for (const Group& group : groups_of(shape)) {
    const float* values = x.data() + group.first;
    bool finite = true;
    float min = values[0];
    float max = values[0];
    for (int element = 0; element < group.size; ++element) {
      finite = finite && std::isfinite(values[element]);
      if (values[element] < min) min = values[element];
      if (values[element] > max) max = values[element];
    }
    const Params params = finite ? fit(min, max, group.bits) : Params{poison, poison};
    packed.params.push_back(params);
    for (int element = 0; element < group.size; ++element) {
      const int random = dither(rounding, Domain::values, group.index, shape.group_size, element);
      const int code = is_poisoned(params) ? 0 : encode(values[element], params, random);
      store_code(packed.words, group.word, group.first_in_row + element, group.bits, code);
    }
  }
  return packed;
}

// Plain, or with `alpha` of the dither removed where the rounding was stochastic.
struct Decoding {
  bool subtractive = false;
  Rounding rounding = {};
  float alpha = 1;
};

inline float decode(int code, Params params, const Decoding& decoding, Domain domain,
                    const Group& group, int group_size, int element) {
  if (!decoding.subtractive || !decoding.rounding.stochastic) return decode(code, params);
  const int random = dither(decoding.rounding, domain, group.index, group_size, element);
  return decode_subtractive(code, params, random, decoding.alpha);
}

inline std::vector<float> dequantize(const Packed& packed, const Shape& shape,
                                     const Decoding& decoding = {}) {
  std::vector<float> x;
  for (const Group& group : groups_of(shape)) {
    const Params params = packed.params[static_cast<std::size_t>(group.index)];
    for (int element = 0; element < group.size; ++element) {
      const int code =
          load_code(packed.words, group.word, group.first_in_row + element, group.bits);
      x.push_back(decode(code, params, decoding, Domain::values, group, shape.group_size, element));
    }
  }
  return x;
}

// ---- Sign and magnitude -----------------------------------------------------------------------

struct SignMagnitudeParams {
  std::uint16_t positive;
  std::uint16_t negative;
  bool operator==(const SignMagnitudeParams&) const = default;
};

struct SignMagnitude {
  std::vector<std::uint32_t> sign_words;
  std::vector<std::uint32_t> magnitude_words;
  std::vector<SignMagnitudeParams> params;
};

inline SignMagnitude encode_sign_magnitude(const std::vector<float>& y, const Shape& shape,
                                           const Rounding& rounding) {
  SignMagnitude packed;
  packed.sign_words.assign(static_cast<std::size_t>(count_sign_words(shape)), 0);
  packed.magnitude_words.assign(static_cast<std::size_t>(count_words(shape)), 0);
  for (const Group& group : groups_of(shape)) {
    const float* values = y.data() + group.first;
    bool finite = true;
    double largest_positive = 0;
    double largest_negative = 0;
    for (int element = 0; element < group.size; ++element) {
      const double value = values[element];
      finite = finite && std::isfinite(value);
      if (value > largest_positive) largest_positive = value;
      if (-value > largest_negative) largest_negative = -value;
    }
    SignMagnitudeParams params{poison, poison};
    if (finite) {
      const std::uint16_t positive = smallest_scale(0, largest_positive, group.bits);
      const std::uint16_t negative = smallest_scale(0, largest_negative, group.bits);
      if (positive != bfloat16.infinity() && negative != bfloat16.infinity()) {
        params = {positive, negative};
      }
    }
    packed.params.push_back(params);
    for (int element = 0; element < group.size; ++element) {
      const float value = values[element];
      const bool positive = value > 0;
      store_code(packed.sign_words, group.sign_word, group.first_in_row + element, 1, positive);
      if (params.positive == poison) continue;
      const Params side{positive ? params.positive : params.negative, 0};
      const int random =
          dither(rounding, Domain::magnitudes, group.index, shape.group_size, element);
      const int code = encode(std::fabs(value), side, random);
      store_code(packed.magnitude_words, group.word, group.first_in_row + element, group.bits,
                 code);
    }
  }
  return packed;
}

enum class Consumer { whole, relu };  // y itself, or what is left of it behind a ReLU

inline std::vector<float> decode_sign_magnitude(const SignMagnitude& packed, const Shape& shape,
                                                Consumer consumer, const Decoding& decoding = {}) {
  std::vector<float> y;
  for (const Group& group : groups_of(shape)) {
    const SignMagnitudeParams params = packed.params[static_cast<std::size_t>(group.index)];
    for (int element = 0; element < group.size; ++element) {
      const std::int64_t position = group.first_in_row + element;
      const bool positive = load_code(packed.sign_words, group.sign_word, position, 1) == 1;
      const int code = load_code(packed.magnitude_words, group.word, position, group.bits);
      const Params side{positive ? params.positive : params.negative, 0};
      const float magnitude =
          decode(code, side, decoding, Domain::magnitudes, group, shape.group_size, element);
      float value = positive ? magnitude : -magnitude;
      if (consumer == Consumer::relu && !positive && !std::isnan(magnitude)) value = 0;
      y.push_back(value == 0 ? 0.0F : value);  // zero is +0
    }
  }
  return y;
}

inline std::vector<float> relu_backward(const std::vector<float>& dy, const SignMagnitude& packed,
                                        const Shape& shape) {
  std::vector<float> dx;
  for (const Group& group : groups_of(shape)) {
    const bool poisoned = packed.params[static_cast<std::size_t>(group.index)].positive == poison;
    for (int element = 0; element < group.size; ++element) {
      const auto index = static_cast<std::size_t>(group.first + element);
      const bool positive =
          load_code(packed.sign_words, group.sign_word, group.first_in_row + element, 1) == 1;
      const float passed = positive ? dy[index] : 0.0F;
      dx.push_back(poisoned ? std::numeric_limits<float>::quiet_NaN() : passed);
    }
  }
  return dx;
}

}  // namespace reference
