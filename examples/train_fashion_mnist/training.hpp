// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The training loop: shuffled batches, steps whose memory is measured, and a whole run of epochs.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "contexts.hpp"
#include "data.hpp"
#include "gradient_check.hpp"
#include "memory.hpp"
#include "network.hpp"
#include "parameter.hpp"
#include "probe.hpp"
#include "width_control.hpp"

namespace trainer {

inline constexpr std::int64_t batch_size = 128;

// Batches of the training set, in a new order every epoch; the last of an epoch may be smaller.
class BatchStream {
 public:
  BatchStream(const Batch& data, std::uint64_t seed, std::int64_t size = batch_size)
      : data_(data), size_(size), order_(data.labels.size()), position_(data.labels.size()) {
    std::seed_seq sequence{seed, seed >> 32, std::uint64_t{1}};  // apart from the weights' numbers
    random_.seed(sequence);
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
  }

  std::int64_t batches_per_epoch() const {
    return (static_cast<std::int64_t>(order_.size()) + size_ - 1) / size_;
  }

  Batch next() {
    if (position_ == order_.size()) {
      for (std::size_t last = order_.size() - 1; last > 0; --last) {
        std::swap(order_[last], order_[random_() % (last + 1)]);
      }
      position_ = 0;
    }
    const std::size_t size = std::min(static_cast<std::size_t>(size_), order_.size() - position_);
    const std::span<const std::int64_t> indices(&order_[position_], size);
    position_ += size;
    return gather(data_, indices);
  }

 private:
  const Batch& data_;
  std::int64_t size_;
  std::vector<std::int64_t> order_;
  std::size_t position_;
  std::mt19937_64 random_;
};

// What one step does to the allocator, against the moment before it: parameters, the optimizer's
// state, the threads' scratch and the data set are there before and not counted. They are the same
// for every codec.
struct StepReport {
  double loss = 0;
  std::int64_t saved_bytes = 0;  // kept between the forward and the backward pass
  std::int64_t peak_bytes = 0;   // the most at any moment of the step
};

// Forward and backward pass of the next batch; leaves the gradient in the network's parameters.
inline StepReport run_step(Network& network, BatchStream& batches, ContextFactory& contexts) {
  const std::int64_t before = memory::live_bytes();
  memory::restart_peak();
  StepReport report;
  {
    SavedActivations saved = network.forward(batches.next(), contexts);
    report.saved_bytes = memory::live_bytes() - before;
    report.loss = saved.loss;
    network.backward(std::move(saved));
  }
  report.peak_bytes = memory::peak_bytes() - before;
  return report;
}

// Calls report(tensor, squared norm of what changing that tensor's noise does to the gradient of
// one batch). The weights stay as they are.
template <class Report>
void perturb_tensors(Network& network, const Batch& batch, Contexts& contexts,
                     const Report& report) {
  perturb_tensors(
      contexts.steps(), [&] { return gradient_of(network, batch, contexts); },
      [&] { return contexts.num_tensors(); }, report);
}

// The same for the controller of a run with a budget.
inline void probe_tensors(Network& network, const Batch& batch, Contexts& contexts) {
  perturb_tensors(network, batch, contexts, [&](std::size_t tensor, double squared_difference) {
    contexts.width_control()->observe_perturbation(tensor, squared_difference);
  });
}

struct TrainingReport {
  std::vector<double> losses;  // of every step
  std::int64_t saved_bytes = 0;
  std::int64_t peak_bytes = 0;
  double seconds = 0;
  double codec_seconds = 0;
};

// Trains for `steps` steps of a learning rate cycle of `cycle` steps. Calls progress(steps done)
// after each.
template <class Progress>
TrainingReport train(Network& network, const Batch& data, std::uint64_t seed, std::int64_t steps,
                     std::int64_t cycle, Contexts& contexts, const Progress& progress) {
  BatchStream batches(data, seed);
  BatchStream probes(data, ~seed);
  WidthControl* const control = contexts.width_control();
  Sgd sgd(network.parameters());
  TrainingReport report;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < steps; ++step) {
    if (control != nullptr && control->wants_probes()) {
      probe_tensors(network, probes.next(), contexts);
    }
    const StepReport measured = run_step(network, batches, contexts);
    if (control != nullptr) {
      control->step();
    }
    sgd.step(one_cycle(static_cast<double>(step) / static_cast<double>(cycle)));
    report.losses.push_back(measured.loss);
    report.saved_bytes = std::max(report.saved_bytes, measured.saved_bytes);
    report.peak_bytes = std::max(report.peak_bytes, measured.peak_bytes);
    progress(step + 1);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.seconds = elapsed.count();
  report.codec_seconds = contexts.codec_seconds();
  return report;
}

}  // namespace trainer
