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
#include <utility>
#include <vector>

#include "common/memory.hpp"
#include "common/saved_tensor.hpp"
#include "examples/train_gpt/support.hpp"
#include "research/gradient_check.hpp"
#include "train_gpt/layers.hpp"

namespace {

using namespace gpt;
using namespace support;
using Form = SavedFormat::Form;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

SavedTensor make_saved(std::int64_t tokens, std::int64_t channels, std::int64_t tile,
                       SavedFormat::Form form, int bits, trainer::CodecClock& clock) {
  SavedFormat format{.form = form,
                     .layout = {.rows = tokens / tile, .row_size = tile * channels, .bits = bits}};
  format.set_rounding(actpack::Rounding::stochastic(9, 1), true);
  return {format, channels, clock};
}

TEST_CASE("saved tensor: tiles, saved in any order, give back what the whole does") {
  const std::int64_t tokens = 24;
  const std::int64_t channels = 40;
  const std::int64_t tile = 4;
  const std::vector<float> values = normal_values(tokens * channels, 1);
  trainer::CodecClock clock;
  for (const Form form : {Form::floats, Form::affine, Form::sign_magnitude}) {
    SavedTensor whole = make_saved(tokens, channels, tile, form, 2, clock);
    whole.save(0, values);
    SavedTensor tiled = make_saved(tokens, channels, tile, form, 2, clock);
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
    CHECK((expected == values) == (form == Form::floats));
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
    SavedTensor saved = make_saved(tokens, inputs, 8, Form::affine, bits, clock);
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

research::GradientBias check(Model model, const SavePolicy& policy, std::int64_t draws) {
  const ModelShape& shape = model.shape();
  const Batch batch = random_batch(2, shape.context);
  const std::vector<float> expected = gradient_of(model, batch, exact);
  ActivationStore store(shape, policy, 17);
  return research::measure_bias(
      expected, [&] { return gradient_of(model, batch, store); }, draws, [] {});
}

TEST_CASE("rounding: the mean of many gradients converges to the exact one, kind by kind") {
  for (const Kind kind : {Kind::value, Kind::attention_output, Kind::gelu, Kind::mlp_output}) {
    CAPTURE(kind_names[index_of(kind)]);
    SavePolicy policy = exact;
    policy.bits_of(kind) = 2;
    const research::GradientBias report = check(make_model(packing_shape()), policy, 200);
    // 1 without bias; the deviation is itself an estimate, from 100 squares of products.
    CHECK(report.error_of_one > 1e-3);
    CHECK(std::abs(report.excess - 1) < 5 * report.excess_deviation);
    CHECK(report.excess_deviation < 0.3);
  }
}

TEST_CASE("rounding: all kinds together as shipped leave no bias that 200 gradients would show") {
  for (const int bits : {8, 4}) {
    CAPTURE(bits);
    const research::GradientBias report =
        check(Model(packing_shape(), 3), SavePolicy::shipped(bits), 200);
    CHECK(std::abs(report.excess - 1) < 5 * report.excess_deviation);
    // The mean of 200 is as far off as one, by the square root of 200.
    CHECK(report.error_of_mean * std::sqrt(200.0) <
          report.error_of_one * std::sqrt(1 + 5 * report.excess_deviation));
  }
}

TEST_CASE("rounding: a GELU computed again from a rounded input is biased, and that shows") {
  SavePolicy policy = exact;
  policy.bits_of(Kind::gelu) = 2;
  policy.gelu = SavePolicy::Gelu::input;
  const research::GradientBias report = check(make_model(packing_shape()), policy, 200);
  CHECK(report.excess > 1 + 10 * report.excess_deviation);
  CHECK(report.bias() > 0.5 * report.error_of_mean);
}

TEST_CASE("rounding: errors shrink with the step, by width") {
  const double at_8 = check(Model(packing_shape(), 3), SavePolicy::all(8), 20).error_of_one;
  const double at_4 = check(Model(packing_shape(), 3), SavePolicy::all(4), 20).error_of_one;
  const double at_2 = check(Model(packing_shape(), 3), SavePolicy::all(2), 20).error_of_one;
  // Steps are 17 and 5 times as long, but for bfloat16's share; means of 20 are good to some 10 %.
  CHECK(std::abs(at_4 / at_8 / 17 - 1) < 0.2);
  CHECK(std::abs(at_2 / at_4 / 5 - 1) < 0.2);
}

TEST_CASE("rounding: the same by seed and step, another by seed, step, rank and tensor") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(2, shape.context);
  const SavePolicy policy = SavePolicy::shipped(2);
  ActivationStore first(shape, policy, 1);
  ActivationStore again(shape, policy, 1);
  ActivationStore other_seed(shape, policy, 2);
  ActivationStore other_rank(shape, policy, 1, 1);
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
  const auto step = [&](const SavePolicy& policy) {
    ActivationStore store(shape, policy, 0);
    model.forward_backward(batch, store);  // whatever the first one sets up
    const std::int64_t before = trainer::memory::live_bytes();
    const trainer::StepReport report = model.forward_backward(batch, store);
    CHECK(trainer::memory::live_bytes() == before);  // contexts and transients are really freed
    return report;
  };
  // In channels: six tensors of 1, two of 4. Beside them 1 / deviation of two layer norms.
  const auto stored = [&](double bits_of_6, double bits_of_2) {
    const double bits = 64 * (6 * bits_of_6 + 2 * 4 * bits_of_2) + 2 * 32;
    return static_cast<std::int64_t>(static_cast<double>(shape.layers * tokens) * bits / 8);
  };
  CHECK(step(exact).saved_bytes == stored(32, 32));
  CHECK(step(SavePolicy::all(2)).saved_bytes == stored(2.125, 2.125));
  CHECK(step(SavePolicy::all(8)).saved_bytes == stored(8.125, 8.125));
  CHECK(step(SavePolicy::shipped(2)).saved_bytes == stored((4 * 2.125 + 2 * 8.125) / 6, 2.125));
  SavePolicy with_sign = SavePolicy::all(2);
  with_sign.gelu = SavePolicy::Gelu::input_with_sign;
  CHECK(step(with_sign).saved_bytes == stored(2.125, 3.125 / 2));

  // The peak: what is stored, the residual stream, and less than 64 KiB of bookpolicy.
  const std::int64_t stream = tokens * shape.channels * 4;
  for (const SavePolicy& policy : {exact, SavePolicy::shipped(2)}) {
    const trainer::StepReport report = step(policy);
    CHECK(report.peak_bytes >= report.saved_bytes + stream);
    CHECK(report.peak_bytes < report.saved_bytes + stream + (64 << 10));
  }
}

}  // namespace
