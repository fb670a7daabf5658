// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Training goes on from AutoPrecision's saved state; damaged states and those of others are
// refused; copies and neighbours are independent.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <actpack/detail/checksum.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/serialize.hpp>

#include "support/auto_precision/observations.hpp"
#include "support/auto_precision/tensors.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"

namespace {

using namespace support::auto_precision;
using support::Generator;

using Bytes = std::vector<std::byte>;

// Number `index` of a state, after the header.
std::uint64_t word(const Bytes& bytes, std::size_t index) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[72 + 8 * index + i]);
  }
  return value;
}

void set_bytes(Bytes& bytes, std::size_t first, std::uint64_t value, std::size_t size = 8) {
  for (std::size_t i = 0; i < size; ++i) bytes[first + i] = static_cast<std::byte>(value >> 8 * i);
}

// With the checksum of the bytes as they are.
Bytes sealed(Bytes bytes) {
  const std::span<const std::byte> checked(bytes.data(), bytes.size() - 8);
  set_bytes(bytes, bytes.size() - 8, actpack::detail::checksum(checked));
  return bytes;
}

// With another number in one place, as if it had been saved so.
Bytes with_word(Bytes bytes, std::size_t index, std::uint64_t value) {
  set_bytes(bytes, 72 + 8 * index, value);
  return sealed(std::move(bytes));
}

std::uint64_t number(double value) { return std::bit_cast<std::uint64_t>(value); }

// Two rows of 40 after a solution, and observations since.
AutoPrecision small_controller() {
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  precision.observe_noise(0, std::vector<Table>{{8, 4, 2, 1}, {16, 8, 4, 2}});
  precision.observe_gains(0, std::vector<double>{3, not_a_number});
  precision.step();
  precision.observe_noise(0, std::vector<Table>{{1, 0.5, 0.25, 0}, {5, 4, 3, 2}});
  precision.observe_gains(0, std::vector<double>{not_a_number, 7});
  precision.observe_gains(0, std::vector<double>{not_a_number, 9});
  return precision;
}

}  // namespace

TEST_CASE("AutoPrecision: training goes on from a checkpoint as if it had not stopped") {
  for (const std::uint64_t every : {1U, 3U, 7U, 40U}) {
    CAPTURE(every);
    const AutoPrecisionOptions options{.average_bits = 2.25, .decay = 0.75, .solve_interval = 4};
    AutoPrecision whole = make(options, mixed_tensors());
    AutoPrecision resumed = make(options, mixed_tensors());
    for (std::uint64_t step = 0; step < 200; ++step) {
      CAPTURE(step);
      observe_anything(whole, mixed_tensors(), 1000 + step);
      // In the middle of a step, or at its end.
      if (step % every == 0 && step % 2 == 0) {
        AutoPrecision next = make(options, mixed_tensors());
        next.restore(resumed.save());
        // Nothing but the restored state matters.
        CHECK(next.save() == resumed.save());
        CHECK(widths_of(next) == widths_of(resumed));
        resumed = std::move(next);
      }
      observe_anything(resumed, mixed_tensors(), 1000 + step);
      CHECK(whole.step() == resumed.step());
      if (step % every == 0 && step % 2 == 1) {
        const Bytes state = resumed.save();
        // Into one that has a history of its own, which is forgotten.
        AutoPrecision next = make(options, mixed_tensors());
        observe_anything(next, mixed_tensors(), 5000);
        next.step();
        observe_anything(next, mixed_tensors(), 6000);
        next.restore(state);
        resumed = std::move(next);
      }
      REQUIRE(widths_of(whole) == widths_of(resumed));
      REQUIRE(whole.save() == resumed.save());
    }
  }
}

