// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The honest test of a codec inside a trainer: how far the mean of k compressed gradients is from
// the exact one. An unbiased codec falls like 1/√k; a biased one gets stuck.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "context.hpp"
#include "network.hpp"

namespace trainer {

struct GradientError {
  std::int64_t k = 0;
  double error = 0;  // ‖mean of k gradients − exact gradient‖ / ‖exact gradient‖
};

inline Batch copy_of(const Batch& batch) {
  Batch copy;
  copy.pixels = Tensor<std::uint8_t>(batch.pixels.images(), batch.pixels.row_size());
  copy.labels = batch.labels;
  std::ranges::copy(batch.pixels.span(), copy.pixels.span().begin());
  return copy;
}

inline std::vector<float> gradient_of(Network& network, const Batch& batch,
                                      ContextFactory& contexts) {
  network.backward(network.forward(copy_of(batch), contexts));
  std::vector<float> gradient;
  for (const Parameter* parameter : network.parameters()) {
    const std::span<const float> part = parameter->gradient.span();
    gradient.insert(gradient.end(), part.begin(), part.end());
  }
  return gradient;
}

// The errors for k = 1, 4, 16, … and `most`, all parameters taken as one vector. Calls progress(k).
template <class Progress>
std::vector<GradientError> check_gradient(Network& network, const Batch& batch,
                                          ContextFactory& exact_contexts, ContextFactory& contexts,
                                          std::int64_t most, Progress&& progress) {
  const std::vector<float> exact = gradient_of(network, batch, exact_contexts);
  std::vector<double> sum(exact.size(), 0.0);
  std::vector<GradientError> errors;
  std::int64_t next = 1;
  for (std::int64_t k = 1; k <= most; ++k) {
    const std::vector<float> gradient = gradient_of(network, batch, contexts);
    double distance = 0;
    double norm = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      sum[i] += double{gradient[i]};
      const double difference = sum[i] / static_cast<double>(k) - double{exact[i]};
      distance += difference * difference;
      norm += double{exact[i]} * double{exact[i]};
    }
    if (k == next || k == most) {
      errors.push_back({k, std::sqrt(distance / norm)});
      next = k == next ? 4 * next : next;
    }
    progress(k);
  }
  return errors;
}

}  // namespace trainer
