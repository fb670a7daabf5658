// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The network and the data of one command line, for everything that is done with them.
#pragma once

#include <cstdint>
#include <string>

#include "common/data.hpp"
#include "common/step_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_fashion_mnist/training.hpp"

namespace trainer {

class Experiment {
 public:
  // Loads the data, which prints a line, and sets the number of threads.
  explicit Experiment(const ExperimentOptions& options);

  std::uint64_t seed() const { return options_.seed; }
  const Data& data() const { return data_; }
  Network make_network() const { return make_network(options_.depth); }
  Contexts make_contexts(const Codec& codec) const { return {codec, options_.seed}; }
  BatchStream batches() const { return {data_.train, options_.seed}; }

  Training make_training(Network& network, std::int64_t steps, Contexts& contexts) const {
    return {network, data_.train, options_.seed, steps, steps, contexts};
  }
  TrainingReport train(Network& network, std::int64_t steps, std::int64_t cycle, Contexts& contexts,
                       const std::string& name) const;

  // In percent.
  double test_accuracy(Network& network) const;

  // One step of a new network, without training.
  StepReport measure_step(const Codec& codec) const {
    return measure_step(codec, options_.depth, batch_size);
  }
  StepReport measure_step(const Codec& codec, std::int64_t depth, std::int64_t batch) const;

 private:
  Network make_network(std::int64_t depth) const;

  ExperimentOptions options_;
  Data data_;
  PixelScale pixel_scale_;
};

}  // namespace trainer
