// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs bit allocation on threads of the CPU, with real shuffles and barriers, and compares with the
// host's, bit for bit.
#include <doctest/doctest.h>

#include "simt.hpp"  // before the kernels

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <actpack/bit_allocation.hpp>

#include "allocation_kernels.hpp"
#include "support/allocation_reference.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace actpack;
using support::GuardedBuffer;

// The queue of enqueue_allocation.
struct SimtQueue {
  void zero(void* memory, std::size_t bytes) const { std::memset(memory, 0, bytes); }

  template <class Body>
  void run(const Body& body, std::int64_t blocks) const {
    simt::launch(static_cast<unsigned>(blocks), detail::thread_block_size,
                 &detail::thread_block_kernel<Body>, body);
  }

  void sum_before(std::int64_t* values, std::int64_t count) const {
    std::exclusive_scan(values, values + count, values, std::int64_t{0});
  }
};

struct LastAndCount {
  std::int32_t last = 0;
  std::int32_t count = 0;
};

__global__ void scan_of_pairs(const std::int32_t* values, std::int64_t size, std::int32_t* lasts,
                              std::int32_t* counts) {
  __shared__ detail::WarpScratch scratch[detail::thread_block_warps];
  detail::DeviceThreadBlock<>(scratch).scan(
      size, LastAndCount{},
      [](const LastAndCount& a, const LastAndCount& b) {
        return LastAndCount{b.last != 0 ? b.last : a.last, a.count + b.count};
      },
      [&](std::int64_t i) {
        return LastAndCount{values[i], values[i] != 0 ? 1 : 0};
      },
      [&](std::int64_t i, const LastAndCount&, const LastAndCount& before) {
        lasts[i] = before.last;
        counts[i] = before.count;
      });
}

__global__ void nearest_of(const detail::Change* changes, std::int64_t count, bool becomes_wider,
                           detail::Change* nearest, double* least_left_out) {
  const WarpTile tile(32);
  detail::NearestOfWarp found(tile, becomes_wider);
  found.look_at(count, [&](std::int64_t i) { return changes[i]; });
  found.write(nearest, least_left_out);
}

}  // namespace

TEST_CASE("simt: bit allocation") {
  using reference::Limits, reference::Noise, reference::Sizes;
  struct Kind {
    Sizes sizes;
    Noise noise;
    Limits limits;
    std::size_t items;
  };
  for (const Kind& kind : {Kind{Sizes::equal, Noise::few_values, Limits::none, 70},
                           Kind{Sizes::wild, Noise::log_uniform, Limits::none, 12},
                           Kind{Sizes::similar, Noise::log_uniform, Limits::both, 40}}) {
    CAPTURE(kind.items);
    reference::AllocationInstance instance =
        reference::make_instance(kind.sizes, kind.noise, kind.limits, kind.items, 10);
    const std::int64_t least_bits = reference::least_bits(instance);
    instance.bit_budget = least_bits + (reference::most_bits(instance) - least_bits) / 5 + 1;
    const AllocationProblem problem{instance.sensitivity, instance.numel, instance.bit_budget,
                                    instance.min_bits, instance.max_bits};
    const detail::SensitiveItems items = detail::items_of(problem);
    detail::Workspace size;
    const detail::DeviceAllocationMemory none(size, items.size());
    std::vector<std::byte> workspace(size.size());
    detail::Workspace pieces(workspace);
    const detail::DeviceAllocationMemory memory(pieces, items.size());
    GuardedBuffer<std::uint8_t> bits(items.size());
    AllocationTotals totals;
    detail::enqueue_allocation(SimtQueue(), items, memory, bits.data(), &totals);
    const Allocation want = allocate_bits(problem);
    CHECK(bits.values() == want.bits);
    CHECK(totals.bits_used == want.bits_used);
    CHECK(totals.variance == want.variance);
    CHECK(totals.lower_bound == want.lower_bound);
  }
}

TEST_CASE("simt: a warp finds the nearest of many changes") {
  support::Generator generator(11);
  for (const std::int64_t count : {0, 5, 13, 14, 200}) {
    for (const bool becomes_wider : {true, false}) {
      CAPTURE(count);
      CAPTURE(becomes_wider);
      std::vector<detail::Change> changes;
      for (std::int64_t i = 0; i < count; ++i) {  // with ties, and some of them none
        const double distance = generator.below(20);
        changes.push_back(generator.below(4) == 0
                              ? detail::Change{}
                              : detail::Change{distance, generator.uniform(0, 1), i});
      }
      std::vector<detail::Change> nearest(detail::max_changes);
      double least_left_out = 0;
      simt::launch(1, 32, &nearest_of, changes.data(), count, becomes_wider, nearest.data(),
                   &least_left_out);
      const auto comes_first = [&](const detail::Change& a, const detail::Change& b) {
        return detail::is_nearer(a, b, becomes_wider);
      };
      changes.resize(std::max<std::size_t>(changes.size(), detail::max_changes));
      std::ranges::sort(changes, comes_first);
      std::ranges::sort(nearest, comes_first);
      double want = std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < changes.size(); ++i) {
        if (i < detail::max_changes) {
          CHECK(nearest[i].item == changes[i].item);
        } else {
          want = std::min(want, changes[i].loss);
        }
      }
      CHECK(least_left_out == want);
    }
  }
}

TEST_CASE("simt: a scan over more than a block, in the order of the lanes") {
  // An operation for which order counts: the last of those that are not 0, and their number.
  std::vector<std::int32_t> values(700), lasts(700), counts(700);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 5 < 2 ? static_cast<int>(i) : 0;
  simt::launch(1, detail::thread_block_size, &scan_of_pairs, values.data(), std::int64_t{700},
               lasts.data(), counts.data());
  std::int32_t last = 0, count = 0;
  bool is_right = true;
  for (std::size_t i = 0; i < values.size(); ++i) {
    is_right = is_right && lasts[i] == last && counts[i] == count;
    if (values[i] != 0) last = values[i], ++count;
  }
  CHECK(is_right);
}
