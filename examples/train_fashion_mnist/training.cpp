// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Steps, probes, and the loop around them.

#include "train_fashion_mnist/training.hpp"

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

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

Training::Training(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                   std::int64_t cycle, Contexts& contexts)
    : network_(network), data_(data), steps_(steps), cycle_(cycle), contexts_(contexts),
      batches_(data, seed), probes_(data, ~seed), sgd_(network.parameters()) {}

void Training::step() {
  const Stopwatch stopwatch;
  const double codec_seconds = contexts_.codec_seconds();
  WidthControl* const control = contexts_.width_control();
  if (control != nullptr && control->wants_probes()) {
    probe_tensors(network_, probes_.next(), contexts_);
  }
  const std::int64_t done_before = done();
  report_.add(run_step(network_, batches_, contexts_));
  if (control != nullptr) {
    control->step();
  }
  sgd_.step(one_cycle(static_cast<double>(done_before) / static_cast<double>(cycle_)));
  report_.seconds += stopwatch.seconds();
  report_.codec_seconds += contexts_.codec_seconds() - codec_seconds;
}

void Training::visit(Checkpoint& checkpoint) {
  report_.visit(checkpoint);
  if (WidthControl* const control = contexts_.width_control()) {
    std::vector<std::byte> state;
    if (checkpoint.is_reading()) {
      network_.forward(BatchStream(data_, 0).next(),
                       contexts_);  // the controller meets its tensors
    } else {
      state = control->save();
    }
    checkpoint.visit("widths", state);
    if (checkpoint.is_reading()) {
      control->restore(state, done());
    }
  }
  network_.visit(checkpoint);
  sgd_.visit(checkpoint);
  batches_.visit(checkpoint);
  probes_.visit(checkpoint);
  contexts_.steps().visit(checkpoint);
}

TrainingReport train(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                     std::int64_t cycle, Contexts& contexts,
                     const std::function<void(std::int64_t)>& progress) {
  Training training(network, data, seed, steps, cycle, contexts);
  while (!training.is_over()) {
    training.step();
    progress(training.done());
  }
  return training.report();
}

}  // namespace trainer
