// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The training loop: steps that are measured, probes for the controller of widths, and the loss on
// the validation text.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "activation_store.hpp"
#include "adamw.hpp"
#include "model.hpp"
#include "parameter.hpp"
#include "probe.hpp"
#include "ranks.hpp"
#include "text.hpp"

namespace gpt {

// Sequences that a probe looks at. Few are enough: only how the tensors' effects compare matters.
inline constexpr std::int64_t probe_sequences = 2;

// Tells the controller how much each tensor's rounding changes the gradient of one batch.
inline void probe_tensors(Model& model, const Batch& batch, ActivationStore& store) {
  trainer::perturb_tensors(
      store.steps(),
      [&] {
        model.forward_backward(batch, store);
        return std::vector<float>(model.gradients().begin(), model.gradients().end());
      },
      [&] { return store.num_tensors(); },
      [&](std::size_t tensor, double squared_difference) {
        store.widths()->observe_perturbation(tensor, squared_difference);
      });
}

// Ranks that disagree about a width would add up gradients of different noise without a sign of it.
inline void require_same_widths(const TensorWidths& widths, const Ranks& ranks) {
  const std::vector<int> own = widths.bits();
  std::vector<double> sums(own.begin(), own.end());
  std::vector<double> squares(sums.size());
  std::ranges::transform(sums, squares.begin(), [](double bits) { return bits * bits; });
  ranks.sum(sums);
  ranks.sum(squares);
  const double size = ranks.size();
  for (std::size_t tensor = 0; tensor < own.size(); ++tensor) {
    if (size * squares[tensor] != sums[tensor] * sums[tensor]) {  // the variance, of integers
      throw std::logic_error("ranks disagree about the width of tensor " + std::to_string(tensor));
    }
  }
}

struct TrainingSetting {
  std::int64_t steps = 1200;
  std::int64_t batch = 16;  // sequences, of all ranks together
  double learning_rate = 3e-3;
  std::uint64_t seed = 0;
};

struct TrainingReport {
  std::vector<double> losses;  // of every step
  std::int64_t stored_bytes = 0;
  std::int64_t peak_bytes = 0;
  double seconds = 0;  // without validation
  double codec_seconds = 0;
  std::vector<int> widths;  // by tensor, where the controller found them
};

// Calls progress(steps done) after each.
template <class Progress>
TrainingReport train(Model& model, std::span<const std::uint8_t> text,
                     const TrainingSetting& setting, ActivationStore& store, const Ranks& ranks,
                     const Progress& progress) {
  const std::int64_t first = setting.batch * ranks.rank() / ranks.size();
  const std::int64_t last = setting.batch * (ranks.rank() + 1) / ranks.size();
  WindowStream batches(text, model.shape().context, setting.seed);
  WindowStream probes(text, model.shape().context, ~setting.seed);
  TensorWidths* const widths = store.widths();
  AdamW adamw(model);
  TrainingReport report;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < setting.steps; ++step) {
    if (widths != nullptr && widths->wants_probes()) {
      const std::int64_t mine = probe_sequences * ranks.rank();
      probe_tensors(
          model, probes.next(probe_sequences * ranks.size(), mine, mine + probe_sequences), store);
    }
    const StepReport measured =
        model.forward_backward(batches.next(setting.batch, first, last), store);
    ranks.average(model.gradients());
    if (widths != nullptr && widths->step()) {
      require_same_widths(*widths, ranks);
    }
    adamw.step(trainer::one_cycle(static_cast<double>(step) / static_cast<double>(setting.steps),
                                  setting.learning_rate, 0.1));
    double loss = measured.loss / ranks.size();
    ranks.sum(std::span(&loss, 1));
    report.losses.push_back(loss);
    report.stored_bytes = std::max(report.stored_bytes, measured.stored_bytes);
    report.peak_bytes = std::max(report.peak_bytes, measured.peak_bytes);
    progress(step + 1);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.seconds = elapsed.count();
  report.codec_seconds = store.codec_seconds();
  if (widths != nullptr) {
    report.widths = widths->bits();
  }
  return report;
}

// The mean loss over `windows` windows of the validation text, in nats a byte. Ranks share the
// work.
inline double validation_loss(Model& model, std::span<const std::uint8_t> text,
                              std::int64_t windows, const Ranks& ranks) {
  constexpr std::int64_t batch = 16;
  const Batch all = spread_windows(text, model.shape().context, windows);
  double total = 0;
  for (std::int64_t first = batch * ranks.rank(); first < windows; first += batch * ranks.size()) {
    const std::int64_t size = std::min(batch, windows - first);
    Batch some(size, all.row_size());
    std::ranges::copy(all.from(first).first(some.span().size()), some.span().begin());
    total += model.loss(some) * static_cast<double>(size);
  }
  ranks.sum(std::span(&total, 1));
  return total / static_cast<double>(windows);
}

}  // namespace gpt
