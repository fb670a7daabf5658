// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the transformer in full precision: its gradient and that of each layer against finite
// differences of a model in double, causality, and that neither tiles nor threads change a result.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "common/tensor.hpp"
#include "examples/train_gpt/reference.hpp"
#include "examples/train_gpt/support.hpp"
#include "train_gpt/adamw.hpp"
#include "train_gpt/layers.hpp"
#include "train_gpt/sequences.hpp"
#include "train_gpt/transformer_layer.hpp"

namespace {

using namespace gpt;
using namespace support;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

// Float arithmetic is off by up to 2^-24 an operation. The longest chains here are some hundred
// operations, whose errors add up like a random walk, about tenfold; sums that cancel cost a few
// times that. Measured: at most 1e-6. A wrong term shows at 1e-2 and more.
constexpr double float_error = 4e-6;

reference::Rows rows_of_doubles(std::span<const double> values, std::int64_t channels) {
  reference::Rows rows;
  for (; !values.empty(); values = values.subspan(static_cast<std::size_t>(channels))) {
    rows.emplace_back(values.begin(), values.begin() + channels);
  }
  return rows;
}

TEST_CASE("gelu: value and derivative are those of the textbook") {
  std::vector<float> x;
  for (int i = -600; i <= 600; ++i) x.push_back(0.01f * static_cast<float>(i));
  std::vector<float> value(x.size());
  std::vector<float> derivative(x.size());
  gelu::evaluate(x, value, derivative);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(x[i]);
    const double at = x[i];
    const double slope = (reference::gelu(at + 1e-5) - reference::gelu(at - 1e-5)) / 2e-5;
    // Eigen's tanh is good to 2^-22; both results are linear or quadratic in it, and what they
    // multiply it with is no more than this.
    const double gain = 1 + std::abs(at) * (1 + 0.134145 * at * at);
    CHECK(std::abs(double{value[i]} - reference::gelu(at)) < 0x1p-22 * gain);
    CHECK(std::abs(double{derivative[i]} - slope) < 0x1p-22 * gain);
  }
}

TEST_CASE("loss and gradient: those of the model in double, by finite differences") {
  const ModelShape shape = small_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(2, shape.context);
  const std::vector<float> gradient = gradient_of(model, batch, exact);
  reference::Vector parameters(model.values().begin(), model.values().end());
  const auto loss = [&](const reference::Vector& values) {
    return (reference::loss(values, shape, batch.image(0)) +
            reference::loss(values, shape, batch.image(1))) /
           2;
  };
  CHECK(std::abs(model.loss(batch) - loss(parameters)) < float_error * loss(parameters));

  // Every parameter of the layers; of embedding and logits, which have most, some of each row.
  const std::size_t vocabulary_end = 256 * 8;
  const std::size_t logits_first = gradient.size() - 257 * 8;
  std::vector<double> found;
  std::vector<double> expected;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const bool is_in_layers = i >= vocabulary_end && i < logits_first;
    if (!is_in_layers && i % 7 != 0) continue;
    found.push_back(gradient[i]);
    expected.push_back(reference::derivative(loss, parameters, i));
  }
  CHECK(relative_error(found, expected) < float_error);
}

// Compares gradients of Σ weights · layer(x) with respect to x and the layer's parameters.
template <class Layer, class Context, class Reference>
void check_layer(std::int64_t numel, const ModelShape& shape, const Reference& reference_layer) {
  const std::vector<float> values = normal_values(numel, 1);
  std::vector<float> x = normal_values(shape.context * shape.channels, 2);
  std::vector<float> dx = normal_values(shape.context * shape.channels, 3);
  const reference::Vector weights(dx.begin(), dx.end());
  reference::Vector inputs(x.begin(), x.end());
  reference::Vector parameters(values.begin(), values.end());

  ActivationStore store(shape, exact, 0);
  Context context(0, shape.context, store);
  Scratch scratch(shape);
  std::vector<float> gradient(values.size(), 0.0f);
  const Layer layer(shape, values);
  layer.forward(0, x, context, scratch);
  layer.backward(0, dx, context, scratch, gradient);

  const auto dot_of = [&](const reference::Vector& at, const reference::Vector& with) {
    reference::Reader reader(with);
    const reference::Rows out = reference_layer(reader, rows_of_doubles(at, shape.channels));
    double sum = 0;
    std::size_t i = 0;
    for (const reference::Vector& row : out) {
      for (const double value : row) sum += weights[i++] * value;
    }
    return sum;
  };
  std::vector<double> dx_expected;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    dx_expected.push_back(reference::derivative(
        [&](const reference::Vector& at) { return dot_of(at, parameters); }, inputs, i));
  }
  std::vector<double> expected;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    expected.push_back(reference::derivative(
        [&](const reference::Vector& with) { return dot_of(inputs, with); }, parameters, i));
  }
  CHECK(relative_error(dx, dx_expected) < float_error);
  CHECK(relative_error(gradient, expected) < float_error);
}

TEST_CASE("attention layer: gradients of inputs and parameters by finite differences") {
  const ModelShape shape = small_shape();
  check_layer<AttentionLayer, AttentionContext>(
      AttentionParameters<float>::numel(shape), shape,
      [](reference::Reader& parameters, const reference::Rows& x) {
        return reference::attention_layer(parameters, x, 2);
      });
}

TEST_CASE("MLP layer: gradients of inputs and parameters by finite differences") {
  const ModelShape shape = small_shape();
  check_layer<MlpLayer, MlpContext>(MlpParameters<float>::numel(shape), shape,
                                    reference::mlp_layer);
}

