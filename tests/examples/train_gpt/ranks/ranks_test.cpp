// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks data-parallel training: this program runs under mpirun, and every claim is about what its
// ranks do together. With one rank alone it has nothing to say and still passes.
#include <doctest/doctest.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "examples/train_gpt/support.hpp"
#include "train_gpt/ranks.hpp"
#include "train_gpt/text.hpp"
#include "train_gpt/training.hpp"

namespace {

using namespace gpt;
using namespace support;

// Ranks share the processor.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

const Ranks& ranks() {
  static const Ranks all(nullptr, nullptr);
  return all;
}

// This rank's share of a batch.
Batch share_of(const Batch& batch) {
  const std::int64_t size = batch.images() / ranks().size();
  Batch share(size, batch.row_size());
  std::ranges::copy(batch.from(ranks().rank() * size).first(share.span().size()),
                    share.span().begin());
  return share;
}

std::vector<float> averaged_gradient(Model& model, const Batch& share, ActivationStore& store) {
  model.forward_backward(share, store);
  ranks().average(model.gradients());
  return {model.gradients().begin(), model.gradients().end()};
}

ActivationStore make_store(const ModelShape& shape, const SavePolicy& policy) {
  return {shape, policy, 1, ranks().rank(), [](std::span<double> values) { ranks().sum(values); }};
}

// Every rank finds the same.
bool is_same_on_all(std::span<const float> values) {
  std::vector<double> sums(values.begin(), values.end());
  ranks().sum(sums);
  double differences = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    differences += sums[i] != ranks().size() * double{values[i]} ? 1 : 0;
  }
  ranks().sum(std::span(&differences, 1));
  return differences == 0;
}

TEST_CASE("ranks: in full precision, their gradient is that of the joined batch") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(8, shape.context);
  const std::vector<float> expected = gradient_of(model, batch, exact);
  ActivationStore store = make_store(shape, exact);
  const std::vector<float> found = averaged_gradient(model, share_of(batch), store);
  // Sequences' gradients are summed up in another order: 2^-24 for each of 8 partial sums, at most.
  CHECK(relative_error(found, expected) < 8 * 0x1p-24);
  CHECK(is_same_on_all(found));
}

TEST_CASE("ranks: sums and means are right for more numbers than one message has") {
  constexpr std::size_t size = (std::size_t{2} << 20) + 3;  // of three messages
  std::vector<double> sums(size);
  std::vector<float> means(size);
  const double rank = ranks().rank();
  for (std::size_t i = 0; i < size; ++i) {
    sums[i] = static_cast<double>(i) + rank;
    means[i] = static_cast<float>(i % 1000) + static_cast<float>(rank);
  }
  ranks().sum(sums);
  ranks().average(means);
  const double n = ranks().size();
  bool is_right = true;
  for (std::size_t i = 0; i < size; ++i) {
    is_right = is_right && sums[i] == n * static_cast<double>(i) + n * (n - 1) / 2;
    is_right =
        is_right && means[i] == static_cast<float>(i % 1000) + static_cast<float>((n - 1) / 2);
  }
  CHECK(is_right);
}

// The mean of the squared relative errors, and the variance of that mean.
struct SquaredError {
  double mean = 0;
  double variance = 0;
};

template <class Draw>
SquaredError squared_error(const std::vector<float>& expected, const Draw& draw) {
  constexpr int draws = 100;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double error = relative_error(draw(), expected);
    sum += error * error;
    squares += error * error * error * error;
  }
  return {sum / draws, (squares / draws - sum / draws * sum / draws) / draws};
}

TEST_CASE("ranks: rounded, their gradient is as noisy as that of the joined batch") {
  const ModelShape shape = packing_shape();
  Model model(shape, 3);
  const Batch batch = random_batch(8, shape.context);
  const std::vector<float> expected = gradient_of(model, batch, exact);
  ActivationStore joined(shape, SavePolicy::shipped(2), 2);
  ActivationStore shared = make_store(shape, SavePolicy::shipped(2));
  const SquaredError one =
      squared_error(expected, [&] { return gradient_of(model, batch, joined); });
  const SquaredError all =
      squared_error(expected, [&] { return averaged_gradient(model, share_of(batch), shared); });
  CHECK(std::abs(one.mean - all.mean) < 5 * std::sqrt(one.variance + all.variance));
}

