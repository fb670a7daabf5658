// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small convolutional network on Fashion-MNIST with libtorch three times: in full
// precision, the same modules inside a CompressSavedTensors scope, and as a CompressedChain; and
// shows what that does to accuracy, memory and time.

#include "actpack_torch.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "actpack_torch/counting_allocator.hpp"
#include "common/data.hpp"
#include "common/flags.hpp"
#include "common/memory.hpp"
#include "common/parameter.hpp"
#include "common/program.hpp"

namespace {

using namespace actpack_torch;

using trainer::batch_size;

struct Settings {
  std::string data;
  std::int64_t epochs = 2;
  std::int64_t train_limit = trainer::all_images;
  std::int64_t depth = 0;
  Options packing;
};

std::vector<trainer::Flag> flags(Settings& settings) {
  return {
      trainer::fashion_mnist_flag(settings.data),
      trainer::epochs_flag(1, settings.epochs),
      trainer::train_limit_flag(settings.train_limit),
      trainer::seed_flag(settings.packing.seed),
      trainer::depth_flag(settings.depth),
      {"--bits", "8|4|2|1", "width of a magnitude (2)", "8, 4, 2 or 1",
       [&](std::string_view text) {
         return trainer::parse_width(text, settings.packing.bits) && settings.packing.bits != 32;
       }},
  };
}

// Images as bytes, [images, 1, 28, 28], which batches turn into numbers.
struct Images {
  at::Tensor pixels;
  at::Tensor labels;
  trainer::PixelScale scale;

  Images(trainer::Batch& batch, trainer::PixelScale pixel_scale)
      : pixels(torch::from_blob(batch.pixels.span().data(), {batch.pixels.images(), 1, 28, 28},
                                torch::kByte)),
        labels(torch::from_blob(batch.labels.data(), {batch.pixels.images()}, torch::kByte)),
        scale(pixel_scale) {}

  std::int64_t size() const { return labels.size(0); }
  at::Tensor values(const at::Tensor& indices) const {
    return pixels.index_select(0, indices).to(torch::kFloat).mul_(scale.scale).add_(scale.shift);
  }
  at::Tensor classes(const at::Tensor& indices) const {
    return labels.index_select(0, indices).to(torch::kLong);
  }
};

// ---- The network, twice -------------------------------------------------------------------------

struct BlockShape {
  std::int64_t from;
  std::int64_t to;
  bool is_pooled;

  torch::nn::Conv2dOptions convolution() const {
    return torch::nn::Conv2dOptions(from, to, 3).padding(1).bias(false);
  }
};

std::vector<BlockShape> shapes(std::int64_t depth) {
  std::vector<BlockShape> blocks{{1, 16, true}};
  blocks.insert(blocks.end(), static_cast<std::size_t>(depth), {16, 16, false});
  blocks.insert(blocks.end(), {{16, 32, true}, {32, 64, true}});
  return blocks;
}

void push_classifier(torch::nn::Sequential& network) {
  network->push_back(torch::nn::Flatten());
  network->push_back(torch::nn::Linear(64 * 3 * 3, 10));
}

torch::nn::Sequential make_plain(const Settings& settings) {
  torch::nn::Sequential network;
  for (const BlockShape& shape : shapes(settings.depth)) {
    network->push_back(torch::nn::Conv2d(shape.convolution()));
    network->push_back(torch::nn::BatchNorm2d(shape.to));
    network->push_back(torch::nn::ReLU());
    if (shape.is_pooled) {
      network->push_back(torch::nn::MaxPool2d(2));
    }
  }
  push_classifier(network);
  return network;
}

torch::nn::Sequential make_chain(const Settings& settings) {
  std::vector<ConvBatchNormReLU> blocks;
  for (const BlockShape& shape : shapes(settings.depth)) {
    blocks.push_back(ConvBatchNormReLU(shape.convolution(), shape.is_pooled));
  }
  torch::nn::Sequential network(CompressedChain(blocks, settings.packing));
  push_classifier(network);
  return network;
}

// ---- Training -----------------------------------------------------------------------------------

struct Result {
  std::string name;
  double accuracy = 0;  // on the test set, in %
  std::int64_t saved_bytes = 0;
  std::int64_t peak_bytes = 0;
  double median_step_seconds = 0;
};

double accuracy(torch::nn::Sequential& network, const Images& test) {
  const torch::NoGradGuard no_grad;
  network->eval();
  std::int64_t correct = 0;
  for (const at::Tensor& indices : torch::arange(test.size()).split(500)) {
    const at::Tensor predicted = network->forward(test.values(indices)).argmax(1);
    correct += (predicted == test.classes(indices)).sum().item<std::int64_t>();
  }
  return 100 * static_cast<double>(correct) / static_cast<double>(test.size());
}

// One step's bytes, beyond those before it.
struct StepBytes {
  std::int64_t saved;  // between the forward and the backward pass
  std::int64_t peak;
};

enum class Way { full_precision, scope, chain };

// One of the ways, from the same weights on the same batches in the same order.
class Training {
 public:
  Training(const std::string& name, Way way, const Settings& settings)
      : way_(way), packing_(settings.packing), result_{name} {
    torch::manual_seed(settings.packing.seed);
    network_ = way == Way::chain ? make_chain(settings) : make_plain(settings);
    // The gradients' own memory is there before a step is measured.
    for (at::Tensor& parameter : network_->parameters()) {
      parameter.mutable_grad() = torch::zeros_like(parameter);
    }
    sgd_.emplace(network_->parameters(),
                 torch::optim::SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(5e-4));
  }

