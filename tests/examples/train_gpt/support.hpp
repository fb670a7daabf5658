// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shared by the tests of the transformer: small models, batches, and their gradients.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "support/statistics.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/shape.hpp"
#include "train_gpt/training.hpp"

namespace support {

inline const gpt::SavePolicy exact = gpt::SavePolicy::all(gpt::SavePolicy::full_precision);

// Three tiles to a sequence; heads, channels and context all differ.
inline gpt::ModelShape small_shape() {
  return {.layers = 2, .channels = 8, .heads = 2, .context = 6};
}

// Big enough for full groups.
inline gpt::ModelShape packing_shape() {
  return {.layers = 2, .channels = 32, .heads = 4, .context = 16};
}

// Weights large enough for every part to be far from linear, and scales that are not those of a
// newborn model.
inline gpt::Model make_model(const gpt::ModelShape& shape) {
  gpt::Model model(shape, 3);
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal(0, 0.3f);
  for (float& value : model.values()) value += normal(random);
  return model;
}

inline gpt::Batch random_batch(std::int64_t sequences, std::int64_t context,
                               std::uint64_t seed = 5) {
  std::mt19937_64 random(seed);
  gpt::Batch batch(sequences, context + 1);
  for (std::uint8_t& byte : batch.span()) byte = static_cast<std::uint8_t>(random());
  return batch;
}

inline std::vector<float> normal_values(std::int64_t numel, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(numel));
  for (float& value : values) value = normal(random);
  return values;
}

using gpt::gradient_of;
inline std::vector<float> gradient_of(gpt::Model& model, const gpt::Batch& batch,
                                      const gpt::SavePolicy& policy, std::uint64_t seed = 11) {
  gpt::ActivationStore store(model.shape(), policy, seed);
  return gradient_of(model, batch, store);
}

// ‖found − expected‖ / ‖expected‖
template <class Found, class Expected>
double relative_error(const Found& found, const Expected& expected) {
  return std::sqrt(relative_energy(found, expected));
}

}  // namespace support
