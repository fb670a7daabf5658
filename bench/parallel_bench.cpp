// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The speed-up of every verb by two threads, in loops of OpenMP.
#include <omp.h>

#include <cstdint>

#include "actpack/quantize.hpp"
#include "support/rows.hpp"
#include "support/tensors.hpp"

namespace {

using namespace actpack;
using namespace bench;

constexpr Rounding rounding = Rounding::stochastic(1);

/// Measures verb(loop) with a loop of two threads, against the calling thread alone.
template <class Verb>
void compare(benchmark::State& state, const Buffer<float>& x, Verb verb) {
  const auto parallel = [](std::int64_t count, const auto& body) {
#pragma omp parallel for num_threads(2)
    for (std::int64_t i = 0; i < count; ++i) {
      body(i);
    }
  };
  const double seconds =
      measure(state, [&] { verb(parallel); }, {{"one_thread", [&] { verb(Serial{}); }}});
  state.counters["bytes_per_second"] = static_cast<double>(bytes_of(x)) / seconds;
}

void add_rows() {
  add<float>("quantize/stochastic/threads:2", {2},
             [](benchmark::State& state, std::int64_t numel, int bits) {
               const Buffer<float> x = make_tensor<float>(Data::relu, numel);
               Packed packed(numel, bits);
               compare(state, x, [&](auto parallel) {
                 quantize(x.span(), packed.view(), rounding, parallel);
               });
             });
  add<float>("dequantize/subtractive/threads:2", {2},
             [](benchmark::State& state, std::int64_t numel, int bits) {
               Buffer<float> x = make_tensor<float>(Data::relu, numel);
               Packed packed(numel, bits);
               quantize(x.span(), packed.view(), rounding);
               compare(state, x, [&](auto parallel) {
                 dequantize(packed.view(), x.span(), Decoding::subtractive(rounding), parallel);
               });
             });
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
