// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The training loop: steps whose memory is measured, and a whole training run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "common/data.hpp"
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

// Trains for `steps` steps of a learning rate cycle of `cycle` steps. Calls progress(steps done)
// after each.
TrainingReport train(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                     std::int64_t cycle, Contexts& contexts,
                     const std::function<void(std::int64_t)>& progress);

}  // namespace trainer
