// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A user's program that calls every host verb once for each instruction set, on data made of bits.
// Prints the set and a checksum of all words, decoded values and widths, and fails unless it is the
// one below, whatever the program was compiled with.
#include <actpack/actpack.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

// As users do it: no name of ours may be in the way of these two.
using namespace std;
using namespace actpack;

namespace {

constexpr uint64_t expected = 0x92014A558299A6B0;  // changes with the format and with nothing else

using Words = vector<uint32_t>;
using Floats = vector<float>;

uint64_t checksum = 0;

// FNV-1a, 64 bits, of the objects' bytes.
template <class T>
void add(const T* values, size_t count) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(values);
  for (size_t i = 0; i < count * sizeof(T); ++i) {
    checksum = (checksum ^ bytes[i]) * 0x100000001B3;
  }
}
template <class T>
void add(const vector<T>& values) {
  add(values.data(), values.size());
}

const Layout layout{.rows = 3, .row_size = 1000, .group_size = 256, .bits = 2};
const Rounding rounding = Rounding::stochastic(7, 11);
const auto size_of_tensor = static_cast<size_t>(layout.numel());

Floats make_data() {
  Floats x(size_of_tensor);
  uint32_t state = 1;
  for (float& value : x) {
    state = state * 1664525 + 1013904223;
    const uint32_t exponent = 124 + (state >> 9) % 5;
    const uint32_t bits = (state & 0x80000000) | exponent << 23 | (state >> 3 & 0x7FFFFF);
    memcpy(&value, &bits, sizeof value);
  }
  return x;
}

void add_affine(const Floats& x) {
  const array<uint8_t, 3> row_bits{1, 8, 4};
  for (const bool by_row : {false, true}) {
    PackedBuffer packed =
        by_row ? PackedBuffer(layout.with_bits(8), row_bits) : PackedBuffer(layout);
    quantize(x, packed.view(), rounding);
    const PackedView view = packed.view();
    add(view.words, static_cast<size_t>(by_row ? view.row_offsets[3] : layout.num_words()));
    add(view.params, static_cast<size_t>(layout.num_groups()));
    Floats y(x.size());
    dequantize(packed.view(), y, Decoding::plain());
    add(y);
    dequantize(packed.view(), y, Decoding::subtractive(rounding));
    add(y);
  }
}

void add_sign_magnitude(const Floats& x) {
  SignMagnitudeBuffer packed(layout);
  encode(x, packed.view(), rounding);
  add(packed.view().sign_words, static_cast<size_t>(layout.with_bits(1).num_words()));
  add(packed.view().magnitude_words, static_cast<size_t>(layout.num_words()));
  Floats y(x.size());
  decode(packed.view(), y);
  add(y);
  decode_relu(packed.view(), y);
  add(y);
  relu_backward(x, packed.view(), y);
  add(y);
  decode_keeping_signs(packed.view(), span<float>(y));
  add(y);
}

void add_masks(const Floats& x) {
  Floats y(x.size());
  Words mask(static_cast<size_t>(words_for(layout.numel(), 1)));
  make_mask(x, mask, [](float value) { return fabs(value) > 1; });
  add(mask);
  relu(x, y, mask);
  add(mask);
  relu_backward(x, mask, y);
  add(y);
  dropout(x, y, mask, 0.25, rounding);
  add(mask);
  dropout_backward(x, mask, y, 0.25);
  add(y);
}

void add_codes() {
  vector<uint8_t> codes(100);
  iota(codes.begin(), codes.end(), uint8_t{0});
  Words words(static_cast<size_t>(words_for(100, 8)));
  pack(codes, 8, words);
  add(words);
  unpack(words, 8, codes);
  add(codes);
}

// Not compared: the values of batch normalisation are not part of the format.
void run_batch_norm(const Floats& x) {
  const array<float, 2> mean{}, variance{1, 1};
  array<batch_norm::Channel, 2> by_channel{};
  array<float, 2> gamma_gradient{}, beta_gradient{};
  const batch_norm::Operation operation{.channels = {.count = 2, .inner = 10},
                                        .saved = batch_norm::SavedValue::output,
                                        .mean = mean.data(),
                                        .variance = variance.data(),
                                        .by_channel = by_channel.data()};
  SignMagnitudeBuffer packed(layout);
  Floats y(x.size());
  batch_norm::forward(operation, span<const float>(x), packed.view(), rounding, span<float>(y));
  batch_norm::backward(operation, span<const float>(x),
                       batch_norm::SavedSigns{packed.view(), Decoding::plain()}, layout.numel() / 2,
                       gamma_gradient.data(), beta_gradient.data(), span<float>(y));
}

void add_widths(const Floats& x) {
  const vector<double> sensitivity{1, 50, 3, 1000};
  const vector<int64_t> numel{100, 100, 300, 50};
  add(allocate_bits({.sensitivity = sensitivity, .numel = numel, .bit_budget = 1200}).bits);

  AutoPrecision precision({.average_bits = 3});
  const size_t tensor = precision.add_tensor(layout);
  vector<array<double, 4>> noise(static_cast<size_t>(layout.rows));
  for (size_t row = 0; row < noise.size(); ++row) {
    noise[row] = measure_rounding_noise(span(x).subspan(1000 * row, 1000)).plain;
  }
  precision.observe_noise(tensor, noise);
  precision.observe_gains(tensor, vector<double>{1, 100, 10000});
  precision.step();
  precision.restore(precision.save());
  const span<const uint8_t> bits = precision.row_bits(tensor);
  add(bits.data(), bits.size());
}

}  // namespace

int main() {
  const Floats x = make_data();
  bool right = true;
  for (const InstructionSet set :
       {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (set <= best_instruction_set()) {
      use_instruction_set(set);
      checksum = 0xCBF29CE484222325;
      add_affine(x);
      add_sign_magnitude(x);
      add_masks(x);
      add_codes();
      run_batch_norm(x);
      add_widths(x);
      printf("instruction set %d: %016llx%s\n", static_cast<int>(set),
             static_cast<unsigned long long>(checksum), checksum == expected ? "" : ", WRONG");
      right = right && checksum == expected;
    }
  }
  return right ? 0 : 1;
}
