// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks what rounding saved tensors does: within its bounds, without bias where the backward pass
// is linear, in the bytes that it promises.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory.hpp"
#include "support.hpp"
#include "train_gpt/budget.hpp"
#include "train_gpt/gradient_check.hpp"
#include "train_gpt/layers.hpp"
#include "train_gpt/saved_tensor.hpp"

namespace {

using namespace gpt;
using namespace support;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

Packing affine(int bits, std::uint64_t stream = 1) {
  const actpack::Rounding rounding = actpack::Rounding::stochastic(9, stream);
  return {.form = Packing::Form::affine,
          .bits = bits,
          .rounding = rounding,
          .decoding = actpack::Decoding::subtractive(rounding)};
}

TEST_CASE("saved tensor: tiles, saved in any order, give back what the whole does") {
  const std::int64_t tokens = 24;
  const std::int64_t channels = 40;
  const std::int64_t tile = 4;
  const std::vector<float> values = normal_values(tokens * channels, 1);
  trainer::CodecClock clock;
  for (const Packing::Form form :
       {Packing::Form::floats, Packing::Form::affine, Packing::Form::sign_magnitude}) {
    Packing packing = affine(2);
    packing.form = form;
    SavedTensor whole(tokens, channels, tile, packing, clock);
    whole.save(0, values);
    SavedTensor tiled(tokens, channels, tile, packing, clock);
    for (const std::int64_t first : {8, 0, 20, 4, 16, 12}) {
      tiled.save(first, part(std::span<const float>(values), first * channels, tile * channels));
    }
    std::vector<float> expected(values.size());
    std::vector<float> scratch(values.size());
    std::ranges::copy(whole.load(0, scratch), expected.begin());
    CHECK(std::ranges::equal(tiled.load(0, scratch), expected));
    for (std::int64_t first = 0; first < tokens; ++first) {  // any token may be the first
      std::vector<float> room(static_cast<std::size_t>(channels));
      CHECK(std::ranges::equal(tiled.load(first, room),
                               part(std::span<const float>(expected), first * channels, channels)));
    }
    CHECK((expected == values) == (form == Packing::Form::floats));
  }
}

TEST_CASE("linear layer: from a rounded input, each weight's gradient is within its bound") {
  const std::int64_t tokens = 16;
  const std::int64_t inputs = 32;
  const std::int64_t outputs = 8;
  const std::vector<float> x = normal_values(tokens * inputs, 1);
  const std::vector<float> dy = normal_values(tokens * outputs, 2);
  trainer::CodecClock clock;
  const auto gradient_from = [&](std::span<const float> values) {
    std::vector<float> gradient(static_cast<std::size_t>((inputs + 1) * outputs), 0.0f);
    Carver<float> carver{std::span<float>(gradient)};
    linear::add_parameter_gradient(values, dy, {carver, inputs, outputs});
    return gradient;
  };
  const std::vector<float> exact_gradient = gradient_from(x);
  for (const int bits : {8, 4, 2}) {
    CAPTURE(bits);
    SavedTensor saved(tokens, inputs, 8, affine(bits), clock);
    saved.save(0, x);
    std::vector<float> scratch(x.size());
    const std::vector<float> gradient = gradient_from(saved.load(0, scratch));
    const auto [low, high] = std::ranges::minmax(x);
    // Subtractive decoding is off by half a step at most. Steps are a group's range over the
    // largest code, and up to 2^-7 longer for each of the two bfloat16 parameters.
    const double half_step = 0.5 * (double{high} - double{low}) * (1 + 0x1p-6) / ((1 << bits) - 1);
    for (std::int64_t o = 0; o < outputs; ++o) {
      double bound = 1e-5;  // float sums of 16 products
      for (std::int64_t token = 0; token < tokens; ++token) {
        bound += half_step * std::abs(double{dy[static_cast<std::size_t>(token * outputs + o)]});
      }
      double largest = 0;
      for (std::int64_t i = 0; i < inputs; ++i) {
        const std::size_t at = static_cast<std::size_t>(i * outputs + o);
        largest = std::max(largest, std::abs(double{gradient[at]} - double{exact_gradient[at]}));
      }
      CHECK(largest <= bound);
      // Not by far: 16 errors of a third of the bound's share each, the largest of 32 sums of them.
      CHECK(largest > 0.05 * bound);
    }
  }
}

GradientReport check(Model model, const Keeping& keeping, std::int64_t draws) {
  const ModelShape& shape = model.shape();
  const Batch batch = random_batch(2, shape.context);
  const std::vector<float> expected = gradient_of(model, batch, exact);
  ActivationStore store(shape, keeping, 17);
  return check_gradient(model, batch, expected, store, draws, [] {});
}

TEST_CASE("rounding: the mean of many gradients converges to the exact one, kind by kind") {
  for (const Kind kind : {Kind::value, Kind::attention_output, Kind::gelu, Kind::mlp_output}) {
    CAPTURE(kind_names[index_of(kind)]);
    Keeping keeping = exact;
    keeping.bits_of(kind) = 2;
    const GradientReport report = check(make_model(packing_shape()), keeping, 200);
    // 1 without bias; the deviation is itself an estimate, from 100 squares of products.
    CHECK(report.error_of_one > 1e-3);
    CHECK(std::abs(report.excess - 1) < 5 * report.excess_deviation);
    CHECK(report.excess_deviation < 0.3);
  }
}

TEST_CASE("rounding: all kinds together as shipped leave no bias that 200 gradients would show") {
  for (const int bits : {8, 4}) {
    CAPTURE(bits);
    const GradientReport report = check(Model(packing_shape(), 3), Keeping::shipped(bits), 200);
    CHECK(std::abs(report.excess - 1) < 5 * report.excess_deviation);
    // The mean of 200 is as far off as one, by the square root of 200.
    CHECK(report.error_of_mean * std::sqrt(200.0) <
          report.error_of_one * std::sqrt(1 + 5 * report.excess_deviation));
  }
}

TEST_CASE("rounding: a GELU computed again from a rounded input is biased, and that shows") {
  Keeping keeping = exact;
  keeping.bits_of(Kind::gelu) = 2;
  keeping.gelu = Keeping::Gelu::input;
  const GradientReport report = check(make_model(packing_shape()), keeping, 200);
  CHECK(report.excess > 1 + 10 * report.excess_deviation);
  CHECK(report.bias() > 0.5 * report.error_of_mean);
}

TEST_CASE("rounding: errors shrink with the step, by width") {
  const double at_8 = check(Model(packing_shape(), 3), Keeping::all(8), 20).error_of_one;
  const double at_4 = check(Model(packing_shape(), 3), Keeping::all(4), 20).error_of_one;
  const double at_2 = check(Model(packing_shape(), 3), Keeping::all(2), 20).error_of_one;
  // Steps are 17 and 5 times as long, but for bfloat16's share; means of 20 are good to some 10 %.
  CHECK(std::abs(at_4 / at_8 / 17 - 1) < 0.2);
  CHECK(std::abs(at_2 / at_4 / 5 - 1) < 0.2);
}

TEST_CASE("rounding: the same by seed and step, another by seed, step, rank and tensor") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(2, shape.context);
  const Keeping keeping = Keeping::shipped(2);
  ActivationStore first(shape, keeping, 1);
  ActivationStore again(shape, keeping, 1);
  ActivationStore other_seed(shape, keeping, 2);
  ActivationStore other_rank(shape, keeping, 1, 1);
  const std::vector<float> gradient = gradient_of(model, batch, first);
  CHECK(gradient_of(model, batch, again) == gradient);
  CHECK(gradient_of(model, batch, other_seed) != gradient);
  CHECK(gradient_of(model, batch, other_rank) != gradient);
  CHECK(gradient_of(model, batch, first) != gradient);  // the next step

