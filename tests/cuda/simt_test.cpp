// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the kernels themselves, with real shuffles and barriers, on threads of the CPU, and compares
// what they write with the host's verbs, bit for bit.
#include <doctest/doctest.h>

#include "simt.hpp"  // before the kernels

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <actpack/bit_allocation.hpp>
#include <actpack/bit_pack.hpp>
#include <actpack/mask.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "allocation_kernels.hpp"
#include "group_bodies.hpp"
#include "kernel.hpp"
#include "run_bodies.hpp"
#include "statistics_body.hpp"
#include "support/allocation_reference.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace {

using namespace actpack;
using detail::NegativeSide;
using detail::RowWalk;
using support::GuardedBuffer;
using support::GuardedPacked;
using support::GuardedSignMagnitude;
using support::PlacedBuffer;

// Runs a body for indices [0, count), and up to a block's beyond, as the library's verbs do.
template <class Body>
void launch(const Body& body, std::int64_t count) {
  const std::int64_t teams_per_block = detail::block_threads / body.lanes();
  const std::int64_t blocks = (count + teams_per_block - 1) / teams_per_block;
  simt::launch(static_cast<unsigned>(blocks), detail::block_threads, &detail::team_kernel<Body>,
               body);
}

RowWalk all_groups(const Layout& layout) {
  return {layout.groups_per_row(), 0, layout.num_groups()};
}

template <class T>
std::vector<T> values_for(const Layout& layout, std::uint64_t seed) {
  return support::stored<T>(
      support::gaussian(static_cast<std::size_t>(layout.numel()), seed, 0.1, 2));
}

const Rounding rounding = Rounding::stochastic(5, 6);
const SeededNoise noise(5, 6);
const Decoding subtractive = Decoding::subtractive(rounding);

// Encodes and decodes every group of a tensor by the kernels for rows.
template <class T, class Tensor>
void check_rows(const Layout& layout, const std::vector<std::uint8_t>& row_bits = {},
                NegativeSide side = NegativeSide::kept) {
  GuardedBuffer<T> x(values_for<T>(layout, 3));
  Tensor expected(layout, row_bits);
  expected.encode(std::as_const(x).span(), rounding);
  Tensor got(layout, row_bits);
  launch(detail::EncodeRows<T, typename Tensor::View, SeededNoise>{x.data(), got.view(), noise,
                                                                   all_groups(layout)},
         layout.num_groups());
  const bool has_same_words = got.equals(expected);
  CHECK(has_same_words);

  GuardedBuffer<T> want(layout.numel());
  expected.decode(0, want.span(), subtractive, side);
  GuardedBuffer<T> y(layout.numel());
  launch(
      detail::DecodeRows<T, typename Tensor::ConstView, SeededNoise, detail::NoEpilogue>{
          got.view(), y.data(), 0, layout.numel(), noise, {1, side}, {}, all_groups(layout)},
      layout.num_groups());
  support::check_same_values<T>(y.span(), want.span());
}

// The same by the flat kernels, for so many whole groups of 256.
template <class T, class Tensor, int Bits>
void check_flat(std::int64_t groups) {
  const Layout layout{.row_size = detail::flat_group_size * groups, .bits = Bits};
  PlacedBuffer<T> x(values_for<T>(layout, 4), true);
  Tensor expected(layout);
  expected.encode(std::span<const T>(x.span()), rounding);
  Tensor got(layout);
  launch(
      detail::EncodeFlat<T, typename Tensor::View, SeededNoise, Bits>{x.data(), got.view(), noise},
      groups);
  const bool has_same_words = got.equals(expected);
  CHECK(has_same_words);

  GuardedBuffer<T> want(layout.numel());
  expected.decode(0, want.span(), subtractive, NegativeSide::kept);
  PlacedBuffer<T> y(layout.numel(), true);
  launch(
      detail::DecodeFlat<T, typename Tensor::ConstView, SeededNoise, Bits>{
          got.view(), y.data(), noise, {1, NegativeSide::kept}},
      groups);
  support::check_same_values<T>(y.span(), want.span());
}

// What enqueue_allocation asks for.
struct SimtQueue {
  void zero(void* memory, std::size_t bytes) const { std::memset(memory, 0, bytes); }

  template <class Body>
  void run(const Body& body, std::int64_t blocks) const {
    simt::launch(static_cast<unsigned>(blocks), detail::thread_block_size, &detail::thread_block_kernel<Body>,
                 body);
  }

  void sum_before(std::int64_t* values, std::int64_t count) const {
    std::exclusive_scan(values, values + count, values, std::int64_t{0});
  }
};

