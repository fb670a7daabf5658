// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The two passes, spread over threads by images.

#include "train_fashion_mnist/network.hpp"

#include <omp.h>

#include <algorithm>
#include <random>
#include <utility>

namespace trainer {
namespace {

double pixel_count(const Block& block, std::int64_t images) {
  return static_cast<double>(images * block.pooling.input().pixels());
}

}  // namespace

Network::Network(const std::vector<BlockShape>& shapes, std::int64_t classes,
                 PixelScale pixel_scale, std::uint64_t seed)
    : pixel_scale_(pixel_scale) {
  std::mt19937_64 random(seed);
  blocks_.reserve(shapes.size());
  for (const BlockShape& shape : shapes) {
    blocks_.emplace_back(shape, random);
  }
  classifier_.emplace(blocks_.back().pooling.output().numel(), classes, random);
  for (int thread = 0; thread < omp_get_max_threads(); ++thread) {
    scratch_.emplace_back(blocks_);
  }
}

std::vector<Parameter*> Network::parameters() {
  std::vector<Parameter*> all;
  for (Block& block : blocks_) {
    all.insert(all.end(),
               {&block.convolution.weight, &block.batch_norm.gamma, &block.batch_norm.beta});
  }
  all.insert(all.end(), {&classifier_->weight, &classifier_->bias});
  return all;
}

void Network::visit(Checkpoint& checkpoint) {
  for (Parameter* parameter : parameters()) {
    checkpoint.visit("parameter", parameter->value.span());
  }
  for (Block& block : blocks_) {
    block.batch_norm.visit(checkpoint);
  }
}

SavedActivations Network::forward(Batch batch, ContextFactory& contexts) {
  const std::int64_t images = batch.pixels.images();
  SavedActivations saved;
  saved.labels = std::move(batch.labels);
  contexts.begin_step();
  Output output;
  for (Block& block : blocks_) {
    Tensor<float> convolved = convolve(block, images, batch.pixels, std::move(output));
    if (&block == &blocks_.front()) {
      saved.input = contexts.save_input(std::move(batch.pixels), pixel_scale_);
    }
    saved.blocks.push_back(contexts.make_block_context({images, block.pooling, block.batch_norm}));
    output = contexts.saves_whole_batch()
                 ? finish_whole_batch(block, std::move(convolved), *saved.blocks.back())
                 : finish_by_image(block, std::move(convolved), *saved.blocks.back());
  }
  classify(*output, saved);
  return saved;
}

void Network::backward(SavedActivations saved) {
  OutputGradient gradient = backward_through_classifier(saved);
  for (; !saved.blocks.empty(); saved.blocks.pop_back()) {
    gradient = backward_through_last_block(saved, std::move(gradient));
  }
}

std::int64_t Network::count_correct(const Tensor<std::uint8_t>& pixels,
                                    std::span<const std::uint8_t> labels) {
  for (Block& block : blocks_) {
    block.batch_norm.use_running_statistics();
  }
  Tensor<std::int64_t> correct(chunks_for(pixels.images()), 1);
  for_each_chunk(pixels.images(), [&](const Chunk& chunk) {
    std::int64_t& count = correct.image(chunk.index)[0];
    count = 0;
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      count +=
          predict(pixels.image(image), scratch(chunk)) == labels[static_cast<std::size_t>(image)];
    }
  });
  return sum_chunks(correct)[0];
}

Tensor<float> Network::convolve(Block& block, std::int64_t images,
                                const Tensor<std::uint8_t>& pixels, Output previous) {
  const Convolution& convolution = block.convolution;
  Tensor<float> convolved(images, convolution.output().numel());
  ChannelSums sums(images, convolution.output().channels);
  for_each_chunk(images, [&](const Chunk& chunk) {
    Scratch& work = scratch(chunk);
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      std::span<const float> values;
      if (previous != nullptr) {
        values = previous->image(image);
      } else {
        const std::span<float> loaded = work.input.first(convolution.input().numel());
        pixel_scale_(pixels.image(image), loaded);
        values = loaded;
      }
      convolution.forward(values, convolved.image(image), work.columns.span());
      sums.add(chunk, convolved.image(image), convolved.image(image));
    }
  });
  block.batch_norm.use_batch_statistics(sums.totals(), pixel_count(block, images));
  return convolved;
}

Network::Output Network::finish_by_image(const Block& block, Tensor<float> convolved,
                                         BlockContext& context) {
  const std::int64_t images = convolved.images();
  auto output = std::make_shared<Tensor<float>>(images, block.pooling.output().numel());
  for_each_chunk(images, [&](const Chunk& chunk) {
    Scratch& work = scratch(chunk);
    const std::span<float> relu_input = work.values.first(block.pooling.input().numel());
    const std::span<std::uint8_t> argmax = work.argmax.first(block.pooling.argmax_numel());
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      block.batch_norm.apply()(convolved.image(image), relu_input);
      block.pooling.forward(relu_input, output->image(image), argmax);
      context.save(image, {convolved.image(image), relu_input, output->image(image), argmax});
    }
  });
  context.finish(std::move(convolved), output);
  return output;
}

Network::Output Network::finish_whole_batch(const Block& block, Tensor<float> convolved,
                                            BlockContext& context) {
  const std::int64_t images = convolved.images();
  auto output = std::make_shared<Tensor<float>>(images, block.pooling.output().numel());
  Tensor<float> relu_input(images, block.pooling.input().numel());
  Tensor<std::uint8_t> argmax(images, block.pooling.argmax_numel());
  for_each_chunk(images, [&](const Chunk& chunk) {
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      block.batch_norm.apply()(convolved.image(image), relu_input.image(image));
      block.pooling.forward(relu_input.image(image), output->image(image), argmax.image(image));
    }
  });
  context.save(0, {convolved.span(), relu_input.span(), output->span(), argmax.span()});
  context.finish(std::move(convolved), output);
  return output;
}

