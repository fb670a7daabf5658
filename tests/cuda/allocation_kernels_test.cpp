// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the kernels of bit allocation on the host, one after the other: widths and totals equal
// those of the host's allocate_bits, to the last bit, and problems that the host refuses get the
// documented result.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "allocation_kernels.hpp"
#include "support/allocation_reference.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace actpack;
using reference::AllocationInstance;
using support::GuardedBuffer;

// Runs one block after the other. Shared memory holds rubbish at first.
struct HostQueue {
  void zero(void* memory, std::size_t bytes) const { std::memset(memory, 0, bytes); }

  template <class Body>
  void run(const Body& body, std::int64_t blocks) const {
    using Shared = typename Body::Shared;
    const std::unique_ptr<std::byte[]> shared(new std::byte[sizeof(Shared)]);
    for (std::int64_t block = 0; block < blocks; ++block) {
      std::memset(shared.get(), 0xA5, sizeof(Shared));
      body(detail::HostThreadBlock<>(), *reinterpret_cast<Shared*>(shared.get()), block, blocks);
    }
  }

  void sum_before(std::int64_t* values, std::int64_t count) const {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += std::exchange(values[i], sum);
  }
};

struct Result {
  std::vector<std::uint8_t> bits;
  AllocationTotals totals;
};

// The result does not depend on the memory's content, and nothing outside is touched.
template <class Problem>
Result allocate_as_devices_do(const Problem& problem) {
  const auto items = detail::items_of(problem);
  detail::Workspace sizes;
  const detail::DeviceAllocationMemory no_memory(sizes, items.size());
  GuardedBuffer<std::uint8_t> workspace(
      std::vector<std::uint8_t>(sizes.size(), std::uint8_t{0x5A}));
  detail::Workspace pieces(std::as_writable_bytes(workspace.span()));
  const detail::DeviceAllocationMemory memory(pieces, items.size());
  GuardedBuffer<std::uint8_t> bits(static_cast<std::int64_t>(items.size()));
  Result result;
  detail::enqueue_allocation(HostQueue(), items, memory, bits.data(), &result.totals);
  result.bits = bits.values();
  return result;
}

void check_same(const Result& got, const Allocation& want) {
  CHECK(got.bits == want.bits);
  CHECK(got.totals.bits_used == want.bits_used);
  CHECK(got.totals.variance == want.variance);
  CHECK(got.totals.lower_bound == want.lower_bound);
}

void check_same_as_host(const AllocationInstance& instance) {
  if (instance.sensitivity.empty()) {
    const MeasuredAllocationProblem problem{instance.variance, instance.numel, instance.bit_budget,
                                            instance.min_bits, instance.max_bits};
    check_same(allocate_as_devices_do(problem), allocate_measured_bits(problem));
  } else {
    const AllocationProblem problem{instance.sensitivity, instance.numel, instance.bit_budget,
                                    instance.min_bits, instance.max_bits};
    check_same(allocate_as_devices_do(problem), allocate_bits(problem));
  }
}

}  // namespace

TEST_CASE("allocation kernels: the host's answer, to the last bit") {
  reference::for_each_kind(reference::all_noises, [](reference::Sizes sizes, reference::Noise noise,
                                                     reference::Limits limits, std::uint64_t seed) {
    for (const std::size_t items : {1U, 2U, 3U, 7U, 8U, 31U, 300U, 2048U, 2049U, 5000U}) {
      if (support::runs_slowly && items == 5000) continue;  // 2049 are more than a block's, too
      const std::uint64_t draws = support::runs_slowly || items >= 2000 ? 1 : items < 100 ? 12 : 3;
      for (std::uint64_t draw = 0; draw < draws; ++draw) {
        CAPTURE(items);
        CAPTURE(draw);
        check_same_as_host(
            reference::make_instance(sizes, noise, limits, items, seed + items + draw));
      }
    }
  });
}

