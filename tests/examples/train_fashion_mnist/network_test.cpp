// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the trainer's layers and contexts: exact gradients, what rounding does to them, and the
// one rule a trainer must not break, that the ReLU's mask is never read from rounded values.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "research/gradient_check.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using Context = Codec::Context;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

constexpr PixelScale pixel_scale{1.0f / 64, -2.0f};
constexpr std::int64_t classes = 4;

// Odd sizes everywhere: short groups, unused bits, a row and a column that pooling leaves out.
std::vector<BlockShape> small_shapes() {
  return {{{7, 6, 1}, 5, true}, {{3, 3, 5}, 6, false}, {{3, 3, 6}, 3, true}};
}

Batch random_batch(std::int64_t images, std::int64_t numel, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Batch batch{Tensor<std::uint8_t>(images, numel), {}};
  for (std::uint8_t& pixel : batch.pixels.span()) {
    pixel = static_cast<std::uint8_t>(random());
  }
  for (std::int64_t image = 0; image < images; ++image) {
    batch.labels.push_back(static_cast<std::uint8_t>(random() % classes));
  }
  return batch;
}

Codec make_codec(Context context, int bits = 2, bool is_subtractive = true) {
  Codec codec;
  codec.context = context;
  codec.bits = bits;
  codec.is_subtractive = is_subtractive;
  return codec;
}

// A network whose γ and β are not those of a newborn one: of either sign, none near 0.
Network make_network(const std::vector<BlockShape>& shapes, std::uint64_t seed = 3) {
  Network network(shapes, classes, pixel_scale, seed);
  std::mt19937_64 random(seed + 1);
  const std::vector<Parameter*> parameters = network.parameters();
  for (std::size_t block = 0; block < shapes.size(); ++block) {
    for (float& gamma : parameters[3 * block + 1]->value.span()) {
      gamma =
          (random() % 4 == 0 ? -1.0f : 1.0f) * (0.5f + static_cast<float>(random() % 100) / 100);
    }
    for (float& beta : parameters[3 * block + 2]->value.span()) {
      beta = static_cast<float>(random() % 100) / 200 - 0.2f;
    }
  }
  return network;
}

std::vector<float> gradient_under(const Codec& codec, Network& network, const Batch& batch) {
  Contexts contexts(codec, 11);
  return gradient_of(network, batch, contexts);
}

double relative_error(const std::vector<float>& found, const std::vector<float>& expected) {
  double distance = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{found[i]} - double{expected[i]};
    distance += difference * difference;
    norm += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(distance / norm);
}

// The mean loss of a batch, in double and by the textbook: shares no code with the trainer.
class ReferenceNetwork {
 public:
  ReferenceNetwork(std::vector<BlockShape> shapes, Network& network) : shapes_(std::move(shapes)) {
    for (const Parameter* parameter : network.parameters()) {
      const std::span<const float> value = parameter->value.span();
      parameters.emplace_back(value.begin(), value.end());
    }
  }

  std::vector<std::vector<double>> parameters;

  double loss(const Batch& batch) const {
    std::vector<std::vector<double>> images;
    for (std::int64_t image = 0; image < batch.pixels.images(); ++image) {
      images.emplace_back();
      for (const std::uint8_t pixel : batch.pixels.image(image)) {
        images.back().push_back(static_cast<double>(pixel) / 64 - 2);
      }
    }
    for (std::size_t block = 0; block < shapes_.size(); ++block) {
      const BlockShape& shape = shapes_[block];
      for (std::vector<double>& image : images) {
        image = convolve(image, shape, parameters[3 * block]);
      }
      normalize(images, parameters[3 * block + 1], parameters[3 * block + 2]);
      for (std::vector<double>& image : images) {
        image = pool(image, shape);
      }
    }
    double total = 0;
    for (std::size_t image = 0; image < images.size(); ++image) {
      total += cross_entropy(images[image], batch.labels[image]);
    }
    return total / static_cast<double>(images.size());
  }

