// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Steps, probes, and the loop around them.

#include "train_gpt/training.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>

#include "common/parameter.hpp"
#include "common/probe.hpp"
#include "train_gpt/adamw.hpp"
#include "train_gpt/text.hpp"

namespace gpt {
namespace {

// A probe's sequences. Few are enough: only how the tensors' effects compare matters.
constexpr std::int64_t probe_sequences = 2;

}  // namespace

std::vector<float> gradient_of(Model& model, const Batch& batch, ActivationStore& store) {
  model.forward_backward(batch, store);
  return {model.gradients().begin(), model.gradients().end()};
}

void probe_tensors(Model& model, const Batch& batch, ActivationStore& store) {
  trainer::perturb_tensors(
      store.steps(), [&] { return gradient_of(model, batch, store); },
      [&] { return store.num_tensors(); },
      [&](std::size_t tensor, double squared_difference) {
        store.widths()->observe_perturbation(tensor, squared_difference);
      });
}

void require_same_widths(const trainer::WidthControl& widths, const Ranks& ranks) {
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

TrainingReport train(Model& model, std::span<const std::uint8_t> text,
                     const TrainingSetting& setting, ActivationStore& store, const Ranks& ranks,
                     const std::function<void(std::int64_t)>& progress) {
  const std::int64_t first = setting.batch * ranks.rank() / ranks.size();
  const std::int64_t last = setting.batch * (ranks.rank() + 1) / ranks.size();
  WindowStream batches(text, model.shape().context, setting.seed);
  WindowStream probes(text, model.shape().context, ~setting.seed);
  trainer::WidthControl* const widths = store.widths();
  AdamW adamw(model);
  TrainingReport report;
  const trainer::Stopwatch stopwatch;
  for (std::int64_t step = 0; step < setting.steps; ++step) {
    if (widths != nullptr && widths->wants_probes()) {
      const std::int64_t mine = probe_sequences * ranks.rank();
      probe_tensors(
          model, probes.next(probe_sequences * ranks.size(), mine, mine + probe_sequences), store);
    }
    trainer::StepReport step_report =
        model.forward_backward(batches.next(setting.batch, first, last), store);
    ranks.average(model.gradients());
    if (widths != nullptr && widths->step()) {
      require_same_widths(*widths, ranks);
    }
    adamw.step(trainer::one_cycle(static_cast<double>(step) / static_cast<double>(setting.steps),
                                  setting.learning_rate, 0.1));
    step_report.loss /= ranks.size();
    ranks.sum(std::span(&step_report.loss, 1));
    report.add(step_report);
    progress(step + 1);
  }
  report.seconds = stopwatch.seconds();
  report.codec_seconds = store.codec_seconds();
  if (widths != nullptr) {
    report.widths = widths->bits();
  }
  return report;
}

double validation_loss(Model& model, std::span<const std::uint8_t> text, std::int64_t windows,
                       const Ranks& ranks) {
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