TEST_CASE("AutoPrecision: whatever was observed or reduced, its state is restored") {
  std::uint64_t call = 0;
  const std::vector<double> extremes{
      0, -0.0, 1e140, std::nextafter(1e140, 2e140), 1e150, 1e308, not_a_number, infinity, 5e-324};
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    if (support::is_left_out(seed)) continue;
    CAPTURE(seed);
    Generator generator(seed);
    const std::vector<TensorSpec> tensors = random_tensors(generator);
    AutoPrecisionOptions options{.average_bits = generator.uniform(1, 6),
                                 .decay = generator.uniform(),
                                 .solve_interval = 1 + generator.below(3)};
    if (generator.below(3) == 0) options.byte_budget = std::int64_t{1} << 40;
    const double reduced_part = generator.below(2) == 0 ? 0.1 : 0.9;
    options.all_reduce = [&call, &extremes, reduced_part](std::span<double> sums) {
      Generator other(call);
      for (double& sum : sums) {
        if (other.uniform() > reduced_part) continue;
        sum = extremes[other.below(static_cast<std::uint32_t>(extremes.size()))];
        if (other.below(4) == 0) sum = -sum;
      }
    };
    if (seed % 3 == 0) options.all_reduce = {};
    AutoPrecision precision = make(options, tensors);
    for (int step = 0; step < 12; ++step) {
      CAPTURE(step);
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        Observation seen = random_observation(tensors[t], generator.below(2) == 0, generator);
        const auto extreme = [&](double ordinary) {
          return generator.below(2) == 0
                     ? ordinary
                     : extremes[generator.below(static_cast<std::uint32_t>(extremes.size()))];
        };
        for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
          seen.ranges[row] = extreme(seen.ranges[row]);
          seen.gains[row] = extreme(seen.gains[row]);
          for (double& noise : seen.noise[row]) noise = extreme(noise);
        }
        observe(precision, t, seen);
        try {
          precision.observe_perturbation(t, extreme(1));
        } catch (const std::invalid_argument&) {  // its noise was never observed
        }
      }
      AutoPrecision next = make(options, tensors);
      next.restore(precision.save());
      CHECK(next.save() == precision.save());
      ++call;
      CHECK(precision.step() == next.step());
      REQUIRE(next.save() == precision.save());
      CHECK(widths_of(next) == widths_of(precision));
      CHECK(are_widths(widths_of(next), 1, 8));
      make(options, tensors).restore(next.save());
    }
  }
}

TEST_CASE("AutoPrecision: averages do not grow beyond what counts") {
  for (int k = 1; k < 200; ++k) {
    const AutoPrecisionOptions options{.decay = k / 200.0, .solve_interval = 1};
    AutoPrecision precision = make(options, {spec(1, 40)});
    for (int step = 0; step < 4; ++step) {
      precision.observe_noise(0, std::vector<Table>{{1e140, 1e140, 1e140, 1e140}});
      precision.observe_gains(0, std::vector<double>{1e140});
      precision.step();
      CHECK_NOTHROW(make(options, {spec(1, 40)}).restore(precision.save()));
    }
  }
}

TEST_CASE("AutoPrecision: the bytes of a small state are these") {
  const Bytes state = small_controller().save();
  const AutoPrecision precision = small_controller();
  const std::vector<std::uint64_t> expected{
      0, number(2), 1, 8, number(0.5),  // options
      1, 1, 1,                          // steps, measured, tensors
      2, 40, 32, 8, 0,                  // rows, row size, group size, last row size, per row
      // Averages: noise by width, gain, which of the two are known.
      number(8), number(4), number(2), number(1), number(3), 3,   //
      number(16), number(8), number(4), number(2), number(0), 1,  //
      // Sums since then: noise by width and how many, gains and how many.
      number(1), number(0.5), number(0.25), number(0), number(1), number(0), number(0),  //
      number(5), number(4), number(3), number(2), number(1), number(16), number(2),      //
      number(1),  // how many noises were measured, and widths
      std::uint64_t{precision.row_bits(0)[0]} | std::uint64_t{precision.row_bits(0)[1]} << 8

  };
  REQUIRE(state.size() == 72 + 8 * expected.size() + 8);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(word(state, i) == expected[i]);
  }
  CHECK(state == sealed(state));
  CHECK(actpack::FrameView(state).form() == actpack::Form::controller);
  CHECK(precision.save() == state);
}

