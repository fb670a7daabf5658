// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shared by the tests of libtorch/: small networks, statistics of gradients, bytes and messages.
#pragma once

#include <torch/torch.h>

// Debian's torch includes glog, whose macros have these names.
#undef CHECK
#undef CHECK_EQ
#undef CHECK_NE
#undef CHECK_LT
#undef CHECK_LE
#undef CHECK_GT
#undef CHECK_GE
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "actpack_torch/chain.hpp"
#include "actpack_torch/counting_allocator.hpp"

namespace support {

using namespace actpack_torch;

inline CountingAllocator& allocator = CountingAllocator::instance();  // before there are tensors

// ---- Networks -----------------------------------------------------------------------------------

struct BlockShape {
  std::int64_t from;
  std::int64_t to;
  bool is_pooled = false;

  torch::nn::Conv2dOptions convolution() const {
    return torch::nn::Conv2dOptions(from, to, 3).padding(1).bias(false);
  }
};

// Odd sizes have short groups, unused bits, and a row and a column that pooling leaves out.
inline const std::vector<BlockShape> small_shapes{{2, 6, true}, {6, 6}, {6, 8, true}};
inline at::Tensor small_input() { return torch::randn({12, 2, 10, 9}); }

inline torch::nn::Sequential make_plain(const std::vector<BlockShape>& shapes) {
  torch::nn::Sequential network;
  for (const BlockShape& shape : shapes) {
    network->push_back(torch::nn::Conv2d(shape.convolution()));
    network->push_back(torch::nn::BatchNorm2d(shape.to));
    network->push_back(torch::nn::ReLU());
    if (shape.is_pooled) {
      network->push_back(torch::nn::MaxPool2d(2));
    }
  }
  return network;
}

inline CompressedChain make_chain(const std::vector<BlockShape>& shapes,
                                  const Options& options = {}) {
  std::vector<ConvBatchNormReLU> blocks;
  for (const BlockShape& shape : shapes) {
    blocks.push_back(ConvBatchNormReLU(shape.convolution(), shape.is_pooled));
  }
  return CompressedChain(blocks, options);
}

// Copies parameters and buffers, whose order is the same in both kinds of network.
inline void copy_state(const torch::nn::Module& from, torch::nn::Module& to) {
  const torch::NoGradGuard no_grad;
  const auto copy = [](const std::vector<at::Tensor>& source, std::vector<at::Tensor> target) {
    REQUIRE(source.size() == target.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      target[i].copy_(source[i]);
    }
  };
  copy(from.parameters(), to.parameters());
  copy(from.buffers(), to.buffers());
}

// Gives γ either sign, but no value near 0, and β other values than 0.
inline void stir(torch::nn::Sequential& network) {
  const torch::NoGradGuard no_grad;
  for (const auto& module : network->children()) {
    if (auto* const batch_norm = module->as<torch::nn::BatchNorm2dImpl>()) {
      batch_norm->weight.uniform_(0.5, 1.5).mul_(at::randn_like(batch_norm->weight).sign_());
      batch_norm->bias.uniform_(-0.3, 0.3);
    }
  }
}

inline at::Tensor flat_gradients(const torch::nn::Module& network) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& parameter : network.parameters()) {
    flat.push_back(parameter.grad().reshape(-1));
  }
  return at::cat(flat).to(at::kDouble);
}

// Returns the gradient of Σ output · direction for all parameters.
template <class Network>
at::Tensor gradient_of(Network& network, const at::Tensor& x, const at::Tensor& direction) {
  network->zero_grad();
  (network->forward(x) * direction).sum().backward();
  return flat_gradients(*network);
}

inline at::Tensor direction_for(torch::nn::Sequential& network, const at::Tensor& x) {
  const torch::NoGradGuard no_grad;
  return at::randn_like(network->forward(x));
}

// ---- Statistics ---------------------------------------------------------------------------------

// For the mean of k independent errors, k · ‖mean‖² over the mean of ‖error‖² is 1 on average if
// there is no bias, and grows like k if there is. A mean of many errors is normal by the central
// limit theorem; then the ratio's standard deviation is √(2 tr Σ²) / tr Σ, with Σ the errors'
// covariance. Products of different errors estimate tr Σ².
class ErrorsOfMeans {
 public:
  // `draws` has one gradient per row.
  ErrorsOfMeans(const at::Tensor& draws, const at::Tensor& exact)
      : errors_(draws - exact), norm_(exact.norm().item<double>()) {
    const at::Tensor products = errors_.matmul(errors_.t());
    const double n = static_cast<double>(errors_.size(0));
    const double diagonal = products.diag().square().sum().item<double>();
    trace_ = products.trace().item<double>() / n;
    deviation_ =
        std::sqrt(2 * (products.square().sum().item<double>() - diagonal) / (n * (n - 1))) / trace_;
  }

  double ratio(std::int64_t k) const {
    return static_cast<double>(k) * errors_.narrow(0, 0, k).mean(0).square().sum().item<double>() /
           trace_;
  }
  double deviation() const { return deviation_; }
  double relative_error() const { return std::sqrt(trace_) / norm_; }  // of one draw

 private:
  at::Tensor errors_;
  double norm_;
  double trace_;
  double deviation_;
};

inline constexpr double sigmas = 5;
inline constexpr std::int64_t draws_of_gradients = 64;

template <class Draw>
at::Tensor draw_gradients(const Draw& draw, std::int64_t draws = draws_of_gradients) {
  std::vector<at::Tensor> rows;
  for (std::int64_t i = 0; i < draws; ++i) {
    rows.push_back(draw());
  }
  return at::stack(rows);
}

// The error of the mean of k gradients falls as 1/√k.
inline void check_unbiased(const ErrorsOfMeans& errors) {
  for (const std::int64_t k : {1, 4, 16, 64}) {
    const double ratio = errors.ratio(k);
    CAPTURE(k);
    CAPTURE(ratio);
    CAPTURE(errors.deviation());
    CHECK(std::abs(ratio - 1) < sigmas * errors.deviation());
  }
}

// Errors are proportional to steps, which are 1/3 and 1/255 of a range. 64 draws estimate each to
// 0.5 % (half of deviation() / √64). The rest of the 5 % allows for the values' positions within
// the coarse steps.
inline void check_steps(double error_at_2_bits, double error_at_8_bits) {
  CHECK(std::abs(error_at_8_bits / error_at_2_bits * 255 / 3 - 1) < 0.05);
}

// ---- Bytes and messages -------------------------------------------------------------------------

// Returns the bytes that `make` leaves alive.
template <class Make>
std::int64_t bytes_kept(const Make& make) {
  const std::int64_t before = allocator.live_bytes();
  const auto result = make();
  return allocator.live_bytes() - before;
}

struct StepBytes {
  std::int64_t saved;
  std::int64_t peak;
};

template <class Network>
StepBytes bytes_of_step(Network& network, const at::Tensor& x, const at::Tensor& direction) {
  gradient_of(network, x, direction);  // gradients exist before the step that counts
  const std::int64_t before = allocator.live_bytes();
  allocator.restart_peak();
  const at::Tensor loss = (network->forward(x) * direction).sum();
  const std::int64_t saved = allocator.live_bytes() - before;
  loss.backward();
  return {saved, allocator.peak_bytes() - before};
}

inline double ratio(std::int64_t full, std::int64_t packed) {
  return static_cast<double>(full) / static_cast<double>(packed);
}

template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace support
