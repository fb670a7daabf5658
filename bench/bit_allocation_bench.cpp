// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of bit allocation on one thread, beside std::sort of the same sensitivities in the same
// process, and how far from the least variance the widths can be.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "actpack/bit_allocation.hpp"
#include "actpack/variance.hpp"
#include "support/measure.hpp"
#include "support/rows.hpp"

namespace {

using namespace actpack;

/// Log-uniform over six decades: the widest spread of a network's channels and layers.
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

/// Times allocate(bits, workspace), which returns the totals of the widths. Reports the time per
/// item, the speed relative to sorting `sensitivity`, and by what share of the lower bound the
/// variance may exceed the least.
template <class Allocate>
void measure_allocation(benchmark::State& state, const std::vector<double>& sensitivity,
                        Allocate allocate) {
  std::vector<std::uint8_t> bits(sensitivity.size());
  std::vector<std::byte> workspace(
      allocate_bits_workspace(static_cast<std::int64_t>(sensitivity.size())));
  std::vector<double> sorted;
  AllocationTotals totals;
  const double seconds = bench::measure(state, [&] { totals = allocate(bits, workspace); },
                                        {{"sort", [&] {
                                            sorted = sensitivity;
                                            std::ranges::sort(sorted);
                                          }}});
  state.counters["ns_per_item"] = 1e9 * seconds / static_cast<double>(sensitivity.size());
  state.counters["gap"] = totals.variance / totals.lower_bound - 1;
}

void allocate(benchmark::State& state, const std::vector<double>& sensitivity,
              const std::vector<std::int64_t>& numel) {
  const AllocationProblem problem{
      .sensitivity = sensitivity, .numel = numel, .bit_budget = two_bits_on_average(numel)};
  measure_allocation(state, sensitivity,
                     [&](std::span<std::uint8_t> bits, std::span<std::byte> workspace) {
                       return allocate_bits(problem, bits, workspace);
                     });
}

void equal_sizes_bench(benchmark::State& state, std::size_t items) {
  allocate(state, spread_sensitivities(items), std::vector<std::int64_t>(items, 256));
}

void mixed_sizes_bench(benchmark::State& state, std::size_t items) {
  allocate(state, spread_sensitivities(items), mixed_sizes(items));
}

/// Equal items: every choice is a tie.
void equal_sensitivities_bench(benchmark::State& state, std::size_t items) {
  allocate(state, std::vector<double>(items, 1.0), std::vector<std::int64_t>(items, 256));
}

/// Variances as measurements give them: up to half off the formula, so that some are not convex.
void measured_bench(benchmark::State& state, std::size_t items) {
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
  measure_allocation(state, sensitivity,
                     [&](std::span<std::uint8_t> bits, std::span<std::byte> workspace) {
                       return allocate_measured_bits(problem, bits, workspace);
                     });
}

using Problem = void (*)(benchmark::State&, std::size_t);

void add_problem(const std::string& name, Problem problem, std::initializer_list<int> counts) {
  for (const int items : counts) {
    bench::add_row(name + "/items:" + std::to_string(items), [=](benchmark::State& state) {
      problem(state, static_cast<std::size_t>(items));
    });
  }
}

/// A tensor's rows, a network's rows, a network's groups.
void add_rows() {
  const std::initializer_list<int> counts{128, 1 << 14, 1 << 18, 1'000'000};
  add_problem("allocate_bits/equal_sizes", equal_sizes_bench, counts);
  add_problem("allocate_bits/sizes_to_4096", mixed_sizes_bench, counts);
  add_problem("allocate_bits/equal_sensitivities", equal_sensitivities_bench, {1'000'000});
  add_problem("allocate_measured_bits", measured_bench, {1 << 14});
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