namespace {

void check_unrestorable(AutoPrecision& target, const Bytes& bytes,
                        const std::vector<std::string>& words) {
  const Bytes own = target.save();
  const Widths widths = widths_of(target);
  support::check_refused([&] { target.restore(bytes); }, words);
  CHECK(target.save() == own);
  CHECK(widths_of(target) == widths);
}

}  // namespace

TEST_CASE("AutoPrecision: a state is restored from any address") {
  const Bytes state = small_controller().save();
  for (std::size_t shift = 0; shift < 8; ++shift) {
    Bytes shifted(shift);
    shifted.insert(shifted.end(), state.begin(), state.end());
    AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
    precision.restore(std::span<const std::byte>(shifted).subspan(shift));
    CHECK(precision.save() == state);
  }
}

TEST_CASE("AutoPrecision: states that are cut, flipped or of another kind are refused") {
  const Bytes state = small_controller().save();
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  observe_anything(precision, {spec(2, 40, PrecisionPer::row, 8)}, 1000);
  for (std::size_t size = 0; size < state.size(); ++size) {
    const Bytes cut(state.begin(), state.begin() + static_cast<std::ptrdiff_t>(size));
    check_unrestorable(precision, cut, {"state", std::to_string(size)});
  }
  for (const std::size_t surplus : {1U, 7U, 8U, 800U}) {
    Bytes longer = state;
    longer.resize(state.size() + surplus);
    check_unrestorable(
        precision, longer,
        {"state", std::to_string(state.size() + surplus), std::to_string(state.size())});
  }
  for (std::size_t bit = 0; bit < 8 * state.size(); ++bit) {
    if (support::is_left_out(bit)) continue;
    CAPTURE(bit);
    Bytes flipped = state;
    flipped[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    check_unrestorable(precision, flipped, {"state"});
  }
  // Numbers too few or too many, all else in order.
  for (const std::ptrdiff_t change : {-16, -8, 8, 16}) {
    Bytes other = state;
    other.resize(static_cast<std::size_t>(static_cast<std::ptrdiff_t>(state.size()) + change));
    set_bytes(other, 16, other.size());
    check_unrestorable(precision, sealed(other), {"state", "bytes"});
  }
  for (const std::uint64_t version : {0U, 1U, 3U, 257U}) {
    Bytes other = state;
    set_bytes(other, 52, version, 4);
    check_unrestorable(precision, sealed(other), {"version", std::to_string(version), "2"});
  }
  actpack::PackedBuffer packed(Layout{.row_size = 40});
  actpack::quantize(std::vector<float>(40), packed.view(), actpack::Rounding::nearest());
  Bytes tensor(actpack::serialized_size(packed.view()));
  actpack::serialize(packed.view(), actpack::ElementType::float32, actpack::Rounding::nearest(),
                     tensor);
  check_unrestorable(precision, tensor, {"state", "affine", "AutoPrecision"});
  precision.restore(state);  // which was good all along
  CHECK(precision.save() == state);
}

TEST_CASE("AutoPrecision: states of other tensors are refused") {
  const Bytes state = small_controller().save();
  const std::vector<std::vector<TensorSpec>> shapes{
      {},
      {spec(3, 40, PrecisionPer::row, 8)},
      {spec(2, 41, PrecisionPer::row, 8)},
      {spec(2, 40, PrecisionPer::row, 9)},
      {spec(2, 40)},
      {spec(2, 40, PrecisionPer::row, 8, 64)},
      {spec(2, 40, PrecisionPer::tensor, 8)},
      {spec(2, 40, PrecisionPer::row, 8), spec(2, 40, PrecisionPer::row, 8)}};
  for (const std::vector<TensorSpec>& tensors : shapes) {
    AutoPrecision target = make({}, tensors);
    check_unrestorable(target, state, {"state", "instead of"});
  }
  // Two tensors of the shapes of one are not one of the shapes of both.
  AutoPrecision target = make({}, {spec(1, 40), spec(2, 40)});
  check_unrestorable(target, make({}, {spec(2, 40), spec(1, 40)}).save(), {"state", "0", "2", "1"});
}

TEST_CASE("AutoPrecision: states of other options are refused by name and number") {
  const std::vector<TensorSpec> tensors{spec(2, 40)};
  const AutoPrecisionOptions own{
      .average_bits = 2.5, .min_bits = 1, .max_bits = 4, .decay = 0.25, .solve_interval = 3};
  struct Other {
    std::function<void(AutoPrecisionOptions&)> change;
    std::vector<std::string> words;
  };
  const std::vector<Other> others{
      {[](AutoPrecisionOptions& o) { o.average_bits = 3.5; }, {"average_bits"}},
      {[](AutoPrecisionOptions& o) { o.byte_budget = 5000; }, {"byte_budget", "5000", "0"}},
      {[](AutoPrecisionOptions& o) { o.min_bits = 2; }, {"min_bits", "2", "1"}},
      {[](AutoPrecisionOptions& o) { o.max_bits = 8; }, {"max_bits", "8", "4"}},
      {[](AutoPrecisionOptions& o) { o.decay = 0.75; }, {"decay"}},
  };
  for (const Other& other : others) {
    AutoPrecisionOptions options = own;
    other.change(options);
    AutoPrecision saved = make(options, tensors);
    AutoPrecision target = make(own, tensors);
    check_unrestorable(target, saved.save(), other.words);
    check_unrestorable(saved, target.save(), {other.words[0]});
  }
  // What plays no part does not matter: an average beside a byte budget, and how ranks add up.
  AutoPrecision target = make({.average_bits = 3, .byte_budget = 5000}, tensors);
  AutoPrecisionOptions options{.average_bits = 2, .byte_budget = 5000};
  options.all_reduce = [](std::span<double>) {};
  options.solve_interval = 7;  // how often to solve is no part of what was learnt
  CHECK_NOTHROW(target.restore(make(options, tensors).save()));
}

TEST_CASE("AutoPrecision: states whose numbers are out of range are refused, checksum or not") {
  const Bytes state = small_controller().save();
  const double beyond = std::nextafter(1e140, infinity);
  const double largest_sum = 0x1p54 * 1e140;
  const double past_sum = std::nextafter(largest_sum, infinity);
  const double past_count = std::nextafter(0x1p53, infinity);
  const std::vector<std::pair<std::size_t, std::uint64_t>> damages{
      {5, ~std::uint64_t{0}},              // -1 steps
      {5, (std::uint64_t{1} << 62) + 1},   //
      {5, (std::uint64_t{1} << 63) - 1},   //
      {6, 2},                              // neither measured nor not
      {7, 0},                              // tensors
      {7, 2},                              //
      {7, ~std::uint64_t{0}},              //
      {13, number(not_a_number)},          // noise
      {13, number(-1)},                    //
      {13, number(infinity)},              //
      {13, number(beyond)},                //
      {17, number(not_a_number)},          // gain
      {17, number(-1)},                    //
      {17, number(beyond)},                //
      {18, 4},                             // flags
      {25, number(not_a_number)},          // sums
      {25, number(-1)},                    //
      {25, number(past_sum)},              //
      {30, number(past_sum)},              //
      {29, number(not_a_number)},          // how many
      {29, number(-1)},                    //
      {29, number(past_count)},            //
      {31, number(past_count)},            //
      {39, number(past_count)},            //
      {40, 0},                             // widths
      {40, 0x0103},                        //
      {40, 0x0301},                        //
      {40, 0x1001},                        //
      {40, 0x01'00'01'01},                 // padding
      {40, std::uint64_t{1} << 56 | 257},  //
  };
  for (const auto& damage : damages) {
    const std::size_t index = damage.first;
    const std::uint64_t value = damage.second;
    CAPTURE(index);
    CAPTURE(value);
    AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
    check_unrestorable(precision, with_word(state, index, value), {"state"});
  }
  // Widths beyond the limits of the options.
  const AutoPrecisionOptions narrow{.average_bits = 3, .min_bits = 2, .max_bits = 4};
  for (const std::uint64_t widths : {0x0201U, 0x0802U, 0x0108U}) {
    AutoPrecision precision = make(narrow, {spec(2, 40, PrecisionPer::row, 8)});
    check_unrestorable(precision, with_word(precision.save(), 40, widths),
                       {"state", "width", "min_bits", "2", "max_bits", "4"});
  }
}

TEST_CASE("AutoPrecision: the largest numbers of a state lead to no overflow and no exception") {
  Bytes state = small_controller().save();
  for (const std::size_t item : {0U, 1U}) {
    for (const std::size_t place : {0U, 1U, 2U, 3U, 4U}) {
      state = with_word(state, 13 + 6 * item + place, number(1e140));
    }
    state = with_word(state, 18 + 6 * item, 3);
    for (const std::size_t place : {0U, 1U, 2U, 3U, 5U}) {
      state = with_word(state, 25 + 7 * item + place, number(0x1p54 * 1e140));
    }
    for (const std::size_t place : {4U, 6U}) {
      state = with_word(state, 25 + 7 * item + place, number(0x1p53));
    }
  }
  state = with_word(state, 39, number(0x1p53));
  for (const std::uint64_t steps : {std::uint64_t{49}, (std::uint64_t{1} << 62) - 14}) {
    AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
    precision.restore(with_word(state, 5, steps));
    for (int step = 0; step < 12; ++step) {
      precision.observe_noise(0, std::vector<Table>(2, {1e140, 1e140, 1e140, 1e140}));
      precision.observe_gains(0, std::vector<double>(2, 1e140));
      CHECK_NOTHROW(precision.step());
      CHECK_NOTHROW(make({}, {spec(2, 40, PrecisionPer::row, 8)}).restore(precision.save()));
    }
  }
  // As many steps as can be counted: the last is refused and changes nothing.
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  precision.restore(with_word(state, 5, (std::uint64_t{1} << 62) - 1));
  precision.step();
  const Bytes last = precision.save();
  CHECK(word(last, 5) == std::uint64_t{1} << 62);
  support::check_refused([&] { precision.step(); }, {"steps", "4611686018427387904"});
  CHECK(precision.save() == last);
}

TEST_CASE("AutoPrecision: controllers side by side do not influence each other") {
  const std::vector<AutoPrecisionOptions> options{
      {.average_bits = 2, .solve_interval = 1},
      {.average_bits = 3, .min_bits = 2, .decay = 0.9, .solve_interval = 3},
      {.byte_budget = 2000, .max_bits = 4, .solve_interval = 2},
      {.average_bits = 2, .solve_interval = 1},
  };
  std::vector<std::vector<Widths>> alone(options.size());
  for (std::size_t i = 0; i < options.size(); ++i) {
    AutoPrecision precision = make(options[i], mixed_tensors());
    for (std::uint64_t step = 0; step < 30; ++step) {
      observe_anything(precision, mixed_tensors(), 1000 * (i + 1) + step);
      precision.step();
      alone[i].push_back(widths_of(precision));
    }
  }
  std::vector<AutoPrecision> together;
  for (const AutoPrecisionOptions& o : options) together.push_back(make(o, mixed_tensors()));
  for (std::uint64_t step = 0; step < 30; ++step) {
    for (std::size_t i = 0; i < together.size(); ++i) {
      observe_anything(together[i], mixed_tensors(), 1000 * (i + 1) + step);
    }
    for (std::size_t i = together.size(); i-- > 0;) together[i].step();
    for (std::size_t i = 0; i < together.size(); ++i) {
      CHECK(widths_of(together[i]) == alone[i][step]);
    }
  }
  CHECK(alone[0] != alone[3]);  // options alike, observations not
}

TEST_CASE("AutoPrecision: a copy goes its own way") {
  AutoPrecision original = make({.solve_interval = 1}, mixed_tensors());
  observe_anything(original, mixed_tensors(), 1000);
  original.step();
  AutoPrecision copy = original;
  const Bytes before = original.save();
  observe_anything(copy, mixed_tensors(), 1011);
  copy.step();
  CHECK(original.save() == before);
  observe_anything(original, mixed_tensors(), 1011);
  original.step();
  CHECK(original.save() == copy.save());
}
