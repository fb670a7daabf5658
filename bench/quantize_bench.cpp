// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of quantizing and dequantizing on one thread.
#include <cstdint>
#include <initializer_list>
#include <string>

#include "actpack/quantize.hpp"
#include "support/rows.hpp"
#include "support/tensors.hpp"

namespace {

using namespace actpack;
using namespace bench;

template <class T>
void quantize_bench(benchmark::State& state, std::int64_t numel, int bits, Data data,
                    Rounding rounding) {
  const Buffer<T> x = make_tensor<T>(data, numel);
  Packed packed(numel, bits);
  measure_tensor(state, bytes_of(x), Access::reads,
                 [&] { quantize(x.span(), packed.view(), rounding); });
  state.counters["bits_per_value"] = packed.view().layout.bits_per_value();
}

template <class T>
void dequantize_bench(benchmark::State& state, std::int64_t numel, int bits, bool is_subtractive) {
  const Rounding rounding = Rounding::stochastic(1);
  Buffer<T> x = make_tensor<T>(Data::relu, numel);
  Packed packed(numel, bits);
  quantize(x.span(), packed.view(), rounding);
  const Decoding decoding = is_subtractive ? Decoding::subtractive(rounding) : Decoding::plain();
  measure_tensor(state, bytes_of(x), Access::writes,
                 [&] { dequantize(packed.view(), x.span(), decoding); });
  state.counters["bits_per_value"] = packed.view().layout.bits_per_value();
}

template <class T>
void add_quantize(const std::string& variant, std::initializer_list<int> widths, Data data,
                  Rounding rounding) {
  add<T>("quantize/" + variant, widths, [=](benchmark::State& state, std::int64_t numel, int bits) {
    quantize_bench<T>(state, numel, bits, data, rounding);
  });
}

template <class T>
void add_type(std::initializer_list<int> widths) {
  const Rounding stochastic = Rounding::stochastic(1);
  add_quantize<T>("stochastic", widths, Data::relu, stochastic);
  add_quantize<T>("nearest", widths, Data::relu, Rounding::nearest());
  add<T>("dequantize/plain", widths, [](benchmark::State& state, std::int64_t numel, int bits) {
    dequantize_bench<T>(state, numel, bits, false);
  });
  add<T>("dequantize/subtractive", widths,
         [](benchmark::State& state, std::int64_t numel, int bits) {
           dequantize_bench<T>(state, numel, bits, true);
         });
}

void add_rows() {
  add_type<float>(every_width);
  add_quantize<float>("stochastic/normal", {2}, Data::normal, Rounding::stochastic(1));
  add_type<bfloat16>({2});
  add_type<float16>({2});
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