  const std::vector<float> values = normal_values(16 * 32, 1);
  first.begin_step();
  std::vector<std::vector<float>> decoded;
  for (const std::int64_t layer : {0, 1}) {
    for (const Kind kind : {Kind::attention_input, Kind::value, Kind::attention_output}) {
      SavedTensor tensor = first.make(layer, kind, 16);
      tensor.save(0, values);
      std::vector<float> scratch(values.size());
      tensor.load(0, scratch);
      for (const std::vector<float>& earlier : decoded) CHECK(scratch != earlier);
      decoded.push_back(scratch);
    }
  }
}

TEST_CASE("bytes: what is stored is what the widths say, and the allocator agrees") {
  const ModelShape shape{.layers = 3, .channels = 64, .heads = 4, .context = 64};
  const std::int64_t sequences = 4;
  const std::int64_t tokens = sequences * shape.context;
  Model model(shape, 0);
  const Batch batch = random_batch(sequences, shape.context);
  const auto step = [&](const Keeping& keeping) {
    ActivationStore store(shape, keeping, 0);
    model.forward_backward(batch, store);  // whatever the first one sets up
    const std::int64_t before = trainer::memory::live_bytes();
    const StepReport report = model.forward_backward(batch, store);
    CHECK(trainer::memory::live_bytes() == before);  // contexts and transients are really freed
    return report;
  };
  // In channels: six tensors of 1, two of 4. Beside them 1 / deviation of two layer norms.
  const auto stored = [&](double bits_of_6, double bits_of_2) {
    const double bits = 64 * (6 * bits_of_6 + 2 * 4 * bits_of_2) + 2 * 32;
    return static_cast<std::int64_t>(static_cast<double>(shape.layers * tokens) * bits / 8);
  };
  CHECK(step(exact).stored_bytes == stored(32, 32));
  CHECK(step(Keeping::all(2)).stored_bytes == stored(2.125, 2.125));
  CHECK(step(Keeping::all(8)).stored_bytes == stored(8.125, 8.125));
  CHECK(step(Keeping::shipped(2)).stored_bytes == stored((4 * 2.125 + 2 * 8.125) / 6, 2.125));
  Keeping with_sign = Keeping::all(2);
  with_sign.gelu = Keeping::Gelu::input_with_sign;
  CHECK(step(with_sign).stored_bytes == stored(2.125, 3.125 / 2));

  // The peak: what is stored, the residual stream, and less than 64 KiB of bookkeeping.
  const std::int64_t stream = tokens * shape.channels * 4;
  for (const Keeping& keeping : {exact, Keeping::shipped(2)}) {
    const StepReport report = step(keeping);
    CHECK(report.peak_bytes >= report.stored_bytes + stream);
    CHECK(report.peak_bytes < report.stored_bytes + stream + (64 << 10));
  }
}

