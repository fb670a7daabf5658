// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Gradients that were drawn at random, and how they scatter about the exact one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "common/parallel.hpp"
#include "common/tensor.hpp"

namespace research {

using namespace trainer;

// A summed variance, over all entries of a gradient and about the exact one, from gradients drawn
// at random.
struct DrawnVariance {
  double measured = 0;
  double standard_error = 0;  // of `measured`
  double mean_error = 0;      // draws · ‖mean − exact‖² / measured: about 1 without bias
  double mean_error_deviation = 0;  // how far chance takes `mean_error` from 1
};

// Gathers gradients that were drawn at random, and tells how they scatter about the exact one.
class DrawnGradients {
 public:
  explicit DrawnGradients(std::span<const float> exact)
      : exact_(exact.begin(), exact.end()), error_sum_(exact.size(), 0.0) {}

  void add(std::span<const float> drawn) {
    const double square = sum_by_block([&](std::size_t i) {
      const double error = double{drawn[i]} - double{exact_[i]};
      error_sum_[i] += error;
      return error * error;
    });
    ++draws_;
    squares_.push_back(square);
  }

  void report(DrawnVariance& report) const {
    const double draws = static_cast<double>(draws_);
    const double mean = std::reduce(squares_.begin(), squares_.end()) / draws;
    double scatter = 0;
    for (const double square : squares_) {
      scatter += (square - mean) * (square - mean) / (draws - 1);
    }
    const double mean_error =
        sum_by_block([&](std::size_t i) { return error_sum_[i] / draws * error_sum_[i] / draws; });
    report.measured = mean;
    report.standard_error = std::sqrt(scatter / draws);
    report.mean_error = draws * mean_error / mean;
    // The mean's error times √draws has a single error's distribution, only closer to normal.
    report.mean_error_deviation = std::sqrt(scatter) / mean;
  }

 private:
  // Σ term(i), several blocks at a time and yet always in the same order.
  template <class Term>
  double sum_by_block(const Term& term) const {
    constexpr std::size_t block_size = 1024;
    const std::size_t blocks = (exact_.size() + block_size - 1) / block_size;
    Tensor<double> sums(chunks_for(static_cast<std::int64_t>(blocks)), 1);
    for_each_chunk(static_cast<std::int64_t>(blocks), [&](const Chunk& chunk) {
      double& sum = sums.image(chunk.index)[0];
      sum = 0;
      const std::size_t last =
          std::min(static_cast<std::size_t>(chunk.last) * block_size, exact_.size());
      for (std::size_t i = static_cast<std::size_t>(chunk.first) * block_size; i < last; ++i) {
        sum += term(i);
      }
    });
    return sum_chunks(sums)[0];
  }

  std::vector<float> exact_;
  std::vector<double> error_sum_;
  std::vector<double> squares_;  // ‖error‖² of each draw
  std::int64_t draws_ = 0;
};

}  // namespace research
