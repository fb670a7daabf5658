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

Training::Training(Model& model, std::span<const std::uint8_t> text, const TrainingSetting& setting,
                   ActivationStore& store, const Ranks& ranks)
    : model_(model), setting_(setting), store_(store), ranks_(ranks),
      batches_(text, model.shape().context, setting.seed),
      probes_(text, model.shape().context, ~setting.seed), adamw_(model) {}

void Training::step() {
  const trainer::Stopwatch stopwatch;
  const double codec_seconds = store_.codec_seconds();
  trainer::WidthControl* const widths = store_.widths();
  if (widths != nullptr && widths->wants_probes()) {
    const std::int64_t mine = probe_sequences * ranks_.rank();
    probe_tensors(model_,
                  probes_.next(probe_sequences * ranks_.size(), mine, mine + probe_sequences),
                  store_);
  }
  const std::int64_t first = setting_.batch * ranks_.rank() / ranks_.size();
  const std::int64_t last = setting_.batch * (ranks_.rank() + 1) / ranks_.size();
  trainer::StepReport step_report =
      model_.forward_backward(batches_.next(setting_.batch, first, last), store_);
  ranks_.average(model_.gradients());
  if (widths != nullptr && widths->step()) {
    require_same_widths(*widths, ranks_);
  }
  const double progress = static_cast<double>(done()) / static_cast<double>(setting_.steps);
  adamw_.step(trainer::one_cycle(progress, setting_.learning_rate, 0.1));
  step_report.loss /= ranks_.size();
  ranks_.sum(std::span(&step_report.loss, 1));
  report_.add(step_report);
  report_.seconds += stopwatch.seconds();
  report_.codec_seconds += store_.codec_seconds() - codec_seconds;
}

TrainingReport Training::report() const {
  TrainingReport report{report_, {}};
  if (store_.widths() != nullptr) {
    report.widths = store_.widths()->bits();
  }
  return report;
}

void Training::visit(trainer::Checkpoint& checkpoint) {
  report_.visit(checkpoint);
  checkpoint.visit("parameters", model_.values());
  adamw_.visit(checkpoint);
  batches_.visit(checkpoint);
  probes_.visit(checkpoint);
  store_.steps().visit(checkpoint);
  if (store_.widths() != nullptr) {
    visit_widths(checkpoint);
  }
}

// Until their next solution, ranks know different things: the checkpoint has the state of each.
void Training::visit_widths(trainer::Checkpoint& checkpoint) {
  std::vector<std::byte> state = store_.widths()->save();  // as long on all ranks and at all times
  const std::size_t start = state.size() * static_cast<std::size_t>(ranks_.rank());
  std::vector<double> numbers(state.size() * static_cast<std::size_t>(ranks_.size()));
  std::ranges::transform(state, numbers.begin() + static_cast<std::ptrdiff_t>(start),
                         [](std::byte byte) { return static_cast<double>(byte); });
  ranks_.sum(numbers);
  std::vector<std::uint8_t> states(numbers.begin(), numbers.end());
  checkpoint.visit("widths of ranks", std::span(states));
  if (checkpoint.is_reading()) {
    const auto all = std::as_bytes(std::span(states));
    store_.widths()->restore(all.subspan(start, state.size()), done());
  }
}

TrainingReport train(Model& model, std::span<const std::uint8_t> text,
                     const TrainingSetting& setting, ActivationStore& store, const Ranks& ranks,
                     const std::function<void(std::int64_t)>& progress) {
  Training training(model, text, setting, store, ranks);
  while (!training.is_over()) {
    training.step();
    progress(training.done());
  }
  return training.report();
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