 private:
  static std::vector<double> convolve(const std::vector<double>& in, const BlockShape& shape,
                                      const std::vector<double>& weight) {
    const auto [height, width, channels] = shape.input;
    std::vector<double> out;
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        for (std::int64_t to = 0; to < shape.channels; ++to) {
          double sum = 0;
          for (std::int64_t tap = 0; tap < 9; ++tap) {
            const std::int64_t row = y + tap / 3 - 1;
            const std::int64_t column = x + tap % 3 - 1;
            if (row < 0 || row >= height || column < 0 || column >= width) {
              continue;
            }
            for (std::int64_t from = 0; from < channels; ++from) {
              sum +=
                  in[static_cast<std::size_t>((row * width + column) * channels + from)] *
                  weight[static_cast<std::size_t>((tap * channels + from) * shape.channels + to)];
            }
          }
          out.push_back(sum);
        }
      }
    }
    return out;
  }

  static void normalize(std::vector<std::vector<double>>& images, const std::vector<double>& gamma,
                        const std::vector<double>& beta) {
    for (std::size_t channel = 0; channel < gamma.size(); ++channel) {
      std::vector<double*> values;
      for (std::vector<double>& image : images) {
        for (std::size_t i = channel; i < image.size(); i += gamma.size()) {
          values.push_back(&image[i]);
        }
      }
      double mean = 0;
      for (const double* value : values) {
        mean += *value / static_cast<double>(values.size());
      }
      double variance = 0;
      for (const double* value : values) {
        variance += (*value - mean) * (*value - mean) / static_cast<double>(values.size());
      }
      for (double* value : values) {
        *value = gamma[channel] * (*value - mean) / std::sqrt(variance + 1e-5) + beta[channel];
      }
    }
  }

  static std::vector<double> pool(std::vector<double> in, const BlockShape& shape) {
    for (double& value : in) {
      value = std::max(value, 0.0);
    }
    if (!shape.is_pooled) {
      return in;
    }
    std::vector<double> out;
    for (std::int64_t y = 0; y + 1 < shape.input.height; y += 2) {
      for (std::int64_t x = 0; x + 1 < shape.input.width; x += 2) {
        for (std::int64_t channel = 0; channel < shape.channels; ++channel) {
          double largest = 0;
          for (const auto& [row, column] :
               {std::pair{y, x}, {y, x + 1}, {y + 1, x}, {y + 1, x + 1}}) {
            largest = std::max(largest,
                               in[static_cast<std::size_t>(
                                   (row * shape.input.width + column) * shape.channels + channel)]);
          }
          out.push_back(largest);
        }
      }
    }
    return out;
  }

  double cross_entropy(const std::vector<double>& in, std::size_t label) const {
    const std::vector<double>& weight = parameters[parameters.size() - 2];
    std::vector<double> logits = parameters.back();
    double total = 0;
    for (std::size_t to = 0; to < logits.size(); ++to) {
      for (std::size_t from = 0; from < in.size(); ++from) {
        logits[to] += in[from] * weight[from * logits.size() + to];
      }
      total += std::exp(logits[to]);
    }
    return std::log(total) - logits[label];
  }

  std::vector<BlockShape> shapes_;
};

TEST_CASE("network: loss and gradient are those of a textbook implementation in double") {
  const Batch batch = random_batch(10, 42, 5);
  Network network = make_network(small_shapes());
  ReferenceNetwork reference(small_shapes(), network);
  const std::vector<float> gradient =
      gradient_under(make_codec(Context::full_precision), network, batch);

  std::vector<float> expected;
  for (std::vector<double>& parameter : reference.parameters) {
    for (double& value : parameter) {
      const double step = 1e-5;
      const double before = value;
      value = before + step;
      const double above = reference.loss(batch);
      value = before - step;
      const double below = reference.loss(batch);
      value = before;
      expected.push_back(static_cast<float>((above - below) / (2 * step)));
    }
  }
  REQUIRE(gradient.size() == expected.size());
  CHECK(relative_error(gradient, expected) < 1e-5);

  Contexts contexts(make_codec(Context::full_precision), 0);
  const double loss = network.forward(random_batch(10, 42, 5), contexts).loss;
  CHECK(loss == doctest::Approx(reference.loss(batch)).epsilon(1e-6));
}