TEST_CASE("budget: bisection finds the largest number that fits") {
  for (const std::int64_t largest : {0, 1, 2, 3, 7, 8, 9, 99, 100}) {
    CAPTURE(largest);
    int tries = 0;
    const std::int64_t found = largest_that_fits(100, [&](std::int64_t tried) {
      REQUIRE(tried >= 1);
      REQUIRE(tried <= 100);
      ++tries;
      return tried <= largest;
    });
    CHECK(found == largest);
    CHECK(tries <= 15);  // twice log2(100), and one
  }
}

TEST_CASE("budget: one sequence or layer more does not fit, and packed far more fits") {
  const ModelShape shape = packing_shape();
  const std::int64_t budget = 600'000;
  const auto filled = [&](const Keeping& keeping) {
    const BudgetReport report = fill_budget(shape, 4, keeping, budget);
    CHECK(measured_peak(shape, report.sequences, keeping) <= budget);
    CHECK(measured_peak(shape, report.sequences + 1, keeping) > budget);
    ModelShape deeper = shape;
    deeper.layers = report.layers;
    CHECK(measured_peak(deeper, 4, keeping) <= budget);
    ++deeper.layers;
    CHECK(measured_peak(deeper, 4, keeping) > budget);
    return report;
  };
  const BudgetReport full = filled(exact);
  const BudgetReport packed = filled(Keeping::shipped(2));
  CHECK(packed.sequences > 6 * full.sequences);
  CHECK(packed.layers > 6 * full.layers);
}

}  // namespace
