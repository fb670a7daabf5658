// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: bit allocation refuses exactly the problems that have no answer; an answer is within its
// limits and budget, costs what it says, is not above the least variance of small problems, nor its
// bound above that; and it is the same in memory of the caller's and at any power of two.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <actpack/bit_allocation.hpp>
#include <actpack/codes.hpp>
#include <actpack/sensitivity.hpp>

#include "allocations.hpp"
#include "fuzz.hpp"

namespace {

using namespace actpack;
using namespace fuzz;

struct Problem {
  bool is_measured;
  std::vector<double> sensitivity;              // unless measured
  std::vector<std::array<double, 4>> variance;  // by width, in either case
  std::vector<std::int64_t> numel;
  std::int64_t bit_budget;
  std::vector<std::uint8_t> min_bits, max_bits;  // empty: 1 and 8

  std::size_t items() const { return numel.size(); }
  int min_of(std::size_t item) const { return min_bits.empty() ? 1 : min_bits[item]; }
  int max_of(std::size_t item) const { return max_bits.empty() ? 8 : max_bits[item]; }
  double variance_of(std::size_t item, int bits) const {
    return variance[item]
                   [static_cast<std::size_t>(std::bit_width(static_cast<unsigned>(bits))) - 1];
  }
  Allocation solve() const {
    if (is_measured)
      return allocate_measured_bits({variance, numel, bit_budget, min_bits, max_bits});
    return allocate_bits({sensitivity, numel, bit_budget, min_bits, max_bits});
  }
  AllocationTotals solve(std::span<std::uint8_t> bits, std::span<std::byte> workspace) const {
    if (is_measured) {
      return allocate_measured_bits({variance, numel, bit_budget, min_bits, max_bits}, bits,
                                    workspace);
    }
    return allocate_bits({sensitivity, numel, bit_budget, min_bits, max_bits}, bits, workspace);
  }
};

// Zero, one of a few, or any size that a sum can bear and whose shares do not underflow.
double ordinary_variance(Input& input) {
  switch (input.between(0, 3)) {
    case 0: return input.between(0, 4);
    case 1: return std::ldexp(1 + input.number<std::uint8_t>() / 256.0, input.between(-700, 940));
    default: return std::ldexp(1 + input.number<std::uint16_t>() / 65536.0, input.between(-10, 10));
  }
}

Problem random_problem(Input& input) {
  Problem problem{};
  problem.is_measured = input.flag();
  const auto items = input.between<std::size_t>(0, input.one_in(4) ? 60 : 6);
  const std::int64_t largest = input.one_in(4) ? std::int64_t{1} << input.between(0, 53) : 40;
  const bool has_equal_sizes = input.flag();
  const bool has_limits = input.flag();
  for (std::size_t i = 0; i < items; ++i) {
    problem.numel.push_back(has_equal_sizes ? largest : input.between<std::int64_t>(1, largest));
    if (problem.is_measured) {
      auto& by_width = problem.variance.emplace_back();
      for (double& v : by_width) v = ordinary_variance(input);
    } else {
      problem.sensitivity.push_back(ordinary_variance(input));
    }
    if (!has_limits) continue;
    const int a = input.pick(widths);
    const int b = input.pick(widths);
    problem.min_bits.push_back(static_cast<std::uint8_t>(std::min(a, b)));
    problem.max_bits.push_back(static_cast<std::uint8_t>(std::max(a, b)));
  }
  std::int64_t least = 0, most = 0;
  for (std::size_t i = 0; i < items; ++i) {
    least += problem.numel[i] * problem.min_of(i);
    most += problem.numel[i] * problem.max_of(i);
  }
  problem.bit_budget = input.one_in(8) ? hostile_integer(input) : input.between(least, most + 1);
  return problem;
}

// Writes the variances of a problem that was not measured.
void write_variances(Problem& problem) {
  if (problem.is_measured) return;
  problem.variance.clear();
  for (const double sensitivity : problem.sensitivity) {
    auto& by_width = problem.variance.emplace_back();
    std::ranges::transform(widths, by_width.begin(),
                           [&](int bits) { return variance_at(sensitivity, bits); });
  }
}

// Makes some numbers hostile.
void damage(Input& input, Problem& problem) {
  if (problem.items() == 0) return;
  const auto item = input.between<std::size_t>(0, problem.items() - 1);
  switch (input.between(0, 6)) {
    case 0:
      (problem.is_measured
           ? input.pick(std::array{&problem.variance[item][0], &problem.variance[item][3]})
           : &problem.sensitivity[item])[0] = hostile_double(input);
      break;
    case 1: problem.numel[item] = hostile_integer(input); break;
    case 2:
      if (!problem.min_bits.empty()) problem.min_bits[item] = input.number<std::uint8_t>();
      break;
    case 3:
      if (!problem.max_bits.empty()) problem.max_bits[item] = input.number<std::uint8_t>();
      break;
    case 4: problem.numel.pop_back(); break;
    case 5:
      if (!problem.min_bits.empty()) problem.min_bits.pop_back();
      break;
    default: problem.bit_budget = hostile_integer(input);
  }
}

// Whether the documentation lets the problem be refused.
bool has_answer(const Problem& problem) {
  const std::size_t items = problem.numel.size();
  if ((problem.is_measured ? problem.variance.size() : problem.sensitivity.size()) != items)
    return false;
  if (!problem.min_bits.empty() && problem.min_bits.size() != items) return false;
  if (!problem.max_bits.empty() && problem.max_bits.size() != items) return false;
  const auto is_variance = [](double v) { return v >= 0 && v <= 0x1p960; };
  __extension__ __int128 sizes = 0, least = 0;
  for (std::size_t i = 0; i < items; ++i) {
    if (problem.is_measured ? !std::ranges::all_of(problem.variance[i], is_variance)
                            : !is_variance(problem.sensitivity[i])) {
      return false;
    }
    if (problem.numel[i] <= 0) return false;
    if (!is_width(problem.min_of(i)) || !is_width(problem.max_of(i)) ||
        problem.min_of(i) > problem.max_of(i)) {
      return false;
    }
    sizes += problem.numel[i];
    least += static_cast<decltype(least)>(problem.numel[i]) * problem.min_of(i);
  }
  return sizes < (std::int64_t{1} << 60) && least <= problem.bit_budget;
}

// The least variance of items [item, …) within `budget`, by trying all widths.
double least_variance(const Problem& problem, std::size_t item, std::int64_t budget) {
  if (item == problem.items()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const int bits : widths) {
    if (bits < problem.min_of(item) || bits > problem.max_of(item)) continue;
    const std::int64_t left = budget - problem.numel[item] * bits;
    if (left < 0) continue;
    least =
        std::min(least, problem.variance_of(item, bits) + least_variance(problem, item + 1, left));
  }
  return least;
}

bool is_normal(const Problem& problem) {
  const auto is_small = [](double v) { return v != 0 && v < 0x1p-780; };
  return std::ranges::none_of(problem.variance,
                              [&](const auto& v) { return std::ranges::any_of(v, is_small); });
}

void check_answer(const Problem& problem, const Allocation& answer) {
  check(answer.bits.size() == problem.items(), "each item gets a width");
  std::int64_t used = 0;
  double variance = 0;
  for (std::size_t i = 0; i < problem.items(); ++i) {
    const int bits = answer.bits[i];
    check(is_width(bits) && bits >= problem.min_of(i) && bits <= problem.max_of(i), "item ", i,
          " of ", bits, " bits is within [", problem.min_of(i), ", ", problem.max_of(i), "]");
    used += problem.numel[i] * bits;
    variance += problem.variance_of(i, bits);
  }
  check(used == answer.bits_used, "bits_used = ", answer.bits_used, " is ", used);
  check(used <= problem.bit_budget, used, " bits are within ", problem.bit_budget);
  if (!is_normal(problem)) return;
  // Some sixty sums of doubles, and the bound's own arithmetic.
  const auto is_at_most = [](double a, double b) { return a <= b * (1 + 1e-12); };
  check(is_at_most(variance, answer.variance) && is_at_most(answer.variance, variance),
        "variance = ", answer.variance, " is ", variance);
  check(is_at_most(answer.lower_bound, answer.variance), "lower_bound = ", answer.lower_bound,
        " is at most variance = ", answer.variance);
  if (problem.items() > 5) return;
  const double best = least_variance(problem, 0, problem.bit_budget);
  check(is_at_most(answer.lower_bound, best), "lower_bound = ", answer.lower_bound, " is at most ",
        best);
  check(is_at_most(answer.variance, best), "variance = ", answer.variance, " is the least, ", best);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  Problem problem = random_problem(input);
  for (int damages = input.one_in(3) ? input.between(1, 3) : 0; damages > 0; --damages)
    damage(input, problem);
  write_variances(problem);
  Allocation answer;
  const bool is_refused = refuses([&] { answer = problem.solve(); });
  check(is_refused != has_answer(problem), "a problem is ", is_refused ? "refused" : "answered");
  const auto items = static_cast<std::int64_t>(problem.items());
  std::size_t needed = 0;
  check(!refuses([&] { needed = allocate_bits_workspace(items); }), "some items have a workspace");
  const bool is_short = input.one_in(8);
  Fenced<std::uint8_t> bits(problem.items() + (is_short && problem.items() == 0 ? 1 : 0),
                            input.between<std::size_t>(0, 7), 0xEE);
  Fenced<std::byte> workspace(is_short && needed > 0 ? needed - 1 : needed,
                              input.between<std::size_t>(0, 63), input.number<std::uint8_t>());
  AllocationTotals totals;
  const bool is_refused_too =
      refuses([&] { totals = problem.solve(bits.span(), workspace.span()); });
  check(is_refused_too == (is_refused || is_short), "the caller's memory changes no refusal");
  if (is_refused_too) {
    check(std::ranges::all_of(bits.span(), [](int b) { return b == 0xEE; }),
          "nothing is written before a refusal");
  }
  if (is_refused) return 0;
  if (!is_short) {
    check(std::ranges::equal(bits.span(), answer.bits) && totals.bits_used == answer.bits_used &&
              totals.variance == answer.variance && totals.lower_bound == answer.lower_bound,
          "the caller's memory changes no answer");
  }
  check_answer(problem, answer);
  // At another power of two, as long as nothing leaves the range of normal numbers.
  const double scale = std::ldexp(1, input.between(-60, 20));
  Problem scaled = problem;
  for (double& s : scaled.sensitivity) s *= scale;
  for (auto& by_width : scaled.variance) {
    for (double& v : by_width) v *= scale;
  }
  if (is_normal(problem) && has_answer(scaled)) {
    check(scaled.solve().bits == answer.bits, "a power of two changes no width");
  }
  return 0;
}
