// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of bit allocation on one thread, beside std::sort of the same sensitivities in the same
// process, and how far from the least variance the widths can be.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "actpack/actpack.hpp"

namespace {

using namespace actpack;

/// Log-uniform over six decades: what channels and layers of a network are at worst.
std::vector<double> spread_sensitivities(std::size_t items) {
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<double> exponent(-3, 3);
  std::vector<double> sensitivity(items);
  std::ranges::generate(sensitivity, [&] { return std::pow(10.0, exponent(generator)); });
  return sensitivity;
}

std::vector<std::int64_t> mixed_sizes(std::size_t items) {
  std::mt19937_64 generator(2);
  std::uniform_int_distribution<std::int64_t> size(1, 4096);
  std::vector<std::int64_t> numel(items);
  std::ranges::generate(numel, [&] { return size(generator); });
  return numel;
}

std::int64_t two_bits_on_average(std::span<const std::int64_t> numel) {
  return 2 * std::accumulate(numel.begin(), numel.end(), std::int64_t{0});
}

/// Seconds that sorting a copy of `values` takes: the median of several.
double sort_seconds(const std::vector<double>& values) {
  std::array<double, 5> seconds{};
  for (double& s : seconds) {
    std::vector<double> sorted = values;
    const auto start = std::chrono::steady_clock::now();
    std::ranges::sort(sorted);
    benchmark::DoNotOptimize(sorted.data());
    benchmark::ClobberMemory();
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::ranges::nth_element(seconds, seconds.begin() + 2);
  return seconds[2];
}

/// Runs allocate(bits, workspace), which returns what the widths come to; reports the time of an
/// item, how much faster than sorting `sensitivity` that is, and by what share of the lower bound
/// the variance may be above the least.
template <class Allocate>
void measure(benchmark::State& state, const std::vector<double>& sensitivity, Allocate allocate) {
  const double sort = sort_seconds(sensitivity);
  std::vector<std::uint8_t> bits(sensitivity.size());
  std::vector<std::byte> workspace(
      allocate_bits_workspace(static_cast<std::int64_t>(sensitivity.size())));
  AllocationTotals totals;
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    totals = allocate(bits, workspace);
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const double seconds = elapsed.count() / static_cast<double>(state.iterations());
  state.counters["ns_per_item"] = 1e9 * seconds / static_cast<double>(sensitivity.size());
  state.counters["vs_sort"] = sort / seconds;
  state.counters["gap"] = totals.variance / totals.lower_bound - 1;
}

void allocate(benchmark::State& state, const std::vector<double>& sensitivity,
              const std::vector<std::int64_t>& numel) {
  const AllocationProblem problem{
      .sensitivity = sensitivity, .numel = numel, .bit_budget = two_bits_on_average(numel)};
  measure(state, sensitivity, [&](std::span<std::uint8_t> bits, std::span<std::byte> workspace) {
    return allocate_bits(problem, bits, workspace);
  });
}

std::size_t num_items(const benchmark::State& state) {
  return static_cast<std::size_t>(state.range(0));
}

void equal_sizes_bench(benchmark::State& state) {
  const std::size_t items = num_items(state);
  allocate(state, spread_sensitivities(items), std::vector<std::int64_t>(items, 256));
}

void mixed_sizes_bench(benchmark::State& state) {
  const std::size_t items = num_items(state);
  allocate(state, spread_sensitivities(items), mixed_sizes(items));
}

/// Items that are all alike leave nothing to decide by.
void equal_sensitivities_bench(benchmark::State& state) {
  const std::size_t items = num_items(state);
  allocate(state, std::vector<double>(items, 1.0), std::vector<std::int64_t>(items, 256));
}

/// Variances as measurements give them: up to half off the formula, so that some are not convex.
void measured_bench(benchmark::State& state) {
  const std::size_t items = num_items(state);
  const std::vector<double> sensitivity = spread_sensitivities(items);
  std::mt19937_64 generator(3);
  std::uniform_real_distribution<double> factor(0.5, 1.5);
  std::vector<std::array<double, 4>> variance(items);
  for (std::size_t i = 0; i < items; ++i) {
    std::ranges::transform(widths, variance[i].begin(), [&](int width) {
      return factor(generator) * variance_at(sensitivity[i], width);
    });
  }
  const std::vector<std::int64_t> numel(items, 256);
  const MeasuredAllocationProblem problem{
      .variance = variance, .numel = numel, .bit_budget = two_bits_on_average(numel)};
  measure(state, sensitivity, [&](std::span<std::uint8_t> bits, std::span<std::byte> workspace) {
    return allocate_measured_bits(problem, bits, workspace);
  });
}

/// A tensor's rows, a network's rows, a network's groups.
void counts(benchmark::internal::Benchmark* bench) {
  bench->ArgName("items")->Arg(128)->Arg(1 << 14)->Arg(1 << 18)->Arg(1'000'000);
}

BENCHMARK(equal_sizes_bench)->Name("allocate_bits_bench/equal_sizes")->Apply(counts);
BENCHMARK(mixed_sizes_bench)->Name("allocate_bits_bench/sizes_to_4096")->Apply(counts);
BENCHMARK(equal_sensitivities_bench)
    ->Name("allocate_bits_bench/equal_sensitivities")
    ->ArgName("items")
    ->Arg(1'000'000);
BENCHMARK(measured_bench)->Name("allocate_measured_bits_bench")->ArgName("items")->Arg(1 << 14);

}  // namespace

BENCHMARK_MAIN();