TEST_CASE("contexts: the forward pass does not depend on them") {
  Network network = make_network(small_shapes());
  std::vector<float> expected;
  for (const Context context :
       {Context::full_precision, Context::lean, Context::sign_magnitude, Context::affine}) {
    for (const bool has_tensor_range : {false, true}) {
      Codec codec = make_codec(context);
      codec.has_tensor_range = has_tensor_range;
      Contexts contexts(codec, 0);
      const SavedActivations saved = network.forward(random_batch(10, 42, 5), contexts);
      const std::span<const float> found = saved.probabilities.span();
      if (expected.empty()) {
        expected.assign(found.begin(), found.end());
      }
      CHECK(std::ranges::equal(found, expected));
    }
  }
}

TEST_CASE("contexts: the leanest full precision gives the frameworks' gradient to the last bit") {
  const Batch batch = random_batch(10, 42, 5);
  Network network = make_network(small_shapes());
  CHECK(gradient_under(make_codec(Context::lean), network, batch) ==
        gradient_under(make_codec(Context::full_precision), network, batch));
}

TEST_CASE("contexts: packed gradients approach the exact one as bits are added") {
  const Batch batch = random_batch(12, 42, 5);
  Network network = make_network(small_shapes());
  const std::vector<float> exact =
      gradient_under(make_codec(Context::full_precision), network, batch);
  for (const Context context : {Context::sign_magnitude, Context::affine}) {
    for (const bool has_tensor_range : {false, true}) {
      for (const bool is_subtractive : {false, true}) {
        for (const bool is_stochastic : {false, true}) {
          CAPTURE(static_cast<int>(context));
          CAPTURE(has_tensor_range);
          CAPTURE(is_subtractive);
          CAPTURE(is_stochastic);
          double previous = std::numeric_limits<double>::infinity();
          for (const int bits : {1, 2, 4, 8}) {
            Codec codec = make_codec(context, bits, is_subtractive);
            codec.has_tensor_range = has_tensor_range;
            codec.is_stochastic = is_stochastic;
            codec.group_size = 32;
            const double error = relative_error(gradient_under(codec, network, batch), exact);
            CHECK(error < previous);
            previous = error;
          }
          CHECK(previous < 0.03);
        }
      }
    }
  }
}

TEST_CASE("network: results do not depend on the number of threads") {
  const Batch batch = random_batch(21, 42, 5);
  for (const Context context :
       {Context::full_precision, Context::sign_magnitude, Context::affine}) {
    std::vector<float> expected;
    for (const int threads : {1, 2, 3}) {
      omp_set_num_threads(threads);
      Network network = make_network(small_shapes());
      const std::vector<float> gradient = gradient_under(make_codec(context), network, batch);
      if (threads == 1) {
        expected = gradient;
      }
      CHECK(gradient == expected);
    }
  }
  omp_set_num_threads(1);
}

// A context that breaks the rule: it takes the ReLU's mask from the output as rounding left it.
class RoundedMaskContext final : public BlockContext {
 public:
  explicit RoundedMaskContext(std::unique_ptr<BlockContext> context, const BlockSetting& block)
      : context_(std::move(context)), block_(block) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    context_->save(first_image, values);
  }
  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    context_->finish(std::move(batch_norm_input), std::move(output));
  }
  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    context_->load_argmax(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    context_->load_output(image, argmax, output, normalized, scratch);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    std::vector<float> output(gradient.size());
    std::vector<float> normalized(gradient.size());
    std::vector<float> scratch(static_cast<std::size_t>(block_.pooling.input().numel()));
    context_->load_output(image, argmax, output, normalized, scratch);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      gradient[i] = output[i] > 0 ? gradient[i] : 0.0f;
    }
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    context_->load_normalized(image, normalized);
  }

 private:
  std::unique_ptr<BlockContext> context_;
  BlockSetting block_;
};

