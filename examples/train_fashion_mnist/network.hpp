// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The network: blocks, then the classifier. Between its forward and its backward pass it holds
// nothing but contexts, which the backward pass decodes one image at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/data.hpp"
#include "common/parallel.hpp"
#include "layers/block.hpp"
#include "layers/classifier.hpp"
#include "train_fashion_mnist/context.hpp"

namespace trainer {

// All that waits for the backward pass.
struct SavedActivations {
  std::unique_ptr<InputContext> input;
  std::vector<std::unique_ptr<BlockContext>> blocks;
  Tensor<float> probabilities;
  std::vector<std::uint8_t> labels;
  double loss = 0;  // the mean over the batch
};

class Network {
 public:
  Network(const std::vector<BlockShape>& shapes, std::int64_t classes, PixelScale pixel_scale,
          std::uint64_t seed);

  // Of each block the convolution's weights, γ and β; then the classifier's weights and biases.
  std::vector<Parameter*> parameters();

  // The parameters, and the running statistics.
  void visit(Checkpoint& checkpoint);

  SavedActivations forward(Batch batch, ContextFactory& contexts);

  // Leaves the gradient of the mean loss in the parameters, and frees every context once it is used
  // up.
  void backward(SavedActivations saved);

  // The number of images whose class comes out right, by the running statistics.
  std::int64_t count_correct(const Tensor<std::uint8_t>& pixels,
                             std::span<const std::uint8_t> labels);

 private:
  using Output = std::shared_ptr<const Tensor<float>>;

  // The gradient with respect to a block's output, after its ReLU, and the sums of it that batch
  // norm needs.
  struct OutputGradient {
    OutputGradient() = default;
    OutputGradient(std::int64_t images, const Pooling& pooling)
        : values(images, pooling.output().numel()), sums(images, pooling.output().channels) {}

    Tensor<float> values;
    ChannelSums sums;
  };

  Scratch& scratch(const Chunk& chunk) { return scratch_[chunk.thread]; }

  // The convolution's output, with batch norm set to its statistics. The first block reads
  // `pixels`.
  Tensor<float> convolve(Block& block, std::int64_t images, const Tensor<std::uint8_t>& pixels,
                         Output previous);

  // Batch norm, ReLU and pooling in one go, image by image: the context sees each image while it is
  // in cache, and no tensor of the batch comes into being but the output.
  Output finish_by_image(const Block& block, Tensor<float> convolved, BlockContext& context);

  // The same for a context that must see all images at once.
  Output finish_whole_batch(const Block& block, Tensor<float> convolved, BlockContext& context);

  void classify(const Tensor<float>& input, SavedActivations& saved);

  OutputGradient backward_through_classifier(const SavedActivations& saved);

  // From the gradient of the last saved block's output to that of the block before, if there is
  // one.
  OutputGradient backward_through_last_block(const SavedActivations& saved,
                                             OutputGradient gradient);

  // Decodes the input of layer `index` (blocks, then the classifier): the output of the block
  // before, with its x̂ and its argmax left in `work`, or the network's input.
  std::span<const float> load_input(const SavedActivations& saved, std::size_t index,
                                    std::int64_t image, Scratch& work) const;

  // Takes the gradient of that input back through the ReLU it came out of, and sums up what batch
  // norm needs.
  void pass_relu(const SavedActivations& saved, std::size_t index, std::int64_t image,
                 Scratch& work, const Chunk& chunk, OutputGradient& gradient) const;

  std::size_t predict(std::span<const std::uint8_t> pixels, Scratch& work) const;

  PixelScale pixel_scale_;
  std::vector<Block> blocks_;
  std::optional<Classifier> classifier_;
  std::vector<Scratch> scratch_;
};

}  // namespace trainer
