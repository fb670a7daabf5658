// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Prints checksums of everything the library computes on fixed data and fails if one has changed:
// the same program, built by any compiler with any flags that keep IEEE arithmetic, must succeed.
#include <actpack/bit_allocation.hpp>
#include <actpack/instruction_set.hpp>
#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace {

using actpack::bfloat16;
using actpack::Decoding;
using actpack::float16;
using actpack::InstructionSet;
using actpack::Layout;
using actpack::Rounding;

// FNV-1a, 64 bits, over values low byte first: the same on every machine.
class Checksum {
 public:
  void add(std::uint64_t value, int bytes) {
    for (int byte = 0; byte < bytes; ++byte) {
      hash_ = (hash_ ^ (value >> (8 * byte) & 0xFF)) * 0x100000001B3;
    }
  }
  void add(std::span<const std::uint32_t> words) {
    for (const std::uint32_t word : words) add(word, 4);
  }
  void add(std::span<const float> values) {
    for (const float value : values) add(std::bit_cast<std::uint32_t>(value), 4);
  }
  template <class T>
  requires(std::is_same_v<T, bfloat16> ||
           std::is_same_v<T, float16>) void add(std::span<const T> values) {
    for (const T value : values) add(value.bits, 2);
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(std::span<const T>(values));
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xCBF29CE484222325;
};

// Knuth's 64-bit linear congruential generator, high bits.
class Generator {
 public:
  std::uint32_t below(std::uint32_t bound) {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return static_cast<std::uint32_t>((state_ >> 32) * bound >> 32);
  }

 private:
  std::uint64_t state_ = 1;
};

// Numbers put together from bits, so that no flag can touch them: signs, mantissas and a few
// exponents around 1 at random, in every fourth group of 64 exponents from all over the type, in
// every fifth no negative values but zeros.
template <class T>
std::vector<T> make_data(std::int64_t size) {
  Generator generator;
  std::vector<T> values;
  for (std::int64_t i = 0; i < size; ++i) {
    const bool wide = i / 64 % 4 == 3;
    const bool rectified = i / 64 % 5 == 4;
    const std::uint32_t negative = generator.below(2);
    if constexpr (std::is_same_v<T, float>) {
      const std::uint32_t exponent = wide ? generator.below(252) : 124 + generator.below(5);
      const std::uint32_t bits = negative << 31 | exponent << 23 | generator.below(1 << 23);
      values.push_back(std::bit_cast<float>(rectified && negative != 0 ? 0 : bits));
    } else {
      constexpr int mantissa_bits = std::is_same_v<T, bfloat16> ? 7 : 10;
      constexpr std::uint32_t one = std::is_same_v<T, bfloat16> ? 127 : 15;
      const std::uint32_t exponent =
          wide ? generator.below(2 * one - 2) : one - 3 + generator.below(5);
      const std::uint32_t bits =
          negative << 15 | exponent << mantissa_bits | generator.below(1 << mantissa_bits);
      values.push_back(
          T::from_bits(static_cast<std::uint16_t>(rectified && negative != 0 ? 0 : bits)));
    }
  }
  return values;
}

// Three rows, the last one short, groups that end short, every width and two roundings.
constexpr std::array widths{1, 2, 4, 8};
constexpr std::array<std::int32_t, 4> group_sizes{32, 96, 256, 1024};

template <class Test>
void for_each_case(Test test) {
  for (const int bits : widths) {
    for (const std::int32_t group_size : group_sizes) {
      const Layout layout{3, 1333, group_size, bits, 777};
      test(layout, Rounding::stochastic(0x0123456789ABCDEF, 0xFEDCBA9876543210));
      test(layout, Rounding::nearest());
    }
  }
}

template <class T>
std::uint64_t checksum_of_quantize() {
  Checksum checksum;
  for_each_case([&](const Layout& layout, const Rounding& rounding) {
    const std::vector<T> x = make_data<T>(layout.numel());
    const std::array<std::uint8_t, 3> mixed{static_cast<std::uint8_t>(layout.bits), 1,
                                            static_cast<std::uint8_t>(layout.bits)};
    for (const bool by_row : {false, true}) {
      actpack::PackedBuffer buffer =
          by_row ? actpack::PackedBuffer(layout, mixed) : actpack::PackedBuffer(layout);
      actpack::quantize(x, buffer.view(), rounding);
      const std::int64_t words = by_row ? buffer.view().row_offsets[3] : layout.num_words();
      checksum.add(
          std::span<const std::uint32_t>(buffer.view().words, static_cast<std::size_t>(words)));
      for (std::int64_t group = 0; group < layout.num_groups(); ++group) {
        checksum.add(buffer.view().params[group].scale.bits, 2);
        checksum.add(buffer.view().params[group].min.bits, 2);
      }
      for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding),
                                       Decoding::subtractive(rounding, 0.3F)}) {
        std::vector<T> decoded(x.size());
        actpack::dequantize(buffer.view(), decoded, decoding);
        checksum.add(decoded);
        std::vector<float> wide(x.size());
        actpack::dequantize(buffer.view(), wide, decoding);
        checksum.add(wide);
      }
    }
  });
  return checksum.value();
}

