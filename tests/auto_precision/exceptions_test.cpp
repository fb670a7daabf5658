// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// AutoPrecision when memory runs out, at any allocation, or all_reduce throws: nothing has changed,
// and the call can be made again.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

// How many allocations succeed before all fail; none fails while it is negative.
long allocations_left = -1;

void* allocate(std::size_t size) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace support::auto_precision;
using support::Generator;
using support::GuardedBuffer;

// Makes the call with memory for ever more allocations, until it succeeds. After each failure,
// check_unchanged() is called. Returns how often it failed.
template <class Call, class CheckUnchanged>
int fail_until_it_succeeds(const Call& call, const CheckUnchanged& check_unchanged) {
  for (long allocations = 0;; ++allocations) {
    bool has_failed = false;
    allocations_left = allocations;
    try {
      call();
    } catch (const std::bad_alloc&) {
      has_failed = true;
    }
    allocations_left = -1;
    if (!has_failed) return static_cast<int>(allocations);
    CAPTURE(allocations);
    check_unchanged();
  }
}

// Few rows, and more than the solver looks at one by one.
const std::vector<std::vector<TensorSpec>>& models() {
  static const std::vector<std::vector<TensorSpec>> all{mixed_tensors(),
                                                        {spec(3000, 33), spec(2, 70)}};
  return all;
}

const std::vector<AutoPrecisionOptions> all_options{
    {.average_bits = 2.5, .solve_interval = 1},
    {.byte_budget = 100'000, .max_bits = 4, .solve_interval = 2}};

void observe_model(AutoPrecision& precision, const std::vector<TensorSpec>& tensors,
                   bool is_measured, std::uint64_t seed) {
  Generator generator(seed);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    observe(precision, t, random_observation(tensors[t], is_measured, generator));
  }
}

}  // namespace

TEST_CASE("AutoPrecision: a tensor that memory was lacking for is not added, and can be") {
  for (const AutoPrecisionOptions& options : all_options) {
    for (const PrecisionPer per : {PrecisionPer::row, PrecisionPer::tensor}) {
      AutoPrecision precision = make(options, {spec(4, 100)});
      observe_all(precision, 0, 3, 4);
      AutoPrecision undisturbed = precision;
      const Layout layout{.rows = 64, .row_size = 77};
      const std::vector<std::byte> before = precision.save();
      const Widths widths = widths_of(precision);
      const int failures = fail_until_it_succeeds([&] { precision.add_tensor(layout, per); },
                                                  [&] {
                                                    CHECK(precision.num_tensors() == 1);
                                                    CHECK(precision.save() == before);
                                                    CHECK(widths_of(precision) == widths);
                                                  });
      CHECK(failures > 0);
      undisturbed.add_tensor(layout, per);
      CHECK(precision.num_tensors() == 2);
      CHECK(precision.save() == undisturbed.save());
      CHECK(widths_of(precision) == widths_of(undisturbed));
    }
  }
}