TEST_CASE("allocation kernels: the host's answer for very many items and very large ones") {
  using enum reference::Noise;
  for (const auto& [sizes, noise, limits] :
       {std::tuple(reference::Sizes::equal, log_uniform, reference::Limits::none),
        std::tuple(reference::Sizes::wild, log_uniform, reference::Limits::both),
        std::tuple(reference::Sizes::similar, few_values, reference::Limits::none)}) {
    check_same_as_host(reference::make_instance(sizes, noise, limits, 300'000, 1));
  }
  // More than 2^53 bits: the last one decides, so no sum may go by way of a double.
  AllocationInstance instance = reference::make_instance(reference::Sizes::similar, log_uniform,
                                                         reference::Limits::none, 3000, 2);
  for (std::int64_t& numel : instance.numel) numel *= 1'000'000'000'000;
  for (std::int64_t less = 0; less < 3; ++less) {
    instance.bit_budget =
        3 * reference::bits_used(instance, std::vector<std::uint8_t>(instance.items(), 1)) - less;
    check_same_as_host(instance);
  }
}

TEST_CASE("allocation kernels: sizes may add up to 2^60 - 1, and to no more") {
  AllocationInstance instance = reference::make_instance(
      reference::Sizes::similar, reference::Noise::log_uniform, reference::Limits::none, 100, 5);
  // The low halves of the sizes carry into the high ones.
  const std::int64_t others =
      reference::bits_used(instance, std::vector<std::uint8_t>(100, 1)) - instance.numel[0];
  instance.numel[0] = (std::int64_t{1} << 60) - 1 - others;
  for (const std::int64_t budget :
       {3 * ((std::int64_t{1} << 60) - 1), std::numeric_limits<std::int64_t>::max()}) {
    instance.bit_budget = budget;
    check_same_as_host(instance);
  }
  ++instance.numel[0];
  const AllocationProblem problem{instance.sensitivity, instance.numel, instance.bit_budget};
  CHECK_THROWS_AS(allocate_bits(problem), std::invalid_argument);
  CHECK(allocate_as_devices_do(problem).totals.bits_used == -1);
}

TEST_CASE("allocation kernels: items that are all alike, budgets from the least to the most") {
  AllocationInstance instance;
  instance.sensitivity.assign(2500, 0.1);
  instance.variance.assign(2500, reference::variance_by_width(0.1));
  instance.numel.assign(2500, 96);
  for (const std::int64_t bits : {2500, 2501, 3123, 5000, 7007, 12'345, 19'999, 20'000, 30'000}) {
    instance.bit_budget = 96 * bits;
    check_same_as_host(instance);
    instance.bit_budget += 95;
    check_same_as_host(instance);
  }
}

TEST_CASE("allocation kernels: no noise, no items") {
  for (const reference::Limits limits : reference::all_limits) {
    AllocationInstance instance = reference::make_instance(
        reference::Sizes::wild, reference::Noise::log_uniform, limits, 500, 3);
    std::ranges::fill(instance.sensitivity, 0.0);
    check_same_as_host(instance);
    instance.sensitivity.clear();
    std::ranges::fill(instance.variance, std::array{0.0, 0.0, 0.0, 0.0});
    check_same_as_host(instance);
  }
  AllocationProblem no_items;
  no_items.bit_budget = 5;
  check_same(allocate_as_devices_do(no_items), allocate_bits(no_items));
  no_items.bit_budget = -1;
  CHECK(allocate_as_devices_do(no_items).totals.bits_used == -1);
}

TEST_CASE("allocation kernels: what the host refuses gets the narrowest widths and no totals") {
  const AllocationInstance valid = reference::make_instance(
      reference::Sizes::wild, reference::Noise::log_uniform, reference::Limits::none, 2100, 4);
  const auto check_refused = [&](auto change, bool is_measured = false) {
    AllocationInstance instance = valid;
    instance.min_bits.assign(instance.items(), 2);
    instance.max_bits.assign(instance.items(), 8);
    instance.bit_budget += 10'000'000'000'000;
    change(instance);
    Result result;
    if (is_measured) {
      const MeasuredAllocationProblem problem{instance.variance, instance.numel,
                                              instance.bit_budget, instance.min_bits,
                                              instance.max_bits};
      CHECK_THROWS_AS(allocate_measured_bits(problem), std::invalid_argument);
      result = allocate_as_devices_do(problem);
    } else {
      const AllocationProblem problem{instance.sensitivity, instance.numel, instance.bit_budget,
                                      instance.min_bits, instance.max_bits};
      CHECK_THROWS_AS(allocate_bits(problem), std::invalid_argument);
      result = allocate_as_devices_do(problem);
    }
    std::vector<std::uint8_t> narrowest = instance.min_bits;
    for (std::size_t i = 0; i < narrowest.size(); ++i) {
      const bool has_width = is_width(instance.min_bits[i]) && is_width(instance.max_bits[i]) &&
                             instance.min_bits[i] <= instance.max_bits[i];
      if (!has_width) narrowest[i] = 1;
    }
    CHECK(result.bits == narrowest);
    CHECK(result.totals.bits_used == -1);
    CHECK(std::isnan(result.totals.variance));
    CHECK(std::isnan(result.totals.lower_bound));
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinite = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, -1e-300, infinite, std::nextafter(0x1p960, infinite)}) {
    check_refused([&](AllocationInstance& i) { i.sensitivity[77] = bad; });
    check_refused([&](AllocationInstance& i) { i.variance[2099][2] = bad; }, true);
  }
  for (const std::int64_t bad :
       {std::int64_t{0}, std::int64_t{-5}, std::numeric_limits<std::int64_t>::max()}) {
    check_refused([&](AllocationInstance& i) { i.numel[0] = bad; });
  }
  check_refused([](AllocationInstance& i) { std::ranges::fill(i.numel, std::int64_t{1} << 49); });
  check_refused([](AllocationInstance& i) { i.min_bits[5] = 3; });
  check_refused([](AllocationInstance& i) { i.max_bits[5] = 0; });
  check_refused([](AllocationInstance& i) { i.max_bits[5] = 1; });
  check_refused([](AllocationInstance& i) {
    i.bit_budget = 2 * reference::bits_used(i, std::vector<std::uint8_t>(i.items(), 1)) - 1;
  });
}
