// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of the host verbs on one thread, beside memcpy of the same floats in the same process.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "actpack/actpack.hpp"

namespace {

using namespace actpack;

std::vector<float> gaussian(std::int64_t numel) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(numel));
  std::ranges::generate(x, [&] { return normal(generator); });
  return x;
}

/// Seconds that one memcpy of `x` takes: the median of several.
double copy_seconds(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  std::vector<double> seconds(21);
  for (double& s : seconds) {
    const auto start = std::chrono::steady_clock::now();
    std::memcpy(y.data(), x.data(), x.size() * sizeof(float));
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::ranges::nth_element(seconds, seconds.begin() + 10);
  return seconds[10];
}

/// Runs `work`, which handles all of `x` once; reports values and how much faster than a copy it
/// is.
template <class Work>
void measure(benchmark::State& state, const std::vector<float>& x, Work work) {
  const double copy = copy_seconds(x);
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    work();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(x.size()));
  state.counters["vs_copy"] = copy * static_cast<double>(state.iterations()) / elapsed.count();
}

constexpr std::int64_t row_size = 1 << 14;

void quantize_bench(benchmark::State& state, Rounding rounding) {
  const std::vector<float> x = gaussian(state.range(1));
  PackedBuffer packed(Layout{.rows = state.range(1) / row_size,
                             .row_size = row_size,
                             .bits = static_cast<std::int32_t>(state.range(0))});
  measure(state, x, [&] { quantize(x, packed.view(), rounding); });
}

void dequantize_bench(benchmark::State& state, bool is_subtractive) {
  const Rounding rounding = Rounding::stochastic(1);
  std::vector<float> x = gaussian(state.range(1));
  PackedBuffer packed(Layout{.rows = state.range(1) / row_size,
                             .row_size = row_size,
                             .bits = static_cast<std::int32_t>(state.range(0))});
  quantize(x, packed.view(), rounding);
  const Decoding decoding = is_subtractive ? Decoding::subtractive(rounding) : Decoding::plain();
  measure(state, x, [&] { dequantize(packed.view(), x, decoding); });
}

void encode_bench(benchmark::State& state) {
  const std::vector<float> y = gaussian(state.range(1));
  SignMagnitudeBuffer context(Layout{.rows = state.range(1) / row_size,
                                     .row_size = row_size,
                                     .bits = static_cast<std::int32_t>(state.range(0))});
  measure(state, y, [&] { encode(y, context.view(), Rounding::stochastic(1)); });
}

void decode_bench(benchmark::State& state) {
  const Rounding rounding = Rounding::stochastic(1);
  std::vector<float> y = gaussian(state.range(1));
  SignMagnitudeBuffer context(Layout{.rows = state.range(1) / row_size,
                                     .row_size = row_size,
                                     .bits = static_cast<std::int32_t>(state.range(0))});
  encode(y, context.view(), rounding);
  measure(state, y, [&] { decode(context.view(), y, Decoding::subtractive(rounding)); });
}

/// Every width, in cache (1 MiB of floats) and out of it (64 MiB).
void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"bits", "numel"})->ArgsProduct({{1, 2, 4, 8}, {1 << 18, 1 << 24}});
}

BENCHMARK_CAPTURE(quantize_bench, stochastic, Rounding::stochastic(1))->Apply(sizes);
BENCHMARK_CAPTURE(quantize_bench, nearest, Rounding::nearest())->Apply(sizes);
BENCHMARK_CAPTURE(dequantize_bench, plain, false)->Apply(sizes);
BENCHMARK_CAPTURE(dequantize_bench, subtractive, true)->Apply(sizes);
BENCHMARK(encode_bench)->Name("sign_magnitude_encode_bench/stochastic")->Apply(sizes);
BENCHMARK(decode_bench)->Name("sign_magnitude_decode_bench/subtractive")->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