TEST_CASE("AutoPrecision: a step that memory was lacking for can be made again") {
  for (const std::vector<TensorSpec>& tensors : models()) {
    for (AutoPrecisionOptions options : all_options) {
      for (const bool is_measured : {false, true}) {
        CAPTURE(is_measured);
        int reductions = 0;
        options.all_reduce = [&](std::span<double> sums) {
          ++reductions;
          for (double& sum : sums) sum *= 2;
        };
        AutoPrecision precision = make(options, tensors);
        AutoPrecision undisturbed = precision;
        for (std::uint64_t step = 0; step < 5; ++step) {
          observe_model(precision, tensors, is_measured, step);
          observe_model(undisturbed, tensors, is_measured, step);
          const std::vector<std::byte> before = precision.save();
          const Widths widths = widths_of(precision);
          bool is_solved = false;
          reductions = 0;
          const int failures = fail_until_it_succeeds([&] { is_solved = precision.step(); },
                                                      [&] {
                                                        CHECK(precision.save() == before);
                                                        CHECK(widths_of(precision) == widths);
                                                        CHECK(reductions == 0);
                                                      });
          CHECK(reductions == (is_solved ? 1 : 0));
          CHECK((failures > 0) == is_solved);
          CHECK(undisturbed.step() == is_solved);
          CHECK(precision.save() == undisturbed.save());
          CHECK(widths_of(precision) == widths_of(undisturbed));
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: a rank whose sums were reduced makes its step without memory") {
  for (const std::vector<TensorSpec>& tensors : models()) {
    for (AutoPrecisionOptions options : all_options) {
      for (const bool is_measured : {false, true}) {
        options.all_reduce = [](std::span<double>) {};
        AutoPrecision other_rank = make(options, tensors);
        options.all_reduce = [](std::span<double>) { allocations_left = 0; };
        AutoPrecision precision = make(options, tensors);
        for (std::uint64_t step = 0; step < 5; ++step) {
          observe_model(precision, tensors, is_measured, step);
          observe_model(other_rank, tensors, is_measured, step);
          bool has_failed = false;
          try {
            precision.step();
          } catch (const std::bad_alloc&) {
            has_failed = true;
          }
          allocations_left = -1;
          CHECK_FALSE(has_failed);
          other_rank.step();
          CHECK(precision.save() == other_rank.save());
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: observing takes no memory") {
  AutoPrecision precision = make({}, mixed_tensors());
  Generator generator(1);
  for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
    const Observation seen = random_observation(mixed_tensors()[t], true, generator);
    allocations_left = 0;
    precision.observe_ranges(t, seen.ranges);
    precision.observe_noise(t, seen.noise);
    precision.observe_gains(t, seen.gains);
    precision.observe_perturbation(t, 2);
    allocations_left = -1;
  }
  CHECK(precision.step());
}

TEST_CASE("AutoPrecision: restoring, saving and allocating rows without memory change nothing") {
  AutoPrecision precision = make({}, mixed_tensors());
  observe_anything(precision, mixed_tensors(), 1000);
  AutoPrecision source = make({}, mixed_tensors());
  observe_anything(source, mixed_tensors(), 2000);
  source.step();
  const std::vector<std::byte> state = source.save();
  const std::vector<std::byte> before = precision.save();
  const Widths widths = widths_of(precision);
  const auto check_unchanged = [&] {
    CHECK(precision.save() == before);
    CHECK(widths_of(precision) == widths);
  };
  const std::vector<double> ranges(7, 2.5);
  GuardedBuffer<std::uint8_t> bits(std::size_t{7});
  CHECK(fail_until_it_succeeds([&] { precision.allocate_rows(0, ranges, bits.span()); },
                               [&] {
                                 check_unchanged();
                                 CHECK(bits.is_untouched());
                               }) > 0);
  CHECK(fail_until_it_succeeds([&] { (void)precision.save(); }, check_unchanged) > 0);
  CHECK(fail_until_it_succeeds([&] { precision.restore(state); }, check_unchanged) > 0);
  CHECK(precision.save() == state);
  CHECK(widths_of(precision) == widths_of(source));
}

TEST_CASE("AutoPrecision: a step whose all_reduce throws loses no observation") {
  for (const bool writes_first : {false, true}) {
    bool is_down = false;
    AutoPrecisionOptions options{.average_bits = 2.5, .solve_interval = 2};
    options.all_reduce = [&](std::span<double> sums) {
      if (!is_down) return;
      if (writes_first) sums[0] = sums[5] = -1;
      throw std::runtime_error("connection lost");
    };
    AutoPrecision precision = make(options, mixed_tensors());
    AutoPrecision undisturbed = precision;
    for (std::uint64_t step = 0; step < 6; ++step) {
      observe_model(precision, mixed_tensors(), false, step);
      observe_model(undisturbed, mixed_tensors(), false, step);
      const bool is_due = step == 0 || step % 2 == 1;
      is_down = true;
      const std::vector<std::byte> before = precision.save();
      if (is_due) {
        CHECK_THROWS_AS(precision.step(), std::runtime_error);
        CHECK(precision.save() == before);
      }
      is_down = false;
      CHECK(precision.step() == is_due);
      CHECK(undisturbed.step() == is_due);
      CHECK(precision.save() == undisturbed.save());
    }
  }
}
