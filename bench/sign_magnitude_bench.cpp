// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of the sign-magnitude context on one thread.
#include <cstdint>
#include <initializer_list>
#include <string>

#include "actpack/sign_magnitude.hpp"
#include "support/rows.hpp"
#include "support/tensors.hpp"

namespace {

using namespace actpack;
using namespace bench;

template <class T>
void encode_bench(benchmark::State& state, std::int64_t numel, int bits, Rounding rounding) {
  const Buffer<T> y = make_tensor<T>(Data::normal, numel);
  SignMagnitude context(numel, bits);
  measure_tensor(state, bytes_of(y), Access::reads,
                 [&] { encode(y.span(), context.view(), rounding); });
  state.counters["bits_per_value"] = context.bits_per_value();
}

/// Measures read(context, y), which writes the tensor y; `rounding` is what the context was encoded
/// with.
template <class T, class Read>
void consumer_bench(benchmark::State& state, std::int64_t numel, int bits, Access access,
                    Read read) {
  const Rounding rounding = Rounding::stochastic(1);
  Buffer<T> y = make_tensor<T>(Data::normal, numel);
  SignMagnitude context(numel, bits);
  encode(y.span(), context.view(), rounding);
  measure_tensor(state, bytes_of(y), access, [&] { read(context.view(), y, rounding); });
  state.counters["bits_per_value"] = context.bits_per_value();
}

template <class T, class Read>
void add_consumer(const std::string& name, std::initializer_list<int> widths, Access access,
                  Read read) {
  add<T>("sign_magnitude_" + name, widths,
         [=](benchmark::State& state, std::int64_t numel, int bits) {
           consumer_bench<T>(state, numel, bits, access, read);
         });
}

template <class T>
void add_type(std::initializer_list<int> widths) {
  for (const bool is_stochastic : {true, false}) {
    const Rounding rounding = is_stochastic ? Rounding::stochastic(1) : Rounding::nearest();
    add<T>(std::string("sign_magnitude_encode/") + (is_stochastic ? "stochastic" : "nearest"),
           widths, [=](benchmark::State& state, std::int64_t numel, int bits) {
             encode_bench<T>(state, numel, bits, rounding);
           });
  }
  add_consumer<T>(
      "decode/plain", widths, Access::writes,
      [](const SignMagnitudeView& context, Buffer<T>& y, Rounding) { decode(context, y.span()); });
  add_consumer<T>("decode/subtractive", widths, Access::writes,
                  [](const SignMagnitudeView& context, Buffer<T>& y, Rounding rounding) {
                    decode(context, y.span(), Decoding::subtractive(rounding));
                  });
  add_consumer<T>("decode_relu/plain", widths, Access::writes,
                  [](const SignMagnitudeView& context, Buffer<T>& y, Rounding) {
                    decode_relu(context, y.span());
                  });
  add_consumer<T>("decode_relu/subtractive", widths, Access::writes,
                  [](const SignMagnitudeView& context, Buffer<T>& y, Rounding rounding) {
                    decode_relu(context, y.span(), Decoding::subtractive(rounding));
                  });
  // In place, as trainers do it.
  add_consumer<T>("relu_backward", {2}, Access::both,
                  [](const SignMagnitudeView& context, Buffer<T>& dy, Rounding) {
                    relu_backward(dy.span(), context, dy.span());
                  });
}

void add_rows() {
  add_type<float>(every_width);
  add_type<bfloat16>({2});
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
