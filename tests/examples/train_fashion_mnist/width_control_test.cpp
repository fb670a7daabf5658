// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks widths within a budget: what probes change and what they leave alone, that the budget
// holds, and that the widths lower the gradient's variance.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using Context = Codec::Context;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

constexpr std::int64_t classes = 4;

Network make_network() {
  return {{{{12, 12, 1}, 8, true}, {{6, 6, 8}, 8, true}, {{3, 3, 8}, 8, false}},
          classes,
          PixelScale{1.0f / 64, -2.0f},
          3};
}

Batch random_batch(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Batch batch{Tensor<std::uint8_t>(32, 144), {}};
  for (std::uint8_t& pixel : batch.pixels.span()) pixel = static_cast<std::uint8_t>(random());
  for (int image = 0; image < 32; ++image) {
    batch.labels.push_back(static_cast<std::uint8_t>(random() % classes));
  }
  return batch;
}

std::vector<std::vector<float>> values_of(Network& network) {
  std::vector<std::vector<float>> values;
  for (const Parameter* parameter : network.parameters()) {
    values.emplace_back(parameter->value.span().begin(), parameter->value.span().end());
  }
  return values;
}

Codec budget_of(Context context, double average_bits) {
  Codec codec;
  codec.context = context;
  codec.average_bits = average_bits;
  return codec;
}

double squared_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
  }
  return sum;
}

Options parse(const std::vector<const char*>& arguments) { return parse_options(arguments); }

}  // namespace

TEST_CASE("Contexts: a probe repeats a step's rounding but for one tensor's") {
  Network network = make_network();
  const Batch batch = random_batch(1);
  for (const Context context : {Context::affine, Context::sign_magnitude}) {
    CAPTURE(context);
    Contexts contexts(budget_of(context, 2), 5);
    const auto probe = [&](std::size_t tensor) {
      contexts.steps().begin_probe(tensor);
      return gradient_of(network, batch, contexts);
    };
    const std::vector<float> gradient = probe(1 << 15);
    CHECK(probe(1 << 15) == gradient);
    const std::size_t tensors = contexts.width_control()->num_tensors();
    CHECK(tensors ==
          (context == Context::affine ? 7 : 3));  // the affine input, and two for each block
    for (std::size_t tensor = 0; tensor < tensors; ++tensor) {
      CAPTURE(tensor);
      const std::vector<float> other = probe(tensor);
      CHECK(other != gradient);
      CHECK(probe(tensor) == other);
    }
    contexts.steps().end_probes();
    CHECK(gradient_of(network, batch, contexts) != gradient);  // the next step is rounded afresh
  }
}

TEST_CASE("probe_tensors: leaves the weights alone") {
  Network network = make_network();
  const std::vector<std::vector<float>> before = values_of(network);
  Contexts contexts(budget_of(Context::sign_magnitude, 2), 5);
  probe_tensors(network, random_batch(1), contexts);
  CHECK(values_of(network) == before);
}

// The budget is spent where gradients vary: at 2 bits the widths found must not be worse than 2
// bits for all. Means over 64 gradients of squared distances whose deviation is below their mean
// (they sum many weights' errors): 4 standard errors of each are 50 %, which the ratio's bound
// adds.
TEST_CASE("WidthControl: within the budget, and no worse than one width for all") {
  Network network = make_network();
  const Batch batch = random_batch(1);
  Codec exact_codec;
  exact_codec.context = Context::full_precision;
  Contexts exact_contexts(exact_codec, 1);
  const std::vector<float> exact = gradient_of(network, batch, exact_contexts);
  const auto variance_of = [&](Contexts& contexts) {
    double sum = 0;
    for (int i = 0; i < 64; ++i) {
      sum += squared_distance(gradient_of(network, batch, contexts), exact);
    }
    return sum / 64;
  };
  const std::array<std::int64_t, 7> image_numels = {144, 1152, 288, 288, 72, 72, 72};
  double last_variance = 0;
  for (const double average_bits : {1.0, 1.5, 2.0, 4.0, 8.0}) {
    CAPTURE(average_bits);
    Contexts contexts(budget_of(Context::affine, average_bits), 5);
    for (std::uint64_t i = 0; i < 4; ++i) probe_tensors(network, random_batch(i), contexts);
    WidthControl& control = *contexts.width_control();
    control.step();
    std::int64_t bits = 0;
    std::int64_t numel = 0;
    for (std::size_t tensor = 0; tensor < image_numels.size(); ++tensor) {
      const std::int64_t size = image_numels[tensor];
      bits += size * control.bits(tensor);
      numel += size;
    }
    CHECK(static_cast<double>(bits) <= average_bits * static_cast<double>(numel));
    const double variance = variance_of(contexts);
    if (last_variance > 0) CHECK(variance < 1.5 * last_variance);
    last_variance = variance;
    if (average_bits == 2) {
      Codec uniform_codec = budget_of(Context::affine, 0);
      Contexts uniform(uniform_codec, 6);
      CHECK(variance < 1.5 * variance_of(uniform));
    }
  }
}

TEST_CASE("--average-bits: from 1 to 8, and with nothing that contradicts it") {
  CHECK(parse({"--average-bits", "1.5"}).codec.average_bits == 1.5);
  CHECK(!parse({"--average-bits", "1.5"}).compares);
  CHECK_THROWS_AS(parse({"--average-bits", "0.5"}), OptionError);
  CHECK_THROWS_AS(parse({"--average-bits", "9"}), OptionError);
  CHECK_THROWS_AS(parse({"--average-bits", "two"}), OptionError);
  CHECK_THROWS_AS(parse({"--average-bits", "1.5", "--bits", "4"}), OptionError);
  CHECK_THROWS_AS(parse({"--average-bits", "1.5", "--range", "tensor"}), OptionError);
}