void Network::classify(const Tensor<float>& input, SavedActivations& saved) {
  saved.probabilities = Tensor<float>(input.images(), classifier_->classes());
  Tensor<double> loss(chunks_for(input.images()), 1);
  for_each_chunk(input.images(), [&](const Chunk& chunk) {
    double& total = loss.image(chunk.index)[0];
    total = 0;
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      classifier_->forward(input.image(image), saved.probabilities.image(image));
      total += Classifier::loss(saved.probabilities.image(image),
                                saved.labels[static_cast<std::size_t>(image)]);
    }
  });
  saved.loss = sum_chunks(loss)[0] / static_cast<double>(input.images());
}

Network::OutputGradient Network::backward_through_classifier(const SavedActivations& saved) {
  const std::size_t index = blocks_.size();
  const std::int64_t images = saved.probabilities.images();
  const std::int64_t classes = classifier_->classes();
  OutputGradient previous(images, blocks_.back().pooling);
  GradientSum weight_gradient(images, classifier_->weight);
  GradientSum bias_gradient(images, classifier_->bias);
  for_each_chunk(images, [&](const Chunk& chunk) {
    Scratch& work = scratch(chunk);
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      const std::span<float> gradient = work.values.first(classes);
      Classifier::loss_gradient(saved.probabilities.image(image),
                                saved.labels[static_cast<std::size_t>(image)],
                                1 / static_cast<float>(images), gradient);
      classifier_->backward(load_input(saved, index, image, work), gradient,
                            weight_gradient.of(chunk), bias_gradient.of(chunk),
                            previous.values.image(image));
      pass_relu(saved, index, image, work, chunk, previous);
    }
  });
  weight_gradient.store(classifier_->weight);
  bias_gradient.store(classifier_->bias);
  return previous;
}

Network::OutputGradient Network::backward_through_last_block(const SavedActivations& saved,
                                                             OutputGradient gradient) {
  const std::size_t index = saved.blocks.size() - 1;
  const BlockContext& context = *saved.blocks[index];
  Block& block = blocks_[index];
  const std::int64_t images = gradient.values.images();
  block.batch_norm.begin_backward(gradient.sums.totals(), pixel_count(block, images));
  OutputGradient previous =
      index > 0 ? OutputGradient(images, blocks_[index - 1].pooling) : OutputGradient();
  GradientSum weight_gradient(images, block.convolution.weight);
  for_each_chunk(images, [&](const Chunk& chunk) {
    Scratch& work = scratch(chunk);
    const std::span<float> convolved = work.values.first(block.pooling.input().numel());
    const std::span<std::uint8_t> argmax = work.argmax.first(block.pooling.argmax_numel());
    for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
      context.load_normalized(image, convolved);
      context.load_argmax(image, argmax);
      block.batch_norm.backward()(convolved, convolved);
      block.pooling.scatter_add(gradient.values.image(image), argmax, block.batch_norm.gain(),
                                convolved);
      block.convolution.add_weight_gradient(load_input(saved, index, image, work), convolved,
                                            weight_gradient.of(chunk), work.columns.span());
      if (index > 0) {
        block.convolution.input_gradient(convolved, previous.values.image(image),
                                         work.columns.span());
        pass_relu(saved, index, image, work, chunk, previous);
      }
    }
  });
  weight_gradient.store(block.convolution.weight);
  return previous;
}

std::span<const float> Network::load_input(const SavedActivations& saved, std::size_t index,
                                           std::int64_t image, Scratch& work) const {
  if (index == 0) {
    const std::span<float> input = work.input.first(blocks_[0].convolution.input().numel());
    saved.input->load(image, input);
    return input;
  }
  const Pooling& pooling = blocks_[index - 1].pooling;
  const std::span<std::uint8_t> argmax = work.argmax.first(pooling.argmax_numel());
  const std::span<float> input = work.input.first(pooling.output().numel());
  saved.blocks[index - 1]->load_argmax(image, argmax);
  saved.blocks[index - 1]->load_output(image, argmax, input,
                                       work.normalized.first(pooling.output().numel()),
                                       work.decoded.first(pooling.input().numel()));
  return input;
}

void Network::pass_relu(const SavedActivations& saved, std::size_t index, std::int64_t image,
                        Scratch& work, const Chunk& chunk, OutputGradient& gradient) const {
  const Pooling& pooling = blocks_[index - 1].pooling;
  const std::span<float> values = gradient.values.image(image);
  saved.blocks[index - 1]->relu_backward(image, work.argmax.first(pooling.argmax_numel()), values);
  gradient.sums.add(chunk, values, work.normalized.first(pooling.output().numel()));
}

std::size_t Network::predict(std::span<const std::uint8_t> pixels, Scratch& work) const {
  std::span<float> input = work.input.first(static_cast<std::int64_t>(pixels.size()));
  pixel_scale_(pixels, input);
  for (const Block& block : blocks_) {
    const std::span<float> values = work.values.first(block.pooling.input().numel());
    block.convolution.forward(input, values, work.columns.span());
    block.batch_norm.apply()(values, values);
    input = work.input.first(block.pooling.output().numel());
    block.pooling.forward(values, input, work.argmax.first(block.pooling.argmax_numel()));
  }
  const std::span<float> probabilities = work.values.first(classifier_->classes());
  classifier_->forward(input, probabilities);
  return static_cast<std::size_t>(std::ranges::max_element(probabilities) - probabilities.begin());
}

}  // namespace trainer
