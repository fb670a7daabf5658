// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that bins of sensitivity, which hide most of many items, lead to the same widths as
// looking at every item.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <actpack/detail/allocation/solver.hpp>

#include "support/allocation_reference.hpp"

namespace {

using namespace actpack::detail;

struct Solved {
  std::vector<std::uint8_t> bits;
  std::int64_t unused = 0;
};

template <class ListSteps>
Solved solve_with(const reference::AllocationInstance& instance, const ListSteps& list_steps) {
  const SensitiveItems items =
      items_of(actpack::AllocationProblem{instance.sensitivity, instance.numel, instance.bit_budget,
                                          instance.min_bits, instance.max_bits});
  std::vector<std::byte> workspace(allocation_workspace(items.size()));
  AllocationMemory memory(Workspace(workspace), items.size(), items.has_limits());
  const AllocationSizes sizes = measure_sizes(items);
  Solved solved{std::vector<std::uint8_t>(items.size()), 0};
  const OpenQuestion open = list_steps(items, sizes, memory, solved.bits);
  solved.unused = spend(open, items, sizes.are_equal, memory, solved.bits).unused;
  return solved;
}

void check_same(const reference::AllocationInstance& instance) {
  const Solved direct = solve_with(instance, list_all_steps<SensitiveItems>);
  const Solved binned = solve_with(instance, list_steps_by_bins);
  CHECK(binned.bits == direct.bits);
  CHECK(binned.unused == direct.unused);
}

}  // namespace

TEST_CASE("SensitivityBins: the widths are those of looking at every item") {
  reference::for_each_kind(
      reference::closed_forms,
      [](reference::Sizes sizes, reference::Noise noise, reference::Limits limits, std::uint64_t) {
        for (const std::size_t items : {2049U, 5000U, 20'000U}) {
          for (std::uint64_t seed = 0; seed < 4; ++seed) {
            CAPTURE(items);
            CAPTURE(seed);
            check_same(reference::make_instance(sizes, noise, limits, items, seed));
          }
        }
      });
}

// The nearest items to a price may be many bins away from it: here only six to sixty differ in each
// octave, and budgets end between any two of them.
TEST_CASE("SensitivityBins: where most bins are empty, windows reach the nearest items") {
  std::mt19937_64 random(1);
  for (const int per_octave : {1, 6, 60}) {
    CAPTURE(per_octave);
    for (int repetition = 0; repetition < 40; ++repetition) {
      CAPTURE(repetition);
      reference::AllocationInstance instance;
      // Those without noise only make the problem large enough for bins.
      const std::size_t noiseless = few_items + 1;
      const std::size_t noisy = 30 * static_cast<std::size_t>(per_octave);
      const std::size_t items = noiseless + noisy;
      instance.sensitivity.resize(items);
      instance.variance.resize(items);
      instance.numel.assign(items, 256);
      std::uniform_real_distribution<double> octave(-30, 0);
      for (std::size_t i = noiseless; i < items; ++i) {
        reference::set_sensitivity(instance, i, std::exp2(octave(random)));
      }
      std::uniform_int_distribution<std::int64_t> budget(
          static_cast<std::int64_t>(items) * 256,
          static_cast<std::int64_t>(items + 6 * noisy) * 256);
      instance.bit_budget = budget(random);
      check_same(instance);
    }
  }
}
