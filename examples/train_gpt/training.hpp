// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The training loop: steps that are measured, probes for the controller of widths, and the loss on
// the validation text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/step_report.hpp"
#include "common/width_control.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/adamw.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/ranks.hpp"
#include "train_gpt/text.hpp"

namespace gpt {

// The gradient of one batch, all parameters taken as one vector.
std::vector<float> gradient_of(Model& model, const Batch& batch, ActivationStore& store);

// Tells the controller how much each tensor's rounding changes the gradient of one batch.
void probe_tensors(Model& model, const Batch& batch, ActivationStore& store);

// Ranks that disagree about a width would add up gradients of different noise without a sign of it.
void require_same_widths(const trainer::WidthControl& widths, const Ranks& ranks);

struct TrainingSetting {
  std::int64_t steps = 1200;
  std::int64_t batch = 16;  // sequences, of all ranks together
  double learning_rate = 3e-3;
  std::uint64_t seed = 0;
};

struct TrainingReport : trainer::TrainingReport {  // without validation
  std::vector<int> widths;                         // by tensor, where the controller found them

  void visit(trainer::Checkpoint& checkpoint) {
    trainer::TrainingReport::visit(checkpoint);
    checkpoint.visit("widths", widths);
  }
};

// A training run between two steps. All ranks make the same calls.
class Training {
 public:
  // All that it refers to must outlive it.
  Training(Model& model, std::span<const std::uint8_t> text, const TrainingSetting& setting,
           ActivationStore& store, const Ranks& ranks);

  bool is_over() const { return done() == setting_.steps; }
  std::int64_t done() const { return static_cast<std::int64_t>(report_.losses.size()); }
  void step();
  TrainingReport report() const;

  // Everything that later steps of all ranks depend on, the weights included. A checkpoint is read
  // into a new run with a new store.
  void visit(trainer::Checkpoint& checkpoint);

 private:
  void visit_widths(trainer::Checkpoint& checkpoint);

  Model& model_;
  TrainingSetting setting_;
  ActivationStore& store_;
  const Ranks& ranks_;
  WindowStream batches_;
  WindowStream probes_;
  AdamW adamw_;
  trainer::TrainingReport report_;
};

// All steps at once. Calls progress(steps done) after each.
TrainingReport train(Model& model, std::span<const std::uint8_t> text,
                     const TrainingSetting& setting, ActivationStore& store, const Ranks& ranks,
                     const std::function<void(std::int64_t)>& progress);

// The mean loss over `windows` windows of the validation text, in nats a byte. Ranks share the
// work.
double validation_loss(Model& model, std::span<const std::uint8_t> text, std::int64_t windows,
                       const Ranks& ranks);

}  // namespace gpt
