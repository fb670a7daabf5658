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

#include "common/step_report.hpp"
#include "common/width_control.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/ranks.hpp"

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
};

// Calls progress(steps done) after each.
TrainingReport train(Model& model, std::span<const std::uint8_t> text,
                     const TrainingSetting& setting, ActivationStore& store, const Ranks& ranks,
                     const std::function<void(std::int64_t)>& progress);

// The mean loss over `windows` windows of the validation text, in nats a byte. Ranks share the
// work.
double validation_loss(Model& model, std::span<const std::uint8_t> text, std::int64_t windows,
                       const Ranks& ranks);

}  // namespace gpt
