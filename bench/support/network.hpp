// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The network of examples/train_fashion_mnist, a few steps into its training, and the activations
// that its backward pass needs: the values that codecs really meet.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/data.hpp"
#include "common/parameter.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"

namespace bench {

/// A tensor of one batch: a row for each image.
struct Activation {
  std::string name;
  std::int64_t rows;
  std::vector<float> values;
  bool is_relu_output;
};

/// The network of the Fashion-MNIST trainer, on the data set from the folder that ACTPACK_DATA_DIR
/// names, else on generated data. Works on as many threads as OpenMP is set to when it is made.
class TrainedNetwork {
 public:
  explicit TrainedNetwork(std::int64_t steps)
      : data_(load()), network_(trainer::net_a(0), trainer::image_classes,
                                trainer::measure_pixels(data_.train.pixels.span()), seed),
        batches_(data_.train, seed), sgd_(network_.parameters()) {
    trainer::Contexts contexts = exact_contexts();
    for (std::int64_t step = 0; step < steps; ++step) {
      train_step(next_batch(), contexts);
    }
  }

  /// Where the data come from, without the folder's name or the reason.
  std::string origin() const {
    return data_.origin.substr(0, std::min(data_.origin.find(" from "), data_.origin.find(" (")));
  }

  trainer::Batch next_batch() { return batches_.next(); }

  void train_step(trainer::Batch batch, trainer::ContextFactory& contexts) {
    network_.backward(network_.forward(std::move(batch), contexts));
    sgd_.step(learning_rate);
  }

  /// The tensors that full precision saves of a batch: for each block the input of its batch norm,
  /// that of its ReLU, and the output behind pooling, which is the next layer's input.
  std::vector<Activation> activations() {
    Recorder recorder;
    network_.forward(next_batch(), recorder);
    return std::move(recorder.activations);
  }

  static trainer::Contexts exact_contexts() { return {trainer::Codec::full_precision(), seed}; }

 private:
  static constexpr std::uint64_t seed = 1;
  static constexpr double learning_rate = 0.05;

  static trainer::Data load() {
    const char* folder = std::getenv("ACTPACK_DATA_DIR");
    return trainer::load_data("", folder == nullptr ? "" : folder, "");
  }

  /// Copies what passes; there is no backward pass.
  class Recorder final : public trainer::ContextFactory {
   public:
    std::vector<Activation> activations;

    void begin_step() override {}
    std::unique_ptr<trainer::InputContext> save_input(trainer::Tensor<std::uint8_t>,
                                                      trainer::PixelScale) override {
      return nullptr;
    }
    std::unique_ptr<trainer::BlockContext> make_block_context(
        const trainer::BlockSetting& block) override {
      const std::string number = std::to_string(activations.size() / 3 + 1);
      const std::size_t first = activations.size();
      activations.push_back({"batch_norm_" + number + "_input", block.images, {}, false});
      activations.push_back({"relu_" + number + "_input", block.images, {}, false});
      activations.push_back({"block_" + number + "_output", block.images, {}, true});
      return std::make_unique<RecordingContext>(activations, first);
    }
  };

  class RecordingContext final : public trainer::BlockContext {
   public:
    RecordingContext(std::vector<Activation>& activations, std::size_t first)
        : activations_(activations), first_(first) {}

    void save(std::int64_t, const trainer::BlockValues& values) override {
      append(first_, values.batch_norm_input);
      append(first_ + 1, values.relu_input);
      append(first_ + 2, values.output);
    }
    void load_argmax(std::int64_t, std::span<std::uint8_t>) const override { fail(); }
    void load_output(std::int64_t, std::span<const std::uint8_t>, std::span<float>,
                     std::span<float>, std::span<float>) const override {
      fail();
    }
    void relu_backward(std::int64_t, std::span<const std::uint8_t>,
                       std::span<float>) const override {
      fail();
    }
    void load_normalized(std::int64_t, std::span<float>) const override { fail(); }

   private:
    [[noreturn]] static void fail() { throw std::logic_error("recorded, not saved"); }
    void append(std::size_t tensor, std::span<const float> values) {
      std::vector<float>& all = activations_[tensor].values;
      all.insert(all.end(), values.begin(), values.end());
    }

    std::vector<Activation>& activations_;
    std::size_t first_;
  };

  trainer::Data data_;
  trainer::Network network_;
  trainer::BatchStream batches_;
  trainer::Sgd sgd_;
};

}  // namespace bench
