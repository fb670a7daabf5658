// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// An experiment for checks of gradients: all of them look at one network, which has been trained
// for a while.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "train_fashion_mnist/experiment.hpp"

namespace research {

class TrainedExperiment : public trainer::Experiment {
 public:
  using Experiment::Experiment;

  // Trained in full precision when it is first asked for.
  trainer::Network& network() {
    constexpr std::int64_t steps = 300;
    constexpr std::int64_t cycle = 938;  // two epochs of Fashion-MNIST
    if (!network_) {
      network_.emplace(make_network());
      trainer::Contexts exact = make_contexts(trainer::Codec::full_precision());
      train(*network_, steps, cycle, exact, "training for the checks");
    }
    return *network_;
  }

  // Batches of full size in an order of their own, for whatever must not know the training's.
  std::vector<trainer::Batch> other_batches(std::size_t count) const {
    trainer::BatchStream stream(data().train, ~seed());
    const std::int64_t full_size = batches().next().pixels.images();
    std::vector<trainer::Batch> others;
    while (others.size() < count) {
      trainer::Batch other = stream.next();
      if (other.pixels.images() == full_size) {  // the last of an epoch may be smaller
        others.push_back(std::move(other));
      }
    }
    return others;
  }

 private:
  std::optional<trainer::Network> network_;
};

}  // namespace research
