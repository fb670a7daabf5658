// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the training loop: the loss falls, the learning rate follows its cycle, and a controller
// of widths sees probes first.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using Context = Codec::Context;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

const auto no_progress = [](std::int64_t) {};

Network make_network(const Batch& data) {
  return {net_a(0), 10, measure_pixels(data.pixels.span()), 0};
}

TEST_CASE("train: a few steps on generated data lower the loss alike in every form") {
  const Batch data = generate_data(64, 1);
  for (const Context context :
       {Context::full_precision, Context::lean, Context::sign_magnitude, Context::affine}) {
    Codec codec;
    codec.context = context;
    Network network = make_network(data);
    Contexts contexts(codec, 0);
    const TrainingReport report = train(network, data, 0, 12, 100, contexts, no_progress);
    REQUIRE(report.losses.size() == 12);
    CHECK(report.losses.back() < 0.85 * report.losses.front());
  }
}

TEST_CASE("train: the rate follows the cycle, whose start does not depend on its length") {
  const Batch data = generate_data(16, 1);
  const auto weights_after = [&](std::int64_t steps, std::int64_t cycle) {
    Contexts contexts(Codec::full_precision(), 5);
    Network network = make_network(data);
    train(network, data, 7, steps, cycle, contexts, no_progress);
    std::vector<float> weights;
    for (const Parameter* parameter : network.parameters()) {
      weights.insert(weights.end(), parameter->value.span().begin(), parameter->value.span().end());
    }
    return weights;
  };
  CHECK(weights_after(1, 4) == weights_after(1, 100));
  CHECK(weights_after(2, 4) != weights_after(2, 100));
}

TEST_CASE("train: a controller sees probes before it chooses widths") {
  const Batch data = generate_data(16, 1);
  Codec codec;
  codec.context = Context::affine;
  codec.average_bits = 2;
  Contexts contexts(codec, 5);
  Network network = make_network(data);
  train(network, data, 7, 1, 4, contexts, no_progress);
  // Without a probe all tensors look alike.
  const std::vector<int> bits = contexts.width_control()->bits();
  CHECK(std::ranges::adjacent_find(bits, std::not_equal_to()) != bits.end());
}

}  // namespace