template <class T>
std::uint64_t checksum_of_sign_magnitude() {
  Checksum checksum;
  for_each_case([&](const Layout& layout, const Rounding& rounding) {
    const std::vector<T> y = make_data<T>(layout.numel());
    actpack::SignMagnitudeBuffer buffer(layout);
    actpack::encode(y, buffer.view(), rounding);
    const auto sign_words = static_cast<std::size_t>(layout.with_bits(1).num_words());
    const auto magnitude_words = static_cast<std::size_t>(layout.num_words());
    checksum.add(std::span<const std::uint32_t>(buffer.view().sign_words, sign_words));
    checksum.add(std::span<const std::uint32_t>(buffer.view().magnitude_words, magnitude_words));
    for (std::int64_t group = 0; group < layout.num_groups(); ++group) {
      checksum.add(buffer.view().params[group].positive.bits, 2);
      checksum.add(buffer.view().params[group].negative.bits, 2);
    }
    for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
      std::vector<T> decoded(y.size());
      actpack::decode(buffer.view(), decoded, decoding);
      checksum.add(decoded);
      actpack::decode_relu(buffer.view(), decoded, decoding);
      checksum.add(decoded);
    }
    std::vector<T> dx(y.size());
    actpack::relu_backward(y, buffer.view(), dx);
    checksum.add(dx);
  });
  return checksum.value();
}

template <class T>
std::uint64_t checksum_of_masks() {
  Checksum checksum;
  const std::vector<T> x = make_data<T>(64);  // near 1: what is scaled stays finite
  std::vector<T> y(x.size());
  std::vector<std::uint32_t> mask(x.size() / 32);
  actpack::relu(x, y, mask);
  checksum.add(y);
  checksum.add(mask);
  for (const double probability : {0.1, 0.5, 0.9}) {
    actpack::dropout(x, y, mask, probability, Rounding::stochastic(5, 6));
    checksum.add(y);
    checksum.add(mask);
    actpack::dropout_backward(x, mask, y, probability);
    checksum.add(y);
  }
  return checksum.value();
}

// Items of one size and of many, few and more than bins are for.
std::uint64_t checksum_of_allocate_bits() {
  Checksum checksum;
  for (const std::size_t items : {7U, 10U, 11U, 12U, 15U, 20U, 30U, 60U, 200U, 5000U}) {
    for (const std::uint32_t sizes : {1U, 4000U}) {
      Generator generator;
      std::vector<double> sensitivity(items);
      std::vector<std::int64_t> numel(items);
      std::int64_t total = 0;
      for (std::size_t i = 0; i < items; ++i) {
        sensitivity[i] = (1 + generator.below(1 << 30)) / 3.0 / (1 + generator.below(1 << 20));
        numel[i] = 1 + generator.below(sizes);
        total += numel[i];
      }
      for (const std::int64_t budget : {5 * total / 4, 2 * total, 3 * total + 1}) {
        const actpack::Allocation allocation = actpack::allocate_bits({sensitivity, numel, budget});
        for (const std::uint8_t bits : allocation.bits) checksum.add(bits, 1);
        checksum.add(static_cast<std::uint64_t>(allocation.bits_used), 8);
        checksum.add(std::bit_cast<std::uint64_t>(allocation.variance), 8);
        checksum.add(std::bit_cast<std::uint64_t>(allocation.lower_bound), 8);
      }
    }
  }
  return checksum.value();
}

int check(const char* name, std::uint64_t got, std::uint64_t expected) {
  std::printf("%-26s %016llx%s\n", name, static_cast<unsigned long long>(got),
              got == expected ? "" : "  DIFFERS");
  return got == expected ? 0 : 1;
}

// The constants change with the format and with nothing else: after such a change, and once the
// tests against the reference pass, copy the checksums that this program prints.
int check_verbs() {
  int wrong = 0;
  wrong += check("quantize float", checksum_of_quantize<float>(), 0xE7CD54847DDF0A0D);
  wrong += check("quantize bfloat16", checksum_of_quantize<bfloat16>(), 0x5B21759A8CD5A75D);
  wrong += check("quantize float16", checksum_of_quantize<float16>(), 0xBDF2642E8A3C1827);
  wrong += check("sign_magnitude float", checksum_of_sign_magnitude<float>(), 0x1E9F941017262958);
  wrong +=
      check("sign_magnitude bfloat16", checksum_of_sign_magnitude<bfloat16>(), 0x4689BDD2AC7428B7);
  wrong +=
      check("sign_magnitude float16", checksum_of_sign_magnitude<float16>(), 0xFB4210335B2238A5);
  wrong += check("masks float", checksum_of_masks<float>(), 0x6CAABDA64E002962);
  wrong += check("masks bfloat16", checksum_of_masks<bfloat16>(), 0xFDC34AB96EC00285);
  wrong += check("masks float16", checksum_of_masks<float16>(), 0x2EAEA3C15977E66A);
  return wrong;
}

}  // namespace

int main() try {
  int wrong = check("allocate_bits", checksum_of_allocate_bits(), 0x79CF5B4CF330154C);
  // Every path of this processor's that the program was compiled with.
  const auto best =
      ACTPACK_X86_KERNELS ? actpack::best_instruction_set() : InstructionSet::portable;
  for (const InstructionSet set :
       {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (set > best) break;
    std::printf("instruction set %d of %d\n", static_cast<int>(set), static_cast<int>(best));
    actpack::use_instruction_set(set);
    wrong += check_verbs();
  }
  return wrong;
} catch (const std::invalid_argument& refusal) {
  std::puts(refusal.what());
  return 1;
}
