// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Makes, trains and measures networks.

#include "train_fashion_mnist/experiment.hpp"

#include <omp.h>

#include <iostream>

#include "common/memory.hpp"
#include "common/progress.hpp"

namespace trainer {
namespace {

Data load(const ExperimentOptions& options) {
  omp_set_num_threads(options.threads);
  memory::keep_freed_memory();
  return load_data(options.data, options.train_limit, std::cout);
}

}  // namespace

Experiment::Experiment(const ExperimentOptions& options)
    : options_(options), data_(load(options)),
      pixel_scale_(measure_pixels(data_.train.pixels.span())) {}

Network Experiment::make_network(std::int64_t depth) const {
  return {net_a(depth), image_classes, pixel_scale_, options_.seed};
}

TrainingReport Experiment::train(Network& network, std::int64_t steps, std::int64_t cycle,
                                 Contexts& contexts, const std::string& name) const {
  Progress progress(name, steps * batch_size, "images");
  return trainer::train(network, data_.train, options_.seed, steps, cycle, contexts,
                        [&](std::int64_t done) { progress(done * batch_size); });
}

double Experiment::test_accuracy(Network& network) const {
  const std::int64_t correct = network.count_correct(data_.test.pixels, data_.test.labels);
  return 100 * static_cast<double>(correct) / static_cast<double>(data_.test.labels.size());
}

StepReport Experiment::measure_step(const Codec& codec, std::int64_t depth,
                                    std::int64_t batch) const {
  Network network = make_network(depth);
  Contexts contexts = make_contexts(codec);
  BatchStream stream(data_.train, options_.seed, batch);
  return run_step(network, stream, contexts);
}

}  // namespace trainer