class RoundedMaskContexts final : public ContextFactory {
 public:
  explicit RoundedMaskContexts(const Codec& codec) : contexts_(codec, 11) {}
  void begin_step() override { contexts_.begin_step(); }
  std::unique_ptr<InputContext> save_input(Tensor<std::uint8_t> pixels, PixelScale scale) override {
    return contexts_.save_input(std::move(pixels), scale);
  }
  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override {
    return std::make_unique<RoundedMaskContext>(contexts_.make_block_context(block), block);
  }

 private:
  Contexts contexts_;
};

TEST_CASE(
    "relu mask: exact, the mean of k gradients converges; from rounded values, it gets stuck") {
  const Batch batch = random_batch(24, 42, 5);
  Network network = make_network(small_shapes());
  Contexts exact(make_codec(Context::full_precision), 0);
  const auto errors_of = [&](ContextFactory& contexts) {
    return research::errors_of_means(
        gradient_of(network, batch, exact), [&] { return gradient_of(network, batch, contexts); },
        256, [](std::int64_t) {});
  };
  for (const Context context : {Context::sign_magnitude, Context::affine}) {
    for (const bool is_subtractive : {false, true}) {
      CAPTURE(static_cast<int>(context));
      CAPTURE(is_subtractive);
      Contexts contexts(make_codec(context, 2, is_subtractive), 11);
      const std::vector<research::GradientError> errors = errors_of(contexts);
      REQUIRE(errors.size() == 5);  // k = 1, 4, 16, 64, 256
      for (std::size_t i = 1; i < errors.size(); ++i) {
        CHECK(errors[i].k == 4 * errors[i - 1].k);
        CHECK(errors[i].error < errors[i - 1].error / 1.4);
      }
      CHECK(errors[4].error < errors[0].error / 10);
    }
  }
  // Plain decoding puts many small positive values on zero: their gradients are gone for good.
  for (const Context context : {Context::sign_magnitude, Context::affine}) {
    RoundedMaskContexts wrong(make_codec(context, 2, false));
    const std::vector<research::GradientError> errors = errors_of(wrong);
    CHECK(errors[4].error > 0.1);
    CHECK(errors[4].error > errors[3].error / 1.2);
  }
}

TEST_CASE("batch norm: a γ of zero, or far below the others, still gets its gradient") {
  const Batch batch = random_batch(24, 42, 5);
  for (const bool all_zero : {true, false}) {
    CAPTURE(all_zero);
    Network network = make_network(small_shapes());
    Parameter& gamma = *network.parameters()[4];
    Parameter& beta = *network.parameters()[5];
    std::ranges::fill(beta.value.span(), 0.5f);
    if (all_zero) {
      std::ranges::fill(gamma.value.span(), 0.0f);
    } else {
      gamma.value.span()[2] = 1e-3f;
    }
    const std::vector<float> exact =
        gradient_under(make_codec(Context::full_precision), network, batch);
    const std::vector<float> expected(gamma.gradient.span().begin(), gamma.gradient.span().end());
    const std::vector<float> packed =
        gradient_under(make_codec(Context::sign_magnitude, 8), network, batch);
    const std::vector<float> found(gamma.gradient.span().begin(), gamma.gradient.span().end());
    CHECK(std::ranges::none_of(found, [](float value) { return value == 0; }));
    CHECK(relative_error(found, expected) < 0.02);
    CHECK(relative_error(packed, exact) < 0.02);
    CHECK(std::ranges::all_of(packed, [](float value) { return std::isfinite(value); }));
  }
}

}  // namespace
