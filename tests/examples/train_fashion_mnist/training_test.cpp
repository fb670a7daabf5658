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
#include <random>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "examples/support.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using namespace support;
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
    Training training(network, data, 0, 12, 100, contexts);
    finish(training, no_progress);
    const TrainingReport& report = training.report();
    REQUIRE(report.losses.size() == 12);
    CHECK(report.losses.back() < 0.85 * report.losses.front());
  }
}

TEST_CASE("train: the rate follows the cycle, whose start does not depend on its length") {
  const Batch data = generate_data(16, 1);
  const auto weights_after = [&](std::int64_t steps, std::int64_t cycle) {
    Contexts contexts(Codec::full_precision(), 5);
    Network network = make_network(data);
    Training training(network, data, 7, steps, cycle, contexts);
    finish(training, no_progress);
    std::vector<float> weights;
    for (const Parameter* parameter : network.parameters()) {
      weights.insert(weights.end(), parameter->value.span().begin(), parameter->value.span().end());
    }
    return weights;
  };
  CHECK(weights_after(1, 4) == weights_after(1, 100));
  CHECK(weights_after(2, 4) != weights_after(2, 100));
}

TEST_CASE("train: resumed from a checkpoint, it ends as one that never stopped, to the last bit") {
  Batch data{Tensor<std::uint8_t>(20, 144), {}};
  for (std::uint8_t i = 0; i < 20; ++i) {
    std::ranges::generate(data.pixels.image(i), [&, value = i]() mutable {
      return value = static_cast<std::uint8_t>(value + 17 + i);
    });
    data.labels.push_back(static_cast<std::uint8_t>(i % 3));
  }
  // Noise, whose classes depend on every bit of what a network has become.
  Batch test{Tensor<std::uint8_t>(500, 144), {}};
  std::mt19937_64 random(1);
  std::ranges::generate(test.pixels.span(), [&] { return static_cast<std::uint8_t>(random()); });
  for (int i = 0; i < 500; ++i) test.labels.push_back(static_cast<std::uint8_t>(random() % 3));
  const Folder folder;
  const auto codec_of = [](Context context, double average_bits) {
    Codec codec;
    codec.context = context;
    codec.average_bits = average_bits;
    return codec;
  };
  for (const Codec& codec :
       {Codec::full_precision(), codec_of(Context::sign_magnitude, 0), codec_of(Context::affine, 0),
        codec_of(Context::sign_magnitude, 2.5), codec_of(Context::affine, 2.5)}) {
    // Of a process's own: a network, contexts, and a training.
    struct Process {
      Network network;
      Contexts contexts;
      Training training;
      Process(const Batch& data, const Codec& codec)
          : network({{{12, 12, 1}, 8, true}, {{6, 6, 8}, 8, false}}, 3,
                    PixelScale{1.0f / 64, -2.0f}, 3),
            contexts(codec, 7), training(network, data, 7, 104, 104, contexts) {}
    };
    const auto save = [&](Process& process, const std::string& name) {
      Checkpoint checkpoint;
      process.training.visit(checkpoint);
      checkpoint.write(folder / name);
    };
    Process straight(data, codec);
    finish(straight.training, no_progress);
    save(straight, "straight");
    const std::int64_t correct = straight.network.count_correct(test.pixels, test.labels);
    for (const int stop : {1, 99, 102}) {  // new widths come after the steps 1 and 100
      Process first(data, codec);
      for (int step = 0; step < stop; ++step) first.training.step();
      save(first, "stopped");
      Process second(data, codec);
      Checkpoint checkpoint(folder / "stopped");
      second.training.visit(checkpoint);
      checkpoint.require_end();
      CHECK(second.training.done() == stop);
      finish(second.training, no_progress);
      save(second, "resumed");
      CHECK(entries_of(folder / "resumed") == entries_of(folder / "straight"));
      CHECK(second.network.count_correct(test.pixels, test.labels) == correct);
    }
  }
}

TEST_CASE("train: a controller sees probes before it chooses widths") {
  const Batch data = generate_data(16, 1);
  Codec codec;
  codec.context = Context::affine;
  codec.average_bits = 2;
  Contexts contexts(codec, 5);
  Network network = make_network(data);
  Training(network, data, 7, 1, 4, contexts).step();
  // Without a probe all tensors look alike.
  const std::vector<int> bits = contexts.width_control()->bits();
  CHECK(std::ranges::adjacent_find(bits, std::not_equal_to()) != bits.end());
}

}  // namespace