  // `progress` goes from 0 to 1 in the course of training.
  void step(const at::Tensor& values, const at::Tensor& classes, double progress) {
    const auto start = std::chrono::steady_clock::now();
    sgd_->zero_grad();
    const StepBytes bytes = run_step(values, classes);
    sgd_->param_groups()[0].options().set_lr(trainer::one_cycle(progress));
    sgd_->step();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    seconds_.push_back(elapsed.count());
    result_.saved_bytes = std::max(result_.saved_bytes, bytes.saved);
    result_.peak_bytes = std::max(result_.peak_bytes, bytes.peak);
  }

  Result finish(const Images& test) {
    result_.accuracy = accuracy(network_, test);
    const auto middle = seconds_.begin() + static_cast<std::ptrdiff_t>(seconds_.size() / 2);
    std::ranges::nth_element(seconds_, middle);
    result_.median_step_seconds = *middle;
    return result_;
  }

 private:
  StepBytes run_step(const at::Tensor& values, const at::Tensor& classes) {
    std::optional<CompressSavedTensors> scope;
    if (way_ != Way::full_precision) {  // in a chain's network it packs the classifier's input
      Options packing = packing_;
      packing.step = static_cast<std::uint64_t>(seconds_.size());
      scope.emplace(*network_, packing);
    }
    CountingAllocator& allocator = CountingAllocator::instance();
    const std::int64_t before = allocator.live_bytes();
    allocator.restart_peak();
    const at::Tensor loss = torch::nll_loss(network_->forward(values).log_softmax(1), classes);
    const std::int64_t saved = allocator.live_bytes() - before;
    loss.backward();
    return {saved, allocator.peak_bytes() - before};
  }

  Way way_;
  Options packing_;
  Result result_;
  torch::nn::Sequential network_;
  std::optional<torch::optim::SGD> sgd_;  // Nesterov momentum on a one-cycle learning rate
  std::vector<double> seconds_;           // of each step
};

// The ways take turns, step by step: whatever else the machine does, it does to all of them.
std::vector<Result> train(const Images& images, const Images& test, const Settings& settings) {
  std::vector<Training> ways;
  ways.emplace_back("full precision", Way::full_precision, settings);
  ways.emplace_back("scope around the same modules", Way::scope, settings);
  ways.emplace_back("chain of blocks", Way::chain, settings);
  std::mt19937_64 random(settings.packing.seed);
  std::vector<std::int64_t> order(static_cast<std::size_t>(images.size()));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const std::int64_t batches = (images.size() + batch_size - 1) / batch_size;
  const std::int64_t steps = settings.epochs * batches;
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step % batches == 0) {
      std::ranges::shuffle(order, random);
    }
    const at::Tensor all = torch::from_blob(order.data(), {images.size()}, torch::kLong);
    const std::int64_t first = step % batches * batch_size;
    const at::Tensor indices = all.slice(0, first, first + batch_size);
    const at::Tensor values = images.values(indices);
    const at::Tensor classes = images.classes(indices);
    for (Training& way : ways) {
      way.step(values, classes, static_cast<double>(step) / static_cast<double>(steps));
    }
  }
  std::vector<Result> results;
  for (Training& way : ways) {
    results.push_back(way.finish(test));
  }
  return results;
}

void print_table(const std::vector<Result>& results) {
  std::cout << "| activations kept by | test accuracy | saved | ratio | peak of a step | ratio "
               "| ms a step | ratio |\n|---|---|---|---|---|---|---|---|---|\n"
            << std::fixed;
  const auto ratio = [](auto full, auto packed) {
    return static_cast<double>(full) / static_cast<double>(packed);
  };
  for (const Result& result : results) {
    std::cout << "| " << result.name << std::setprecision(2) << " | " << result.accuracy << " % | "
              << static_cast<double>(result.saved_bytes) / 1e6 << " MB | " << std::setprecision(1)
              << ratio(results[0].saved_bytes, result.saved_bytes) << "x | "
              << static_cast<double>(result.peak_bytes) / 1e6 << " MB | "
              << ratio(results[0].peak_bytes, result.peak_bytes) << "x | "
              << 1e3 * result.median_step_seconds << " | " << std::setprecision(2)
              << ratio(result.median_step_seconds, results[0].median_step_seconds) << "x |\n";
  }
  std::cout << std::flush;
}

void compare(const Settings& settings) {
  trainer::memory::keep_freed_memory();
  CountingAllocator::instance();  // before there are tensors
  trainer::Data data = trainer::load_data(settings.data, settings.train_limit, std::cout);
  const trainer::PixelScale scale = trainer::measure_pixels(data.train.pixels.span());
  const Images training(data.train, scale);
  const Images test(data.test, scale);
  print_table(train(training, test, settings));
}

}  // namespace

int main(int count, char** arguments) {
  return trainer::run_program("train_libtorch", count, arguments, [](auto own_arguments) {
    Settings settings;
    if (trainer::set_flags(flags(settings), own_arguments)) {
      compare(settings);
    } else {
      std::cout
          << "Trains a small convolutional network with libtorch: in full precision, with every\n"
             "saved tensor packed, and as a chain of blocks with one context each.\n\n"
          << trainer::describe(flags(settings));
    }
    return EXIT_SUCCESS;
  });
}
