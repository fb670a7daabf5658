// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The exact passes of one training step, recorded block by block, and the weighted layers in it.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/variance.hpp"
#include "common/parallel.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"

namespace research {

using namespace trainer;

inline double sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}
inline double squared_norm(std::span<const float> values) {
  return std::transform_reduce(values.begin(), values.end(), 0.0, std::plus<>(),
                               [](float value) { return double{value} * double{value}; });
}

// The index of a width in tables by width.
inline std::size_t width_index(int bits) {
  return static_cast<std::size_t>(std::ranges::find(actpack::widths, bits) -
                                  actpack::widths.begin());
}

// A block in the exact passes of one step.
struct BlockRecord {
  explicit BlockRecord(const BlockSetting& block)
      : setting(block), batch_norm_input(block.images, block.pooling.input().numel()),
        relu_input(block.images, block.pooling.input().numel()),
        output(block.images, block.pooling.output().numel()),
        argmax(block.images, block.pooling.argmax_numel()),
        output_gradient(block.images, block.pooling.output().numel()) {}

  BlockValues values(std::int64_t image) const {
    return {batch_norm_input.image(image), relu_input.image(image), output.image(image),
            argmax.image(image)};
  }

  // Σ ∇y² of an image, by channel.
  std::vector<double> squared_gradients(std::int64_t image) const {
    std::vector<double> squares(static_cast<std::size_t>(setting.pooling.output().channels), 0.0);
    const std::span<const float> gradient = output_gradient.image(image);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      squares[i % squares.size()] += double{gradient[i]} * double{gradient[i]};
    }
    return squares;
  }

  BlockSetting setting;
  Tensor<float> batch_norm_input;
  Tensor<float> relu_input;
  Tensor<float> output;
  Tensor<std::uint8_t> argmax;
  Tensor<float> output_gradient;  // behind the ReLU
};

// Listens in on a block's context: everything passes through it.
class RecordingContext final : public BlockContext {
 public:
  RecordingContext(std::unique_ptr<BlockContext> context, BlockRecord& record)
      : context_(std::move(context)), record_(record) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    const auto copy = [=](auto from, auto& to) {
      std::ranges::copy(from, to.from(first_image).begin());
    };
    copy(values.batch_norm_input, record_.batch_norm_input);
    copy(values.relu_input, record_.relu_input);
    copy(values.output, record_.output);
    copy(values.argmax, record_.argmax);
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
    context_->relu_backward(image, argmax, gradient);
    std::ranges::copy(gradient, record_.output_gradient.image(image).begin());
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    context_->load_normalized(image, normalized);
  }

 private:
  std::unique_ptr<BlockContext> context_;
  BlockRecord& record_;
};

// The exact passes of one step. Reads the network's batch norms until its next forward pass.
class StepRecord final : private ContextFactory {
 public:
  StepRecord(Network& network, Batch batch, ContextFactory& exact_contexts)
      : contexts_(exact_contexts), images_(batch.pixels.images()) {
    SavedActivations saved = network.forward(std::move(batch), *this);
    logit_gradient_ = Tensor<float>(images_, saved.probabilities.row_size());
    for (std::int64_t image = 0; image < images_; ++image) {
      Classifier::loss_gradient(saved.probabilities.image(image),
                                saved.labels[static_cast<std::size_t>(image)],
                                1 / static_cast<float>(images_), logit_gradient_.image(image));
    }
    network.backward(std::move(saved));
  }

  std::int64_t images() const { return images_; }
  const std::deque<BlockRecord>& blocks() const { return blocks_; }
  const Tensor<float>& logit_gradient() const { return logit_gradient_; }

  // The input of layer `index`; the classifier is the last layer.
  const Tensor<float>& input(std::size_t index) const {
    return index == 0 ? input_ : blocks_[index - 1].output;
  }

  // The gradient of a block's batch norm input, which is its convolution's output.
  Tensor<float> convolution_gradient(std::size_t index) const {
    const BlockRecord& block = blocks_[index];
    const auto& [images, pooling, batch_norm] = block.setting;
    Tensor<float> gradient(images, pooling.input().numel());
    for (std::int64_t image = 0; image < images; ++image) {
      const std::span<float> values = gradient.image(image);
      batch_norm.normalize()(block.batch_norm_input.image(image), values);
      batch_norm.backward()(values, values);
      pooling.scatter_add(block.output_gradient.image(image), block.argmax.image(image),
                          batch_norm.gain(), values);
    }
    return gradient;
  }

