// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Finds the largest training that fits into a given memory, by making real steps.
#pragma once

#include <algorithm>
#include <cstdint>

#include "research/largest_that_fits.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/shape.hpp"

namespace research {

using gpt::ActivationStore;
using gpt::Batch;
using gpt::Model;
using gpt::ModelShape;
using gpt::SavePolicy;

// The peak of a step beyond what was there before it; what the bytes are does not matter.
inline std::int64_t measured_peak(const ModelShape& shape, std::int64_t sequences,
                                  const SavePolicy& policy) {
  Model model(shape, 0);
  ActivationStore store(shape, policy, 0);
  Batch batch(sequences, shape.context + 1);
  std::ranges::fill(batch.span(), std::uint8_t{0});
  return model.forward_backward(batch, store).peak_bytes;
}

struct BudgetReport {
  std::int64_t sequences = 0;  // in a batch, with the layers that were asked for
  std::int64_t layers = 0;     // with the batch that was asked for
};

inline BudgetReport fill_budget(const ModelShape& shape, std::int64_t sequences,
                                const SavePolicy& policy, std::int64_t budget_bytes) {
  constexpr std::int64_t limit = 1 << 16;
  const auto fits = [&](const ModelShape& tried, std::int64_t batch) {
    return measured_peak(tried, batch, policy) <= budget_bytes;
  };
  return {largest_that_fits(limit, [&](std::int64_t batch) { return fits(shape, batch); }),
          largest_that_fits(limit, [&](std::int64_t layers) {
            ModelShape deeper = shape;
            deeper.layers = layers;
            return fits(deeper, sequences);
          })};
}

}  // namespace research
