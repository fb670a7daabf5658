// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A chain of blocks in which each reads its input from the context of the one before.
#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "actpack_torch/conv_batch_norm_relu.hpp"
#include "actpack_torch/options.hpp"

namespace actpack_torch {

// Blocks in a row. Each takes the context of the one before as its input.
class CompressedChainImpl : public torch::nn::Module {
 public:
  CompressedChainImpl(std::vector<ConvBatchNormReLU> blocks, const Options& options = {})
      : blocks_(std::move(blocks)), options_(options), step_(options.step) {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      register_module(std::to_string(i), blocks_[i]);
    }
  }

  at::Tensor forward(const at::Tensor& x) {
    BlockOutput output{x, nullptr};
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      output = blocks_[i]->forward(output, options_, step_, i);
    }
    step_ += is_training() ? 1 : 0;
    return output.values;
  }

 private:
  std::vector<ConvBatchNormReLU> blocks_;
  Options options_;
  std::uint64_t step_;
};
TORCH_MODULE(CompressedChain);

}  // namespace actpack_torch