  // Saves the network's input, or the values of one block, as `contexts` does.
  std::unique_ptr<InputContext> save_input_again(ContextFactory& contexts) const {
    Tensor<std::uint8_t> pixels(images_, pixels_.row_size());
    std::ranges::copy(pixels_.span(), pixels.span().begin());
    return contexts.save_input(std::move(pixels), pixel_scale_);
  }
  std::unique_ptr<BlockContext> save_again(std::size_t index, ContextFactory& contexts) const {
    const BlockRecord& block = blocks_[index];
    std::unique_ptr<BlockContext> context = contexts.make_block_context(block.setting);
    for_each_chunk(images_, [&](const Chunk& chunk) {
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        context->save(image, block.values(image));
      }
    });
    return context;
  }

 private:
  void begin_step() override { contexts_.begin_step(); }
  std::unique_ptr<InputContext> save_input(Tensor<std::uint8_t> pixels, PixelScale scale) override {
    pixel_scale_ = scale;
    pixels_ = Tensor<std::uint8_t>(images_, pixels.row_size());
    input_ = Tensor<float>(images_, pixels.row_size());
    std::ranges::copy(pixels.span(), pixels_.span().begin());
    scale(pixels.span(), input_.span());
    return contexts_.save_input(std::move(pixels), scale);
  }
  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override {
    blocks_.emplace_back(block);
    return std::make_unique<RecordingContext>(contexts_.make_block_context(block), blocks_.back());
  }

  ContextFactory& contexts_;
  std::int64_t images_;
  PixelScale pixel_scale_;
  Tensor<std::uint8_t> pixels_;
  Tensor<float> input_;
  std::deque<BlockRecord> blocks_;  // never moved: contexts refer to them
  Tensor<float> logit_gradient_;
};

// A convolution or the classifier in one recorded step. Its weights play no part.
class WeightedLayer {
 public:
  WeightedLayer(const StepRecord& record, std::size_t index)
      : record_(record), index_(index), columns_(static_cast<std::size_t>(omp_get_max_threads())) {
    std::mt19937_64 any_weights;
    const std::int64_t inputs = record.input(index).row_size();
    if (index < record.blocks().size()) {
      name_ = "convolution " + std::to_string(index + 1);
      const Shape output = record.blocks()[index].setting.pooling.input();
      const Shape input{output.height, output.width, inputs / output.pixels()};
      const auto convolution = std::make_shared<Convolution>(input, output.channels, any_weights);
      weight_ = std::shared_ptr<Parameter>(convolution, &convolution->weight);
      output_gradient_ = record.convolution_gradient(index);
      for (const std::int64_t size : {output.height, output.width}) {
        axes_.push_back({.input = size, .output = size, .kernel = 3, .padding = 1});
      }
      for (Array<float>& columns : columns_) {
        columns = Array<float>(convolution->columns_numel());
      }
      add_weight_gradient_ = [convolution](auto... arguments) {
        convolution->add_weight_gradient(arguments...);
      };
    } else {
      name_ = "classifier";
      const std::int64_t classes = record.logit_gradient().row_size();
      const auto classifier = std::make_shared<Classifier>(inputs, classes, any_weights);
      weight_ = std::shared_ptr<Parameter>(classifier, &classifier->weight);
      output_gradient_ = Tensor<float>(record.images(), classes);
      std::ranges::copy(record.logit_gradient().span(), output_gradient_.span().begin());
      for (Array<float>& columns : columns_) {
        columns = Array<float>(classes + inputs);  // for the gradients that nobody asks for
      }
      add_weight_gradient_ = [classifier, classes](std::span<const float> input,
                                                   std::span<const float> output_gradient,
                                                   std::span<float> weight_gradient,
                                                   std::span<float> columns) {
        const std::size_t biases = static_cast<std::size_t>(classes);
        std::ranges::fill(columns.first(biases), 0.0f);
        classifier->backward(input, output_gradient, weight_gradient, columns.first(biases),
                             columns.subspan(biases));
      };
    }
  }

  const std::string& name() const { return name_; }
  std::size_t index() const { return index_; }
  std::span<const actpack::ConvAxis> axes() const { return axes_; }  // none for the classifier
  std::span<const float> output_gradient(std::int64_t image) const {
    return output_gradient_.image(image);
  }
  double squared_gradient_norm(std::int64_t image) const {
    return squared_norm(output_gradient(image));
  }

  // The mean gain of the image's input values, by the formulas.
  double mean_gain(std::int64_t image) const {
    return axes_.empty() ? actpack::linear_gain(squared_gradient_norm(image))
                         : actpack::conv_gain(squared_gradient_norm(image), axes_);
  }

  // Its weight gradient if load(chunk, image) is its input. Summed as the network sums its own.
  template <class Load>
  std::span<const float> weight_gradient(const Load& load) {
    GradientSum sum(record_.images(), *weight_);
    for_each_chunk(record_.images(), [&](const Chunk& chunk) {
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        add_weight_gradient_(load(chunk, image), output_gradient_.image(image), sum.of(chunk),
                             columns_[chunk.thread].span());
      }
    });
    sum.store(*weight_);
    return weight_->gradient.span();
  }
  std::span<const float> exact_weight_gradient() {
    return weight_gradient(
        [&](const Chunk&, std::int64_t image) { return record_.input(index_).image(image); });
  }

 private:
  const StepRecord& record_;
  std::size_t index_;
  std::string name_;
  std::vector<actpack::ConvAxis> axes_;
  Tensor<float> output_gradient_;
  std::shared_ptr<Parameter> weight_;
  std::function<void(std::span<const float>, std::span<const float>, std::span<float>,
                     std::span<float>)>
      add_weight_gradient_;
  std::vector<Array<float>> columns_;  // each thread's scratch
};

}  // namespace research
