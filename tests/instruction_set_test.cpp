// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compares every instruction set of this processor with the portable path, byte for byte: masks,
// dropout, packing, and tensors that no cache holds. Groups have a file of their own. The verbs'
// own tests check the portable path.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/instruction_set.hpp>
#include <actpack/mask.hpp>
#include <actpack/philox.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/config_grid.hpp"
#include "support/instruction_sets.hpp"
#include "support/same_everywhere.hpp"

namespace {

using namespace same_everywhere;
using actpack::Decoding;
using actpack::GroupParams;
using actpack::PackedView;
using actpack::SignMagnitudeParams;
using actpack::SignMagnitudeView;

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
  // The last one keeps an element of 2^32. In every other case one element has the first word that
  // is dropped.
  constexpr std::array probabilities{0.0, 0.1, 0.5, 0.75, 0.999, 1e-12, 1 - 1e-11};
  double drop = probabilities[generator.below(7)];
  if (generator.below(2) == 0) {
    const std::int64_t element = first + std::max(size - 1, INT64_C(0)) / 2;
    const std::uint64_t index =
        actpack::detail::call_index(actpack::NoiseDomain::dropout, element / 4);
    const std::uint32_t word =
        actpack::philox4x32(index, rounding.offset, rounding.seed).word[element % 4];
    drop = 1 - word * 0x1p-32;
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

TEST_CASE_TEMPLATE("masks: any size and data", T, float, bfloat16, float16) {
  std::vector<std::int64_t> all = sizes();
  all.insert(all.end(), {0, 4097, 65537});
  std::uint64_t seed = 50000;
  for (const std::int64_t size : all) {
    for (std::uint32_t kind = 0; kind < all_kinds; ++kind) {
      if (support::is_left_out(++seed) || (size > 5000 && kind % 7 != 0)) continue;
      CAPTURE(size);
      CAPTURE(kind);
      CAPTURE(seed);
      check_masks(make<T>(kind, Case{Layout{1, size, 64, 2}, Rounding::nearest(), seed}), seed);
    }
  }
}

// Decoding writes 32 MiB and more past the caches, if the output starts at a cache line.
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
  for (const std::size_t beyond_line : {std::size_t{0}, std::size_t{1}, line / 2}) {
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