// Kernels that show what the shim itself reports.

__global__ void sum_over_lanes(std::uint32_t mask, const std::uint32_t* in, std::uint32_t* out) {
  out[threadIdx.x] = DeviceTeam(16, mask).reduce(
      in[threadIdx.x], [](std::uint32_t a, std::uint32_t b) { return a + b; });
}

__global__ void sum_over_halves(const std::uint32_t* in, std::uint32_t* out) {
  const std::uint32_t half = threadIdx.x < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  sum_over_lanes(half, in, out);
  if (threadIdx.x < 16) {  // the other half goes its own way
    sum_over_lanes(half, out, out);
  }
}

struct LastAndCount {
  std::int32_t last = 0;
  std::int32_t count = 0;
};

__global__ void scan_of_pairs(const std::int32_t* values, std::int64_t size, std::int32_t* lasts,
                              std::int32_t* counts) {
  __shared__ detail::DeviceThreadBlock::Scratch scratch[detail::thread_block_warps];
  detail::DeviceThreadBlock(scratch).scan(
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
  const DeviceTeam team(32);
  detail::NearestOfWarp found(team, becomes_wider);
  found.look_at(count, [&](std::int64_t i) { return changes[i]; });
  found.write(nearest, least_left_out);
}

__global__ void leave_before_shuffle(unsigned lane) {
  if (threadIdx.x != lane) {
    __shfl_xor_sync(0xFFFFFFFFu, 0, 1);
  }
}

__global__ void shuffle_by_two_masks() {
  __shfl_xor_sync(threadIdx.x < 16 ? 0xFFFFFFFFu : 0xFFFF0000u, 0, 1);
}

__global__ void leave_before_barrier(unsigned thread) {
  if (threadIdx.x != thread) {
    __syncthreads();
  }
}

template <class Launch>
std::string message_of(Launch run) {
  try {
    run();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE_TEMPLATE("simt: affine rows", T, float, bfloat16) {
  for (const std::int32_t group_size : {32, 96, 256}) {
    CAPTURE(group_size);
    check_rows<T, GuardedPacked>({.rows = 3, .row_size = 300, .group_size = group_size, .bits = 4});
  }
  check_rows<T, GuardedPacked>({.rows = 4, .row_size = 530, .bits = 8, .last_row_size = 33},
                               {8, 1, 4, 2});
}

TEST_CASE_TEMPLATE("simt: sign-magnitude rows", T, float, bfloat16) {
  const Layout layout{.rows = 3, .row_size = 300, .group_size = 96, .bits = 8};
  check_rows<T, GuardedSignMagnitude>(layout);
  check_rows<T, GuardedSignMagnitude>(layout.with_bits(2), {}, NegativeSide::zero);
}

TEST_CASE_TEMPLATE("simt: flat tensors", T, float, bfloat16) {
  check_flat<T, GuardedPacked, 2>(2 * detail::flat_multiple);
  check_flat<T, GuardedPacked, 8>(detail::flat_multiple);
  check_flat<T, GuardedSignMagnitude, 4>(detail::flat_multiple);
}

TEST_CASE("simt: the ReLU's backward pass from a sign plane") {
  const Layout layout{.rows = 3, .row_size = 333, .bits = 2};
  GuardedSignMagnitude context(layout);
  const std::vector<float> y = values_for<float>(layout, 5);
  context.encode(std::span<const float>(y), rounding);
  GuardedBuffer<float> dy(values_for<float>(layout, 6));
  GuardedBuffer<float> want(layout.numel()), dx(layout.numel());
  relu_backward(std::as_const(dy).span(), ConstSignMagnitudeView(context.view()), want.span());
  launch(detail::ReluBackwardRows<float>{dy.data(), context.view(), dx.data(), 0, layout.numel(),
                                         all_groups(layout)},
         layout.num_groups());
  support::check_same_values<float>(dx.span(), want.span());
}

TEST_CASE_TEMPLATE("simt: masks", T, float, bfloat16) {
  constexpr std::int64_t numel = 2085;  // two blocks, the last run and the last word short
  GuardedBuffer<T> x(support::stored<T>(support::gaussian(numel, 7)));
  GuardedBuffer<T> y(numel), want(numel);
  GuardedBuffer<std::uint32_t> mask(words_for(numel, 1)), want_mask(words_for(numel, 1));

  relu(std::as_const(x).span(), want.span(), want_mask.span());
  const detail::Relu<T> forward{{numel}, x.data(), y.data(), mask.data()};
  launch(forward, forward.count());
  support::check_same_values<T>(y.span(), want.span());
  CHECK(mask.values() == want_mask.values());

  relu_backward(std::as_const(x).span(), std::as_const(mask).span(), want.span());
  const detail::Masked<T> backward{{numel}, x.data(), mask.data(), y.data(), 1};
  launch(backward, backward.count());
  support::check_same_values<T>(y.span(), want.span());

  dropout(std::as_const(x).span(), want.span(), want_mask.span(), 0.3, rounding, 64);
  const detail::Dropout<T, SeededNoise> drop{{numel},
                                             x.data(),
                                             y.data(),
                                             mask.data(),
                                             detail::keep_threshold(0.3),
                                             detail::dropout_scale(0.3),
                                             64,
                                             noise};
  launch(drop, drop.count());
  support::check_same_values<T>(y.span(), want.span());
  CHECK(mask.values() == want_mask.values());
}

TEST_CASE("simt: small integers") {
  constexpr std::int64_t numel = 1003;
  support::Generator generator(8);
  std::vector<std::uint8_t> bytes(numel);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(generator.bits());
  GuardedBuffer<std::uint8_t> codes(bytes);
  for (const int bits : {1, 8}) {
    CAPTURE(bits);
    std::vector<std::uint8_t> low_bits = bytes;  // the host refuses others, the device ignores them
    for (std::uint8_t& code : low_bits) code &= static_cast<std::uint8_t>(max_code(bits));
    GuardedBuffer<std::uint32_t> words(words_for(numel, bits)), want(words_for(numel, bits));
    pack(low_bits, bits, want.span());
    const detail::Pack body{{numel}, codes.data(), bits, words.data()};
    launch(body, body.count());
    CHECK(words.values() == want.values());

    constexpr std::int64_t first = 5;
    GuardedBuffer<std::uint8_t> unpacked(numel - first), want_codes(numel - first);
    unpack(std::as_const(words).span(), bits, first, want_codes.span());
    launch(detail::Unpack{{numel - first}, words.data(), bits, first, unpacked.data()},
           (numel - first + detail::run_size - 1) / detail::run_size);
    CHECK(unpacked.values() == want_codes.values());
  }
}

TEST_CASE_TEMPLATE("simt: statistics", T, float, bfloat16) {
  for (const std::int32_t group_size : {96, 256}) {
    CAPTURE(group_size);
    const Layout layout{.rows = 2, .row_size = 9000, .group_size = group_size, .last_row_size = 77};
    GuardedBuffer<T> x(values_for<T>(layout, 9));
    GuardedBuffer<RowStatistics> got(layout.rows), want(layout.rows);
    const auto body_into = [&](RowStatistics* statistics) {
      return detail::SumRow<T>{x.data(), layout, layout.groups_per_row(), statistics};
    };
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      body_into(want.data())(detail::HostBlock(), row);
    }
    simt::launch(static_cast<unsigned>(layout.rows), detail::statistics_threads,
                 &detail::statistics_kernel<detail::SumRow<T>>, body_into(got.data()));
    CHECK(have_same_bytes(got, want));
    CHECK(want.span()[1].squared_norm > 0);
  }
}

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

TEST_CASE("simt: teams of half a warp that go their own ways") {
  std::vector<std::uint32_t> in(32), out(32);
  for (std::uint32_t i = 0; i < 32; ++i) in[i] = i;
  simt::launch(1, 32, &sum_over_lanes, 0xFFFFFFFFu, in.data(), out.data());
  CHECK(out[3] == 120);
  CHECK(out[31] == 376);
  simt::launch(1, 32, &sum_over_halves, in.data(), out.data());
  CHECK(out[3] == 16 * 120);
  CHECK(out[31] == 376);
}

TEST_CASE("simt: misuse ends a launch with a message") {
  std::vector<std::uint32_t> in(32), out(32);
  CHECK(message_of([&] {
          simt::launch(1, 32, &sum_over_lanes, 0x0000FFFFu, in.data(), out.data());
        }).find("is not in its own mask") != std::string::npos);
  CHECK(message_of([] {
          simt::launch(1, 64, &leave_before_shuffle, 40u);
        }).find("31 of 32 came to __shfl_xor_sync with mask 0xffffffff in warp 1") !=
        std::string::npos);
  const std::string masks = message_of([] { simt::launch(1, 32, &shuffle_by_two_masks); });
  CHECK(masks.find("16 of 32 came to __shfl_xor_sync with mask 0xffffffff") != std::string::npos);
  CHECK(message_of([] {
          simt::launch(2, 64, &leave_before_barrier, 9u);
        }).find("63 of 64 came to __syncthreads") != std::string::npos);
}
