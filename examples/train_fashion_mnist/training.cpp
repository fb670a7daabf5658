// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Steps, probes, and the loop around them.

#include "train_fashion_mnist/training.hpp"

#include <span>
#include <utility>

#include "common/parameter.hpp"
#include "common/probe.hpp"

namespace trainer {

StepReport run_step(Network& network, BatchStream& batches, ContextFactory& contexts) {
  const StepMemory memory;
  StepReport report;
  SavedActivations saved = network.forward(batches.next(), contexts);
  report.saved_bytes = memory.live_bytes();
  report.loss = saved.loss;
  network.backward(std::move(saved));
  report.peak_bytes = memory.peak_bytes();
  return report;
}

std::vector<float> gradient_of(Network& network, const Batch& batch, ContextFactory& contexts) {
  network.backward(network.forward(copy_of(batch), contexts));
  std::vector<float> gradient;
  for (const Parameter* parameter : network.parameters()) {
    const std::span<const float> values = parameter->gradient.span();
    gradient.insert(gradient.end(), values.begin(), values.end());
  }
  return gradient;
}

void perturb_tensors(Network& network, const Batch& batch, Contexts& contexts,
                     const std::function<void(std::size_t, double)>& report) {
  perturb_tensors(
      contexts.steps(), [&] { return gradient_of(network, batch, contexts); },
      [&] { return contexts.num_tensors(); }, report);
}

void probe_tensors(Network& network, const Batch& batch, Contexts& contexts) {
  perturb_tensors(network, batch, contexts, [&](std::size_t tensor, double squared_difference) {
    contexts.width_control()->observe_perturbation(tensor, squared_difference);
  });
}

TrainingReport train(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                     std::int64_t cycle, Contexts& contexts,
                     const std::function<void(std::int64_t)>& progress) {
  BatchStream batches(data, seed);
  BatchStream probes(data, ~seed);
  WidthControl* const control = contexts.width_control();
  Sgd sgd(network.parameters());
  TrainingReport report;
  const Stopwatch stopwatch;
  for (std::int64_t step = 0; step < steps; ++step) {
    if (control != nullptr && control->wants_probes()) {
      probe_tensors(network, probes.next(), contexts);
    }
    report.add(run_step(network, batches, contexts));
    if (control != nullptr) {
      control->step();
    }
    sgd.step(one_cycle(static_cast<double>(step) / static_cast<double>(cycle)));
    progress(step + 1);
  }
  report.seconds = stopwatch.seconds();
  report.codec_seconds = contexts.codec_seconds();
  return report;
}

}  // namespace trainer