TEST_CASE("attention: no token sees a later one, forward or backward") {
  const ModelShape shape = small_shape();
  const std::vector<float> values = normal_values(AttentionParameters<float>::numel(shape), 1);
  const AttentionLayer layer(shape, values);
  ActivationStore store(shape, exact, 0);
  Scratch scratch(shape);
  const std::vector<float> x = normal_values(shape.context * shape.channels, 2);
  trainer::Array<float> stream(shape.context * shape.channels);  // sums depend on the alignment
  const auto run = [&](const std::vector<float>& in, AttentionContext& context) {
    std::ranges::copy(in, stream.span().begin());
    layer.forward(0, stream.span(), context, scratch);
    return std::vector<float>(stream.span().begin(), stream.span().end());
  };
  const std::size_t channels = static_cast<std::size_t>(shape.channels);
  for (std::size_t changed = 0; changed < 6; ++changed) {
    CAPTURE(changed);
    AttentionContext context(0, shape.context, store);
    std::vector<float> other = x;
    for (std::size_t i = 0; i < channels; ++i) other[changed * channels + i] *= -2;
    const std::vector<float> before = run(x, context);
    const std::vector<float> after = run(other, context);
    for (std::size_t token = 0; token < 6; ++token) {
      const auto row = [&](const std::vector<float>& rows) {
        return std::span(rows).subspan(token * channels, channels);
      };
      CHECK(std::ranges::equal(row(before), row(after)) == (token < changed));
    }
    // The gradient of one token's output reaches that token and those before it.
    std::vector<float> dx(x.size(), 0.0f);
    std::ranges::fill(std::span(dx).subspan(changed * channels, channels), 1.0f);
    dx[changed * channels] = 3;
    std::vector<float> gradient(values.size());
    layer.backward(0, dx, context, scratch, gradient);
    for (std::size_t token = 0; token < 6; ++token) {
      const auto row = std::span(dx).subspan(token * channels, channels);
      CHECK(std::ranges::any_of(row, [](float d) { return d != 0; }) == (token <= changed));
    }
  }
}

TEST_CASE("tiles: of any size, they give the gradient of whole sequences") {
  ModelShape shape = small_shape();
  shape.context = 16;
  const Batch batch = random_batch(2, shape.context);
  shape.tile_limit = 16;
  Model whole = make_model(shape);
  const std::vector<float> expected = gradient_of(whole, batch, exact);
  for (const std::int64_t tile : {1, 4, 8}) {
    CAPTURE(tile);
    shape.tile_limit = tile;
    Model tiled = make_model(shape);
    REQUIRE(tiled.shape().tile() == tile);
    CHECK(relative_error(gradient_of(tiled, batch, exact), expected) < float_error);
  }
}

TEST_CASE("threads: their number changes no bit of a gradient, exact or rounded") {
  const ModelShape shape = packing_shape();
  const Batch batch = random_batch(5, shape.context);
  for (const SavePolicy& policy : {exact, SavePolicy::shipped(2)}) {
    std::vector<float> expected;
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      omp_set_num_threads(threads);
      Model model = make_model(shape);
      const std::vector<float> gradient = gradient_of(model, batch, policy);
      if (threads == 1) expected = gradient;
      CHECK(gradient == expected);
    }
    omp_set_num_threads(1);
  }
}

TEST_CASE("threads: sums are added in the order of the sequences, whoever is done first") {
  omp_set_num_threads(3);
  Workspace workspace;
  for (int thread = 0; thread < 3; ++thread) workspace.emplace_back(small_shape());
  float sum = 7;
  sum_over_sequences(3, workspace, std::span(&sum, 1),
                     [](std::int64_t sequence, Scratch&, std::span<float> own) {
                       std::this_thread::sleep_for(std::chrono::milliseconds(30 - 10 * sequence));
                       const std::array<float, 3> terms = {1e8f, -1e8f, 1};
                       own[0] += terms[static_cast<std::size_t>(sequence)];
                     });
  CHECK(sum == 1);  // 1e8 - 1e8 + 1; backwards, float's 1 - 1e8 + 1e8 is 0
  omp_set_num_threads(1);
}

TEST_CASE("AdamW: two steps are those of its formula in double") {
  const ModelShape shape = small_shape();
  Model model(shape, 0);
  AdamW adamw(model);
  const std::vector<float> start(model.values().begin(), model.values().end());
  const std::vector<float> first = normal_values(model.map().numel(), 7);
  const std::vector<float> second = normal_values(model.map().numel(), 8);
  std::ranges::copy(first, model.gradients().begin());
  adamw.step(0.01);
  std::ranges::copy(second, model.gradients().begin());
  adamw.step(0.02);
  const std::size_t bias = 262 * 8;  // behind both embeddings: gamma of the first layer norm
  for (const std::size_t i : {std::size_t{5}, bias + 1}) {
    const double decay = i < bias ? 0.1 : 0.0;
    const double g1 = first[i];
    const double g2 = second[i];
    double value = start[i];
    value -= 0.01 * (decay * value + g1 / std::abs(g1));
    const double mean = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9 * 0.9);
    const double square = (0.99 * 0.01 * g1 * g1 + 0.01 * g2 * g2) / (1 - 0.99 * 0.99);
    value -= 0.02 * (decay * value + mean / std::sqrt(square));
    CHECK(std::abs(double{model.values()[i]} - value) < 1e-6);  // 2^-24 a step, and of 1 - 0.99²
  }
}

}  // namespace
