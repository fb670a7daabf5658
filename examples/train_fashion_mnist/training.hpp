// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The training loop: steps whose memory is measured, and a whole training run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/data.hpp"
#include "common/parameter.hpp"
#include "common/step_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"

namespace trainer {

// Forward and backward pass of the next batch; leaves the gradient in the network's parameters.
StepReport run_step(Network& network, BatchStream& batches, ContextFactory& contexts);

// The gradient of one batch, all parameters taken as one vector.
std::vector<float> gradient_of(Network& network, const Batch& batch, ContextFactory& contexts);

// Calls report(tensor, squared norm of what changing that tensor's noise does to the gradient of
// one batch). The weights stay as they are.
void perturb_tensors(Network& network, const Batch& batch, Contexts& contexts,
                     const std::function<void(std::size_t, double)>& report);

// The same for the controller of a training run with a budget.
void probe_tensors(Network& network, const Batch& batch, Contexts& contexts);

// A training run between two steps.
class Training {
 public:
  // `steps` steps of a learning rate cycle of `cycle` steps. All that it refers to must outlive it.
  Training(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
           std::int64_t cycle, Contexts& contexts);

  bool is_over() const { return done() == steps_; }
  std::int64_t done() const { return static_cast<std::int64_t>(report_.losses.size()); }
  void step();
  const TrainingReport& report() const { return report_; }

  // Everything that later steps depend on, the network included. A checkpoint is read into a new
  // run with new contexts.
  void visit(Checkpoint& checkpoint);

 private:
  Network& network_;
  const Batch& data_;
  std::int64_t steps_;
  std::int64_t cycle_;
  Contexts& contexts_;
  BatchStream batches_;
  BatchStream probes_;
  Sgd sgd_;
  TrainingReport report_;
};

// All steps at once. Calls progress(steps done) after each.
TrainingReport train(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                     std::int64_t cycle, Contexts& contexts,
                     const std::function<void(std::int64_t)>& progress);

}  // namespace trainer
