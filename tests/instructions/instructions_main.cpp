// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Calls every host verb once for callgrind to count its instructions: count_instructions.py runs
// this program and reads the counts.
#include <valgrind/callgrind.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/instruction_set.hpp"
#include "actpack/mask.hpp"
#include "actpack/packed.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"

namespace {

using namespace actpack;

constexpr std::int64_t rows = 4;
constexpr std::int64_t row_size = 4096;  // whole groups; a call's own cost is lost among them
constexpr Rounding stochastic = Rounding::stochastic(7, 9);

// Both signs, different in every group, and no randomness that another library could change.
template <class T>
std::vector<T> make_values() {
  std::vector<T> values;
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < rows * row_size; ++i) {
    state = state * 1664525 + 1013904223;
    values.push_back(T(static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-30f));
  }
  return values;
}

// Attributes to `name` what one call costs.
template <class Verb>
void count(const std::string& name, const Verb& verb) {
  CALLGRIND_ZERO_STATS;
  verb();
  CALLGRIND_DUMP_STATS_AT(name.c_str());
}

template <class T>
void count_packed(const std::string& set, const std::string& type, int bits) {
  const auto name = [&](const char* verb) {
    return set + " " + verb + " " + type + " " + std::to_string(bits);
  };
  const Layout layout{.rows = rows, .row_size = row_size, .bits = bits};
  const std::vector<T> x = make_values<T>();
  std::vector<T> y(x.size());

  PackedBuffer packed(layout);
  count(name("quantize"), [&] { quantize(x, packed.view(), stochastic); });
  count(name("quantize_nearest"), [&] { quantize(x, packed.view(), Rounding::nearest()); });
  count(name("dequantize"), [&] { dequantize(packed.view(), y); });
  const Decoding subtractive = Decoding::subtractive(stochastic);
  count(name("dequantize_subtractive"), [&] { dequantize(packed.view(), y, subtractive); });

  SignMagnitudeBuffer context(layout);
  count(name("encode"), [&] { encode(x, context.view(), stochastic); });
  count(name("decode"), [&] { decode(context.view(), y); });
  count(name("decode_subtractive"), [&] { decode(context.view(), y, subtractive); });
  count(name("decode_relu"), [&] { decode_relu(context.view(), y); });
}

template <class T>
void count_masks(const std::string& set, const std::string& type) {
  const auto name = [&](const char* verb) { return set + " " + verb + " " + type + " 1"; };
  const std::vector<T> x = make_values<T>();
  std::vector<T> y(x.size());
  std::vector<std::uint32_t> mask(x.size() / 32);
  count(name("relu"), [&] { relu(x, y, mask); });
  count(name("relu_backward"), [&] { relu_backward(x, mask, y); });
  count(name("dropout"), [&] { dropout(x, y, mask, 0.5, stochastic); });
  count(name("dropout_backward"), [&] { dropout_backward(x, mask, y, 0.5); });
}

template <class T>
void count_verbs(const std::string& set, const std::string& type) {
  for (const int bits : {1, 2, 4, 8}) {
    count_packed<T>(set, type, bits);
  }
  count_masks<T>(set, type);
}

}  // namespace

// Its output tells the script what the counts are of.
int main() {
#if defined(__clang__)
  std::printf("compiler clang %s\n", __clang_version__);
#else
  std::printf("compiler gcc %s\n", __VERSION__);
#endif
  std::printf("elements %lld\n", static_cast<long long>(rows * row_size));
  for (const auto& [set, name] :
       {std::pair(InstructionSet::portable, "portable"), std::pair(InstructionSet::avx2, "avx2")}) {
    if (set <= best_instruction_set()) {
      use_instruction_set(set);
      count_verbs<float>(name, "float");
      count_verbs<bfloat16>(name, "bfloat16");
    }
  }
}
