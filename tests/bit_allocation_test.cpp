// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks bit allocation against exhaustive search and a table over budgets, and its promises on
// problems too large for either.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <limits>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "support/allocation_reference.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"

// Every allocation is counted, but under ThreadSanitizer, which has operators of its own and lets
// none replace them.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ACTPACK_TEST_COUNTS_NOTHING
#endif
#endif

namespace {

std::int64_t news = 0;

}  // namespace

#ifndef ACTPACK_TEST_COUNTS_NOTHING
namespace {

void* counted(std::size_t size) {
  ++news;
  return std::malloc(size == 0 ? 1 : size);
}

}  // namespace

// std::stable_sort takes its buffer by the second of these. Not inlined, or gcc 12 takes a free()
// that it sees in a destructor for one that no malloc() belongs to.
[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const memory = counted(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return counted(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
#endif

namespace {

using actpack::Allocation;
using actpack::AllocationProblem;
using actpack::AllocationTotals;
using actpack::MeasuredAllocationProblem;
using reference::AllocationInstance;
using reference::Limits;
using reference::Noise;
using reference::Sizes;
using support::GuardedBuffer;

// The promise. Two orders of summing 1000 non-negative numbers, the most that a least variance here
// is the sum of, differ by 1000 * 2^-52 = 2.2e-13 of it at most.
constexpr double tolerance = 1e-12;

bool is_close(double got, double expected) {
  return std::fabs(got - expected) <= tolerance * expected;
}

AllocationProblem problem_of(const AllocationInstance& instance) {
  return {instance.sensitivity, instance.numel, instance.bit_budget, instance.min_bits,
          instance.max_bits};
}

MeasuredAllocationProblem measured_problem_of(const AllocationInstance& instance) {
  return {instance.variance, instance.numel, instance.bit_budget, instance.min_bits,
          instance.max_bits};
}

// In the form the instance is made for.
Allocation solve(const AllocationInstance& instance) {
  return instance.sensitivity.empty()
             ? actpack::allocate_measured_bits(measured_problem_of(instance))
             : actpack::allocate_bits(problem_of(instance));
}

AllocationTotals solve(const AllocationInstance& instance, std::span<std::uint8_t> bits,
                       std::span<std::byte> workspace) {
  return instance.sensitivity.empty()
             ? actpack::allocate_measured_bits(measured_problem_of(instance), bits, workspace)
             : actpack::allocate_bits(problem_of(instance), bits, workspace);
}

std::size_t workspace_for(const AllocationInstance& instance) {
  return actpack::allocate_bits_workspace(static_cast<std::int64_t>(instance.items()));
}

void check_feasible(const AllocationInstance& instance, const Allocation& answer) {
  REQUIRE(answer.bits.size() == instance.items());
  bool widths_allowed = true;
  for (std::size_t i = 0; i < answer.bits.size(); ++i) {
    const std::uint8_t bits = answer.bits[i];
    widths_allowed = widths_allowed && std::has_single_bit(bits) && bits >= instance.min_of(i) &&
                     bits <= instance.max_of(i);
  }
  REQUIRE(widths_allowed);
  CHECK(answer.bits_used == reference::bits_used(instance, answer.bits));
  CHECK(answer.bits_used <= instance.bit_budget);
  CHECK(is_close(answer.variance, reference::variance_of(instance, answer.bits)));
  CHECK(answer.lower_bound <= answer.variance);
}

// An exact answer is a proven one, hence the bound.
void check_optimal(const AllocationInstance& instance, const Allocation& answer, double least) {
  check_feasible(instance, answer);
  CHECK(is_close(answer.variance, least));
  CHECK(is_close(answer.lower_bound, least));
}

// Of every kind with these noises, those that are solved exactly whatever the number of items, and
// the others with few.
template <class Noises, class Test>
void for_each_exact_instance(const Noises& noises, Test test) {
  for_each_kind(noises, [&](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
    for (const std::size_t items : {2U, 5U, 8U, 100U}) {
      if (items > 8 && sizes != Sizes::equal) continue;
      CAPTURE(items);
      test(reference::make_instance(sizes, noise, limits, items, seed + items));
    }
  });
}

bool all_are_zero(const AllocationInstance& instance) {
  return std::ranges::all_of(instance.sensitivity, [](double c) { return c == 0; });
}

AllocationInstance identical_items(std::size_t items, std::int64_t size, double sensitivity) {
  AllocationInstance instance;
  instance.sensitivity.assign(items, sensitivity);
  instance.variance.assign(items, reference::variance_by_width(sensitivity));
  instance.numel.assign(items, size);
  return instance;
}

}  // namespace

// ---- The least variance -----------------------------------------------------------------------

TEST_CASE("allocate_bits: exhaustive search and the table over budgets agree") {
  for_each_kind(reference::all_noises,
                [](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
                  if (sizes == Sizes::wild) return;  // too many budgets
                  for (const std::size_t items : {1U, 4U, 8U}) {
                    const AllocationInstance instance =
                        reference::make_instance(sizes, noise, limits, items, seed + items);
                    CHECK(is_close(reference::least_variance_by_budgets(instance),
                                   reference::least_variance(instance)));
                  }
                });
}

TEST_CASE("allocate_bits: exhaustive search finds nothing better for up to eight items") {
  for_each_kind(
      reference::all_noises, [](Sizes sizes, Noise noise, Limits limits, std::uint64_t first_seed) {
        for (const std::size_t items : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U}) {
          const std::uint64_t seeds = items == 1 ? 4 : 40;  // 23520 problems with two items or more
          for (std::uint64_t seed = first_seed; seed < first_seed + seeds; ++seed) {
            CAPTURE(items);
            CAPTURE(seed);
            const AllocationInstance instance =
                reference::make_instance(sizes, noise, limits, items, 32 * seed + items);
            const double least = reference::least_variance(instance);
            check_optimal(instance, solve(instance), least);
            if (reference::is_closed_form(noise)) {
              check_optimal(instance,
                            actpack::allocate_measured_bits(measured_problem_of(instance)), least);
            }
          }
        }
      });
}

TEST_CASE("allocate_bits: items of equal size are solved exactly however many they are") {
  for (const Noise noise : reference::all_noises) {
    for (const Limits limits : reference::all_limits) {
      for (const std::size_t items : {9U, 50U, 137U, 300U}) {
        for (std::uint64_t seed = 1; seed <= 3; ++seed) {
          const char* const noise_name = reference::name_of(noise);
          const char* const limits_name = reference::name_of(limits);
          CAPTURE(noise_name);
          CAPTURE(limits_name);
          CAPTURE(items);
          CAPTURE(seed);
          const AllocationInstance instance =
              reference::make_instance(Sizes::equal, noise, limits, items, seed);
          const double least = reference::least_variance_by_budgets(instance);
          check_optimal(instance, solve(instance), least);
        }
      }
    }
  }
}

TEST_CASE("allocate_bits: a thousand items of equal size are solved exactly") {
  for (const Noise noise : reference::all_noises) {
    const char* const name = reference::name_of(noise);
    CAPTURE(name);
    AllocationInstance instance =
        reference::make_instance(Sizes::equal, noise, Limits::none, 1000, 7);
    // 2.5 bits an item and half a step, which nothing can use.
    instance.bit_budget = instance.numel[0] * 2500 + instance.numel[0] / 2;
    check_optimal(instance, solve(instance), reference::least_variance_by_budgets(instance));
  }
}

TEST_CASE("allocate_bits: eight items of the largest equal size are solved exactly") {
  for (std::uint64_t seed = 1; seed <= 57; ++seed) {
    CAPTURE(seed);
    AllocationInstance instance =
        reference::make_instance(Sizes::equal, Noise::log_uniform, Limits::none, 8, seed);
    std::ranges::fill(instance.numel, (std::int64_t{1} << 57) - 1);
    instance.bit_budget = instance.numel[0] * static_cast<std::int64_t>(8 + seed % 57);
    check_optimal(instance, solve(instance), reference::least_variance(instance));
  }
}

// The search is known to fall short of these, and must not claim that it does not.
TEST_CASE("allocate_bits: no bound beyond the least variance where the search falls short") {
  struct Shortfall {
    Noise noise;
    std::size_t items;
    std::uint64_t seed;
  };
  for (const Shortfall& s :
       {Shortfall{Noise::log_uniform, 150, 9}, Shortfall{Noise::decreasing_table, 150, 0},
        Shortfall{Noise::arbitrary_table, 100, 3}, Shortfall{Noise::convex_table, 60, 10}}) {
    CAPTURE(s.items);
    CAPTURE(s.seed);
    const AllocationInstance instance =
        reference::make_instance(Sizes::similar, s.noise, Limits::none, s.items, s.seed);
    CHECK(solve(instance).lower_bound <=
          reference::least_variance_by_budgets(instance) * (1 + tolerance));
  }
}

TEST_CASE("allocate_bits: the bound holds where the answer need not be exact") {
  for (const Noise noise : reference::all_noises) {
    for (const Limits limits : reference::all_limits) {
      for (const std::size_t items : {9U, 20U, 60U}) {
        const char* const noise_name = reference::name_of(noise);
        const char* const limits_name = reference::name_of(limits);
        CAPTURE(noise_name);
        CAPTURE(limits_name);
        CAPTURE(items);
        const AllocationInstance instance =
            reference::make_instance(Sizes::similar, noise, limits, items, 11);
        const Allocation answer = solve(instance);
        const double least = reference::least_variance_by_budgets(instance);
        check_feasible(instance, answer);
        CHECK(answer.lower_bound <= least * (1 + tolerance));
        CHECK(answer.variance >= least * (1 - tolerance));
      }
    }
  }
}

TEST_CASE("allocate_bits: 100000 items end within a thousandth of the bound") {
  support::Generator generator(12);
  for (const bool equal_sizes : {true, false}) {
    AllocationInstance instance;
    for (std::size_t i = 0; i < 100'000; ++i) {
      instance.sensitivity.push_back(reference::log_uniform(generator, -3, 3));
      instance.variance.push_back(reference::variance_by_width(instance.sensitivity.back()));
      instance.numel.push_back(equal_sizes ? 256 : 1 + generator.below(4096));
    }
    for (const double average_bits : {1.25, 1.5, 2.0, 3.0, 5.0}) {
      CAPTURE(equal_sizes);
      CAPTURE(average_bits);
      instance.bit_budget = static_cast<std::int64_t>(
          average_bits * static_cast<double>(reference::least_bits(instance)));
      const Allocation answer = solve(instance);
      check_feasible(instance, answer);
      CHECK(answer.lower_bound > 0);
      CHECK(answer.variance <= 1.001 * answer.lower_bound);
    }
  }
}

// ---- The budget -------------------------------------------------------------------------------

TEST_CASE("allocate_bits: never over budget, within the limits, sums as they are") {
  for_each_kind(reference::all_noises,
                [](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
                  for (const std::size_t items : {9U, 33U, 1000U, 20'000U}) {
                    CAPTURE(items);
                    const AllocationInstance instance =
                        reference::make_instance(sizes, noise, limits, items, seed + items);
                    check_feasible(instance, solve(instance));
                  }
                });
}

TEST_CASE("allocate_bits: more budget never gives more variance") {
  for_each_exact_instance(reference::all_noises, [](AllocationInstance instance) {
    const std::int64_t least = reference::least_bits(instance);
    const std::int64_t most = reference::most_bits(instance);
    const std::int64_t step = std::max<std::int64_t>(1, (most - least) / 50);
    double previous = std::numeric_limits<double>::infinity();
    for (instance.bit_budget = least; instance.bit_budget <= most + step;
         instance.bit_budget += step) {
      CAPTURE(instance.bit_budget);
      const double variance = solve(instance).variance;
      CHECK(variance <= previous * (1 + tolerance));
      previous = variance;
    }
  });
}

TEST_CASE("allocate_bits: a budget for the widest of all non-zero items gives it to them all") {
  for_each_kind(reference::closed_forms,
                [](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
                  for (const std::size_t items : {1U, 4U, 8U, 9U, 100U, 5000U}) {
                    CAPTURE(items);
                    AllocationInstance instance =
                        reference::make_instance(sizes, noise, limits, items, seed + items);
                    reference::set_sensitivity(instance, 0, 1);
                    std::vector<std::uint8_t> expected(items);
                    for (std::size_t i = 0; i < items; ++i) {
                      const bool zero = instance.sensitivity[i] == 0;
                      expected[i] = zero ? instance.min_of(i) : instance.max_of(i);
                    }
                    const std::int64_t needed = reference::bits_used(instance, expected);
                    for (const std::int64_t beyond : {0, 1, 1'000'000'000}) {
                      instance.bit_budget = needed + beyond;
                      const Allocation answer = solve(instance);
                      check_feasible(instance, answer);
                      CHECK(answer.bits == expected);
                    }
                  }
                });
}

// The sums of the second kind of items come close to 2^63, those of both need more than 53 bits.
TEST_CASE("allocate_bits: the last bit of a huge budget decides") {
  constexpr std::size_t items = 1000;
  for (const std::int64_t base : {2'000'000'000'001, 1'000'000'000'000'001}) {
    CAPTURE(base);
    AllocationInstance instance = identical_items(items, base, 1);
    for (const std::int64_t upgraded : {1, 2, 500, 999, 1000}) {
      CAPTURE(upgraded);
      // A second bit takes 8/9 of an item's variance, further ones less: the first items have two.
      for (const std::int64_t missing : {0, 1}) {
        CAPTURE(missing);
        instance.bit_budget = base * (std::int64_t{items} + upgraded) - missing;
        std::vector<std::uint8_t> expected(items, 1);
        std::fill_n(expected.begin(), upgraded - missing, std::uint8_t{2});
        const Allocation answer = solve(instance);
        check_feasible(instance, answer);
        CHECK(answer.bits == expected);
      }
    }
    std::vector<std::uint8_t> expected(items, 8);
    instance.bit_budget = 8 * base * std::int64_t{items};
    CHECK(solve(instance).bits == expected);
    --instance.bit_budget;
    expected.back() = 4;
    CHECK(solve(instance).bits == expected);
  }
}

TEST_CASE("allocate_bits: the last bit of a huge budget decides among unequal sizes") {
  constexpr std::size_t items = 1000;
  constexpr std::size_t special = 500;
  for (const std::int64_t base : {2'000'000'000'001, 1'000'000'000'000'001}) {
    CAPTURE(base);
    AllocationInstance instance = identical_items(items, base, 0);
    for (std::size_t i = 0; i < items; ++i) instance.numel[i] += 2 * static_cast<std::int64_t>(i);
    reference::set_sensitivity(instance, special, 1);
    std::vector<std::uint8_t> expected(items, 1);
    for (const int bits : {2, 4, 8}) {
      CAPTURE(bits);
      const std::int64_t needed =
          reference::least_bits(instance) + (bits - 1) * instance.numel[special];
      for (const std::int64_t missing : {0, 1}) {
        CAPTURE(missing);
        instance.bit_budget = needed - missing;
        expected[special] = static_cast<std::uint8_t>(missing == 0 ? bits : bits / 2);
        CHECK(solve(instance).bits == expected);
      }
    }
    // All of them: one bit short of the sum, somebody must have less.
    for (std::size_t i = 0; i < items; ++i) reference::set_sensitivity(instance, i, 1);
    instance.bit_budget = reference::most_bits(instance);
    CHECK(solve(instance).bits == std::vector<std::uint8_t>(items, 8));
    --instance.bit_budget;
    const Allocation answer = solve(instance);
    check_feasible(instance, answer);
    CHECK(answer.bits != std::vector<std::uint8_t>(items, 8));
  }
}

// ---- Who gets the bits ------------------------------------------------------------------------

// Exact up to rounding is enough here: the wrong width would add half the sensitivity times 1/225 -
// 1/65025 or more, which is 2e-11 of the sum even for the least among 100 items over six decades.
TEST_CASE("allocate_bits: raising a sensitivity never lowers the item's bits") {
  for_each_exact_instance(reference::closed_forms, [](const AllocationInstance& instance) {
    const Allocation before = solve(instance);
    const std::size_t stride = 1 + instance.items() / 8;
    for (std::size_t item = 0; item < instance.items(); item += stride) {
      for (const double factor : {1.5, 1000.0}) {
        CAPTURE(item);
        CAPTURE(factor);
        const double sensitivity = instance.sensitivity[item];
        AllocationInstance raised = instance;
        reference::set_sensitivity(raised, item, sensitivity == 0 ? factor : factor * sensitivity);
        CHECK(solve(raised).bits[item] >= before.bits[item]);
      }
    }
  });
}

TEST_CASE("allocate_bits: among equal sizes and limits the larger sensitivity has no fewer bits") {
  for (const Noise noise : reference::closed_forms) {
    for (const Limits limits : reference::all_limits) {
      for (const std::size_t items : {8U, 100U, 3000U, 30'000U}) {
        if (support::runs_slowly && items == 30'000) continue;  // 3000 take the same paths
        for (std::uint64_t seed = 1; seed <= 3; ++seed) {
          const char* const noise_name = reference::name_of(noise);
          const char* const limits_name = reference::name_of(limits);
          CAPTURE(noise_name);
          CAPTURE(limits_name);
          CAPTURE(items);
          CAPTURE(seed);
          const AllocationInstance instance =
              reference::make_instance(Sizes::equal, noise, limits, items, 100 * seed + items);
          if (all_are_zero(instance)) continue;
          const std::vector<std::uint8_t> bits = solve(instance).bits;
          REQUIRE(bits.size() == items);
          // Sorted by limits, then by sensitivity, then by width, widths may fall only where the
          // limits change.
          const auto limits_of = [&](std::size_t i) {
            return 16 * instance.min_of(i) + instance.max_of(i);
          };
          std::vector<std::size_t> order(items);
          std::iota(order.begin(), order.end(), std::size_t{0});
          std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
            if (limits_of(a) != limits_of(b)) return limits_of(a) < limits_of(b);
            if (instance.sensitivity[a] != instance.sensitivity[b]) {
              return instance.sensitivity[a] < instance.sensitivity[b];
            }
            return bits[a] < bits[b];
          });
          std::size_t inversions = 0;
          for (std::size_t k = 1; k < items; ++k) {
            const bool same_limits = limits_of(order[k - 1]) == limits_of(order[k]);
            inversions += same_limits && bits[order[k]] < bits[order[k - 1]] ? 1 : 0;
          }
          CHECK(inversions == 0);
        }
      }
    }
  }
}

TEST_CASE("allocate_bits: of identical items the first ones are the wider ones") {
  struct Range {
    std::vector<std::uint8_t> limits;  // min and max; none: the default
  };
  for (const std::size_t items : {5U, 100U, 20'000U}) {
    for (const std::int64_t size : {1, 7}) {
      for (const Range& range : {Range{}, Range{{1, 4}}, Range{{2, 8}}}) {
        AllocationInstance instance = identical_items(items, size, 0.3);
        if (!range.limits.empty()) {
          instance.min_bits.assign(items, range.limits[0]);
          instance.max_bits.assign(items, range.limits[1]);
        }
        const std::int64_t least = reference::least_bits(instance);
        const std::int64_t most = reference::most_bits(instance);
        // Every budget of five items, about twenty of more.
        const std::int64_t step = items == 5 ? 1 : (most - least) / 20 + 1;
        for (instance.bit_budget = least; instance.bit_budget <= most + size;
             instance.bit_budget += step) {
          CAPTURE(items);
          CAPTURE(size);
          CAPTURE(instance.bit_budget);
          const std::vector<std::uint8_t> bits = solve(instance).bits;
          CHECK(std::ranges::is_sorted(bits, std::greater{}));
          const Allocation measured =
              actpack::allocate_measured_bits(measured_problem_of(instance));
          CHECK(std::ranges::is_sorted(measured.bits, std::greater{}));
        }
      }
    }
  }
}

TEST_CASE("allocate_measured_bits: of identical items the last ones become narrower") {
  // 1 -> 2 -> 8 is best at some price; with a rest of 5, one item goes back to 1 bit.
  AllocationInstance instance;
  instance.variance.assign(100, {5.4, 4.6, 4, 0});
  instance.numel.assign(100, 1);
  for (instance.bit_budget = 100; instance.bit_budget <= 800; ++instance.bit_budget) {
    CHECK(std::ranges::is_sorted(solve(instance).bits, std::greater{}));
  }
}

TEST_CASE("allocate_bits: a sensitivity of -0 is 0") {
  for (const std::size_t items : {8U, 3000U}) {
    CAPTURE(items);
    AllocationInstance instance =
        reference::make_instance(Sizes::wild, Noise::some_zeros, Limits::none, items, 1);
    instance.bit_budget = 2 * reference::least_bits(instance);
    const Allocation want = solve(instance);
    for (double& c : instance.sensitivity) c = c == 0 ? -0.0 : c;
    const Allocation answer = solve(instance);
    CHECK(answer.bits == want.bits);
    CHECK(answer.bits_used == want.bits_used);
    CHECK(answer.lower_bound == want.lower_bound);
  }
}

TEST_CASE("allocate_bits: where all sensitivities are zero, one width for all, the widest") {
  for (const Sizes sizes : reference::all_sizes_of_items) {
    for (const Limits limits : reference::all_limits) {
      for (const std::size_t items : {1U, 5U, 8U, 9U, 100U, 20'000U}) {
        for (std::uint64_t seed = 1; seed <= 5; ++seed) {
          const char* const sizes_name = reference::name_of(sizes);
          const char* const limits_name = reference::name_of(limits);
          CAPTURE(sizes_name);
          CAPTURE(limits_name);
          CAPTURE(items);
          CAPTURE(seed);
          AllocationInstance instance =
              reference::make_instance(sizes, Noise::few_values, limits, items, seed);
          for (std::size_t i = 0; i < items; ++i) reference::set_sensitivity(instance, i, 0);
          const Allocation answer = solve(instance);
          check_feasible(instance, answer);
          CHECK(answer.bits == reference::widest_for_all(instance));
          CHECK(answer.variance == 0);
        }
      }
    }
  }
}

TEST_CASE("allocate_bits: one width for all-zero sensitivities, to the last bit of the budget") {
  AllocationInstance instance = identical_items(10, 3, 0);
  const auto bits_at = [&](std::int64_t bit_budget) {
    instance.bit_budget = bit_budget;
    return solve(instance).bits;
  };
  for (const std::uint8_t bits : std::vector<std::uint8_t>{2, 4, 8}) {
    CAPTURE(bits);
    const auto half = static_cast<std::uint8_t>(bits / 2);
    CHECK(bits_at(30 * bits) == std::vector<std::uint8_t>(10, bits));
    CHECK(bits_at(30 * bits - 1) == std::vector<std::uint8_t>(10, half));
  }
}

TEST_CASE("allocate_bits: a zero item among others gets its minimum") {
  for (const Sizes sizes : reference::all_sizes_of_items) {
    for (const Limits limits : reference::all_limits) {
      for (const std::size_t items : {2U, 5U, 8U, 9U, 100U, 5000U}) {
        for (std::uint64_t seed = 1; seed <= 10; ++seed) {
          const char* const sizes_name = reference::name_of(sizes);
          const char* const limits_name = reference::name_of(limits);
          CAPTURE(sizes_name);
          CAPTURE(limits_name);
          CAPTURE(items);
          CAPTURE(seed);
          AllocationInstance instance =
              reference::make_instance(sizes, Noise::some_zeros, limits, items, seed);
          reference::set_sensitivity(instance, 0, 0);
          reference::set_sensitivity(instance, items - 1, 1);
          const std::vector<std::uint8_t> bits = solve(instance).bits;
          REQUIRE(bits.size() == items);
          bool zeros_are_narrow = true;
          for (std::size_t i = 0; i < items; ++i) {
            zeros_are_narrow =
                zeros_are_narrow && (instance.sensitivity[i] > 0 || bits[i] == instance.min_of(i));
          }
          CHECK(zeros_are_narrow);
        }
      }
    }
  }
}

TEST_CASE("allocate_bits: a power of two in all sensitivities changes no width") {
  for_each_kind(reference::closed_forms,
                [](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
                  for (const std::size_t items : {3U, 8U, 100U, 1000U}) {
                    const AllocationInstance instance =
                        reference::make_instance(sizes, noise, limits, items, seed + items);
                    const Allocation plain = solve(instance);
                    for (const int exponent : {-60, 7, 90}) {
                      CAPTURE(items);
                      CAPTURE(exponent);
                      AllocationInstance scaled = instance;
                      for (double& c : scaled.sensitivity) c = std::ldexp(c, exponent);
                      const Allocation answer = solve(scaled);
                      CHECK(answer.bits == plain.bits);
                      CHECK(answer.bits_used == plain.bits_used);
                      CHECK(is_close(answer.variance, std::ldexp(plain.variance, exponent)));
                      CHECK(is_close(answer.lower_bound, std::ldexp(plain.lower_bound, exponent)));
                    }
                  }
                });
}

// ---- The calls --------------------------------------------------------------------------------

TEST_CASE("allocate_bits: no items, no bits") {
  const auto check_empty = [](const auto& answer) {
    CHECK(answer.bits_used == 0);
    CHECK(answer.variance == 0);
    CHECK(answer.lower_bound == 0);
  };
  for (const std::int64_t bit_budget : {0, 100}) {
    AllocationProblem problem;
    problem.bit_budget = bit_budget;
    MeasuredAllocationProblem measured;
    measured.bit_budget = bit_budget;
    CHECK(actpack::allocate_bits(problem).bits.empty());
    check_empty(actpack::allocate_bits(problem));
    CHECK(actpack::allocate_measured_bits(measured).bits.empty());
    check_empty(actpack::allocate_measured_bits(measured));
    std::vector<std::byte> workspace(actpack::allocate_bits_workspace(0));
    check_empty(actpack::allocate_bits(problem, {}, workspace));
    check_empty(actpack::allocate_measured_bits(measured, {}, workspace));
  }
}

// Guarded bytes start at an odd address, and hold rubbish that differs from call to call.
TEST_CASE("allocate_bits: the same answer every time, in any memory, allocating nothing") {
  for_each_kind(
      reference::all_noises, [](Sizes sizes, Noise noise, Limits limits, std::uint64_t seed) {
        for (const std::size_t items : {1U, 2U, 8U, 9U, 300U, 5000U}) {
          CAPTURE(items);
          const AllocationInstance instance =
              reference::make_instance(sizes, noise, limits, items, seed + items);
          const Allocation answer = solve(instance);
          const Allocation again = solve(instance);
          CHECK(again.bits == answer.bits);
          CHECK(again.bits_used == answer.bits_used);
          CHECK(again.variance == answer.variance);
          CHECK(again.lower_bound == answer.lower_bound);
          for (const unsigned fill : {0xFFU, 0x5CU, 0x00U}) {
            if (support::runs_slowly && fill != 0xFF) continue;
            CAPTURE(fill);
            GuardedBuffer<std::uint8_t> bits(items);
            GuardedBuffer<std::byte> workspace(workspace_for(instance));
            REQUIRE(reinterpret_cast<std::uintptr_t>(workspace.data()) % 2 == 1);
            std::ranges::fill(workspace.span(), static_cast<std::byte>(fill));
            const std::int64_t news_before = news;
            const AllocationTotals totals = solve(instance, bits.span(), workspace.span());
            const std::int64_t allocations = news - news_before;
            CHECK(allocations == 0);
            CHECK(bits.values() == answer.bits);
            CHECK(totals.bits_used == answer.bits_used);
            CHECK(totals.variance == answer.variance);
            CHECK(totals.lower_bound == answer.lower_bound);
          }
        }
      });
}

#ifndef ACTPACK_TEST_COUNTS_NOTHING
TEST_CASE("allocate_bits: the form that returns its bits allocates them, and it is counted") {
  AllocationInstance instance = identical_items(3, 1, 1);
  instance.bit_budget = 3;
  const std::int64_t news_before = news;
  (void)solve(instance);
  const std::int64_t allocations = news - news_before;
  CHECK(allocations > 0);
}
#endif

// ---- Refusals ---------------------------------------------------------------------------------

namespace {

struct Refusal {
  std::function<void(AllocationInstance&)> spoil;
  std::vector<std::string> words;
};

// Five items that need 14 bits.
AllocationInstance valid_instance(bool measured) {
  AllocationInstance instance = identical_items(5, 1, 1);
  if (measured) instance.sensitivity.clear();
  instance.numel = {3, 1, 4, 1, 5};
  instance.bit_budget = 40;
  return instance;
}

void check_all_refused(const std::vector<Refusal>& refusals, bool measured) {
  for (const Refusal& refusal : refusals) {
    AllocationInstance instance = valid_instance(measured);
    refusal.spoil(instance);
    CAPTURE(measured);
    support::check_refused([&] { (void)solve(instance); }, refusal.words);
    GuardedBuffer<std::uint8_t> bits(instance.items());
    GuardedBuffer<std::byte> workspace(workspace_for(instance));
    support::check_refused([&] { (void)solve(instance, bits.span(), workspace.span()); },
                           refusal.words);
    CHECK(bits.is_untouched());
  }
}

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("allocate_bits: what is refused below is else accepted") {
  for (const bool measured : {false, true}) {
    AllocationInstance instance = valid_instance(measured);
    check_feasible(instance, solve(instance));
    instance.bit_budget = 14;
    check_feasible(instance, solve(instance));
  }
}

TEST_CASE("allocate_bits: sensitivities that are negative or not finite are refused") {
  check_all_refused(
      {
          {[](AllocationInstance& i) { i.sensitivity[3] = not_a_number; }, {"sensitivity[3]"}},
          {[](AllocationInstance& i) { i.sensitivity[3] = infinity; }, {"sensitivity[3]"}},
          {[](AllocationInstance& i) { i.sensitivity[3] = -infinity; }, {"sensitivity[3]"}},
          {[](AllocationInstance& i) { i.sensitivity[3] = -1; }, {"sensitivity[3]", "-1"}},
          {[](AllocationInstance& i) { i.sensitivity[0] = -1; }, {"sensitivity[0]", "-1"}},
      },
      false);
}

TEST_CASE("allocate_measured_bits: variances that are negative or not finite are refused") {
  check_all_refused(
      {
          {[](AllocationInstance& i) { i.variance[2][1] = not_a_number; }, {"variance[2][1]"}},
          {[](AllocationInstance& i) { i.variance[2][1] = infinity; }, {"variance[2][1]"}},
          {[](AllocationInstance& i) { i.variance[2][1] = -infinity; }, {"variance[2][1]"}},
          {[](AllocationInstance& i) { i.variance[2][1] = -1; }, {"variance[2][1]", "-1"}},
          {[](AllocationInstance& i) { i.variance[4][3] = -1; }, {"variance[4][3]", "-1"}},
      },
      true);
}

TEST_CASE("allocate_bits: wrong sizes, budgets and limits are refused") {
  using Limits = std::vector<std::uint8_t>;
  const auto with_min_bits = [](const Limits& limits) {
    return [limits](AllocationInstance& i) { i.min_bits = limits; };
  };
  const auto with_max_bits = [](const Limits& limits) {
    return [limits](AllocationInstance& i) { i.max_bits = limits; };
  };
  const std::vector<Refusal> refusals{
      {[](AllocationInstance& i) { i.numel[2] = 0; }, {"numel[2]", "0"}},
      {[](AllocationInstance& i) { i.numel[2] = -7; }, {"numel[2]", "-7"}},
      {[](AllocationInstance& i) { i.numel.pop_back(); }, {"numel.size()", "4", "5"}},
      {[](AllocationInstance& i) { i.numel.push_back(1); }, {"numel.size()", "6", "5"}},
      {[](AllocationInstance& i) { i.numel.clear(); }, {"numel.size()", "0", "5"}},
      {[](AllocationInstance& i) {
         i.numel[1] = i.numel[3] = std::int64_t{1} << 62;
         i.bit_budget = std::numeric_limits<std::int64_t>::max();
       },
       {"numel"}},

      {[](AllocationInstance& i) { i.bit_budget = 13; }, {"bit_budget", "13", "14"}},
      {[](AllocationInstance& i) { i.bit_budget = -1; }, {"bit_budget", "-1", "14"}},
      {[](AllocationInstance& i) {
         i.min_bits = {2, 1, 4, 1, 8};
         i.bit_budget = 63;
       },
       {"bit_budget", "63", "64"}},

      {with_min_bits({1, 0, 1, 1, 1}), {"min_bits[1]", "0"}},
      {with_min_bits({1, 3, 1, 1, 1}), {"min_bits[1]", "3"}},
      {with_min_bits({1, 16, 1, 1, 1}), {"min_bits[1]", "16"}},
      {with_max_bits({8, 0, 8, 8, 8}), {"max_bits[1]", "0"}},
      {with_max_bits({8, 7, 8, 8, 8}), {"max_bits[1]", "7"}},
      {with_max_bits({8, 255, 8, 8, 8}), {"max_bits[1]", "255"}},
      {[](AllocationInstance& i) {
         i.min_bits = {1, 4, 1, 1, 1};
         i.max_bits = {8, 2, 8, 8, 8};
       },
       {"min_bits[1]", "4", "2"}},
      {with_min_bits({1, 1, 1, 1}), {"min_bits.size()", "4", "5"}},
      {with_max_bits({8, 8, 8, 8, 8, 8}), {"max_bits.size()", "6", "5"}},
  };
  for (const bool measured : {false, true}) check_all_refused(refusals, measured);
}

TEST_CASE("allocate_bits: limits and sizes without items are refused") {
  AllocationProblem problem;
  problem.bit_budget = -1;
  support::check_refused([&] { (void)actpack::allocate_bits(problem); }, {"bit_budget", "-1"});
  const std::vector<std::int64_t> numel{3};
  problem = {{}, numel, 10, {}, {}};
  support::check_refused([&] { (void)actpack::allocate_bits(problem); },
                         {"numel.size()", "1", "0"});
  const std::vector<std::uint8_t> limits{1};
  problem = {{}, {}, 10, limits, {}};
  support::check_refused([&] { (void)actpack::allocate_bits(problem); },
                         {"min_bits.size()", "1", "0"});
}

TEST_CASE("allocate_bits: memory of the wrong size is refused") {
  for (const bool measured : {false, true}) {
    const AllocationInstance instance = valid_instance(measured);
    const std::size_t needed = workspace_for(instance);
    REQUIRE(needed > 0);
    for (const std::size_t size : {0U, 4U, 6U}) {
      GuardedBuffer<std::uint8_t> bits(size);
      GuardedBuffer<std::byte> workspace(needed);
      support::check_refused([&] { (void)solve(instance, bits.span(), workspace.span()); },
                             {"bits.size()", std::to_string(size), "5"});
      CHECK(bits.is_untouched());
    }
    for (const std::size_t size : {std::size_t{0}, needed - 1}) {
      GuardedBuffer<std::uint8_t> bits(std::size_t{5});
      GuardedBuffer<std::byte> workspace(size);
      support::check_refused([&] { (void)solve(instance, bits.span(), workspace.span()); },
                             {"workspace.size()", std::to_string(size), std::to_string(needed)});
      CHECK(bits.is_untouched());
    }
    // More workspace than needed is fine.
    GuardedBuffer<std::uint8_t> bits(std::size_t{5});
    GuardedBuffer<std::byte> workspace(needed + 3);
    solve(instance, bits.span(), workspace.span());
    CHECK(bits.values() == solve(instance).bits);
  }
}