TEST_CASE("ranks: each rounds with random bits of its own, so that noise averages out") {
  const ModelShape shape = packing_shape();
  Model model(shape, 3);
  const Batch batch = random_batch(4, shape.context);  // the same for all
  const std::vector<float> expected = gradient_of(model, batch, exact);
  ActivationStore store = make_store(shape, SavePolicy::shipped(2));
  ActivationStore alone(shape, SavePolicy::shipped(2), 2);
  const SquaredError one =
      squared_error(expected, [&] { return gradient_of(model, batch, alone); });
  const SquaredError all =
      squared_error(expected, [&] { return averaged_gradient(model, batch, store); });
  const double size = ranks().size();
  CHECK(std::abs(one.mean / size - all.mean) <
        5 * std::sqrt(one.variance / (size * size) + all.variance));
}

TEST_CASE("ranks: from different data they find the same widths; disagreement is an error") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(2 * ranks().size(), shape.context);
  ActivationStore store = make_store(shape, SavePolicy::on_average(2));
  probe_tensors(model, share_of(batch), store);
  CHECK(store.widths()->step());
  const std::vector<int> bits = store.widths()->bits();
  const std::vector<float> as_floats(bits.begin(), bits.end());
  CHECK(is_same_on_all(as_floats));
  require_same_widths(*store.widths(), ranks());
  CHECK(*std::ranges::min_element(bits) < *std::ranges::max_element(bits));

  // Without a word between them: rank 0 holds one tensor to be the one that matters, the others
  // another.
  ActivationStore silent(shape, SavePolicy::on_average(2), 0);
  trainer::WidthControl& apart = *silent.widths();
  for (std::size_t tensor = 0; tensor < bits.size(); ++tensor) {
    apart.observe_ranges(tensor, 1);
    const bool matters = tensor == (ranks().rank() == 0 ? 0u : 1u);
    apart.observe_perturbation(tensor, matters ? 1e6 : 1);
  }
  apart.step();
  if (ranks().size() > 1) {
    CHECK_THROWS_AS(require_same_widths(apart, ranks()), std::logic_error);
  }
}

TEST_CASE("ranks: after training, all have the same weights, and better ones") {
  const Text text = generate_text("a test");
  const ModelShape shape = packing_shape();
  const TrainingSetting setting{.steps = 10, .batch = 4};
  for (const SavePolicy& policy : {exact, SavePolicy::on_average(2)}) {
    Model model(shape, 0);
    ActivationStore store = make_store(shape, policy);
    Training training(model, text.training(), setting, store, ranks());
    trainer::finish(training, [](std::int64_t) {});
    CHECK(is_same_on_all(model.values()));
    const double loss = validation_loss(model, text.validation(), 40, ranks());
    double before = 0;
    {
      Model newborn(shape, 0);
      before = validation_loss(newborn, text.validation(), 40, ranks());
    }
    CHECK(loss < before - 0.1);
    CHECK(training.report().losses.size() == 10);
  }
}

TEST_CASE("ranks: resumed from the checkpoint of one, all end as if they had never stopped") {
  const Text text = generate_text("a test");
  const ModelShape shape = packing_shape();
  // Of a process's own. New widths come after the steps 1 and 100.
  struct Process {
    Model model;
    ActivationStore store;
    Training training;
    Process(const Text& text, const ModelShape& shape)
        : model(shape, 0), store(make_store(shape, SavePolicy::on_average(2))),
          training(model, text.training(), {.steps = 102, .batch = 6}, store, ranks()) {}
  };
  double name = ranks().rank() == 0 ? getpid() : 0;
  ranks().sum(std::span(&name, 1));
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("actpack_ranks_test_" + std::to_string(name));
  Process straight(text, shape);
  trainer::finish(straight.training, [&](std::int64_t done) {
    trainer::Checkpoint checkpoint;
    straight.training.visit(checkpoint);
    if (done == 60 && ranks().rank() == 0) checkpoint.write(path.string());
  });
  ranks().sum(std::span(&name, 1));  // wait
  Process resumed(text, shape);
  trainer::Checkpoint checkpoint(path.string());
  resumed.training.visit(checkpoint);
  trainer::finish(resumed.training, [](std::int64_t) {});
  CHECK(std::ranges::equal(resumed.model.values(), straight.model.values()));
  CHECK(resumed.training.report().widths == straight.training.report().widths);
  CHECK(resumed.store.widths()->save() == straight.store.widths()->save());
  if (ranks().rank() == 0) std::filesystem::remove(path);
}

}  // namespace
