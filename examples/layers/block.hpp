// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A block of the network, convolution – batch norm – ReLU – pooling, and the memory its passes work
// in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "common/parallel.hpp"
#include "common/tensor.hpp"
#include "layers/batch_norm.hpp"
#include "layers/convolution.hpp"
#include "layers/pooling.hpp"

namespace trainer {

struct BlockShape {
  Shape input;
  std::int64_t channels = 0;
  bool is_pooled = false;
};

// The network of the Fashion-MNIST trainer: three blocks with pooling, and after the first of them
// `depth` more without it.
inline std::vector<BlockShape> net_a(std::int64_t depth) {
  std::vector<BlockShape> shapes{{{28, 28, 1}, 16, true}};
  shapes.insert(shapes.end(), static_cast<std::size_t>(depth), {{14, 14, 16}, 16, false});
  shapes.push_back({{14, 14, 16}, 32, true});
  shapes.push_back({{7, 7, 32}, 64, true});
  return shapes;
}

struct Block {
  Block(const BlockShape& shape, std::mt19937_64& random)
      : convolution(shape.input, shape.channels, random), batch_norm(shape.channels),
        pooling(convolution.output(), shape.is_pooled) {}

  Convolution convolution;
  BatchNorm batch_norm;
  Pooling pooling;
};

// One thread's scratch, allocated once and as large as the largest layer.
struct Scratch {
  explicit Scratch(const std::vector<Block>& blocks) {
    std::int64_t columns_numel = 0;
    std::int64_t image_numel = 0;
    for (const Block& block : blocks) {
      columns_numel = std::max(columns_numel, block.convolution.columns_numel());
      image_numel = std::max(
          {image_numel, block.convolution.input().numel(), block.convolution.output().numel()});
    }
    columns = Array<float>(columns_numel);
    for (Array<float>* image : {&input, &normalized, &values, &decoded}) {
      *image = Array<float>(image_numel);
    }
    argmax = Array<std::uint8_t>(image_numel);
  }

  Array<float> columns;     // a convolution's patches
  Array<float> input;       // of a layer
  Array<float> normalized;  // x̂ at the places that `input` comes from
  Array<float> values;      // of a block, before pooling
  Array<float> decoded;     // for the contexts
  Array<std::uint8_t> argmax;
};

}  // namespace trainer
