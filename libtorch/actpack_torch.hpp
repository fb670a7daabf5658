// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// libtorch with its saved activations in about three bits. A scope packs whatever autograd saves
// for an unmodified model:
//
//   const CompressSavedTensors scope(*model);    // for this thread, until the scope ends
//   loss_of(model->forward(x)).backward();
//
// A chain of convolution – batch norm – ReLU blocks keeps one context for all three, half of that:
//
//   CompressedChain chain(std::vector{ConvBatchNormReLU(conv2d_options, /*is_pooled=*/true), …});
#pragma once

#include "actpack_torch/chain.hpp"
#include "actpack_torch/options.hpp"
#include "actpack_torch/packed_tensor.hpp"
#include "actpack_torch/scope.hpp"
