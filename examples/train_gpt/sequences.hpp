// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Spreads the sequences of a batch over threads such that no result depends on their number, and
// holds the memory that a thread works in.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/tensor.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

// One thread's memory for one sequence: tensors of a whole sequence only where tokens meet, of a
// tile of it elsewhere.
struct Scratch {
  explicit Scratch(const ModelShape& shape)
      : gradient(
            std::max({AttentionParameters<float>::numel(shape), MlpParameters<float>::numel(shape),
                      HeadParameters<float>::numel(shape)})),
        scores(shape.context * shape.context), score_gradients(shape.context * shape.context) {
    for (trainer::Array<float>* sequence : {&query, &key, &value, &output, &query_gradient,
                                            &key_gradient, &value_gradient, &output_gradient}) {
      *sequence = trainer::Array<float>(shape.context * shape.channels);
    }
    for (trainer::Array<float>* tile : {&normalized, &scaled, &row_gradient}) {
      *tile = trainer::Array<float>(shape.tile() * shape.channels);
    }
    for (trainer::Array<float>* tile : {&wide, &wide_value, &wide_derivative}) {
      *tile =
          trainer::Array<float>(shape.tile() * std::max(shape.hidden(), ModelShape::vocabulary));
    }
  }

  trainer::Array<float> gradient;  // of one sequence with respect to one part's parameters
  trainer::Array<float> scores, score_gradients;
  trainer::Array<float> query, key, value, output;
  trainer::Array<float> query_gradient, key_gradient, value_gradient, output_gradient;
  trainer::Array<float> normalized, scaled, row_gradient;
  trainer::Array<float> wide, wide_value, wide_derivative;
};

// One for each thread.
using Workspace = std::vector<Scratch>;

// Calls body(sequence, scratch) for every sequence, several at a time.
template <class Body>
void for_each_sequence(std::int64_t sequences, Workspace& workspace, const Body& body) {
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
    body(sequence, workspace[static_cast<std::size_t>(omp_get_thread_num())]);
  }
}

// Sets `gradient` to the sum of what body(sequence, scratch, own) adds to `own`, which starts as
// zero. Sums are added in the order of the sequences: whichever thread takes one, the result is the
// same to the last bit, and there need not be more sums than threads.
template <class Body>
void sum_over_sequences(std::int64_t sequences, Workspace& workspace, std::span<float> gradient,
                        const Body& body) {
  std::ranges::fill(gradient, 0.0f);
#pragma omp parallel for ordered schedule(dynamic)
  for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
    Scratch& scratch = workspace[static_cast<std::size_t>(omp_get_thread_num())];
    const std::span<float> own = scratch.gradient.first(static_cast<std::int64_t>(gradient.size()));
    std::ranges::fill(own, 0.0f);
    body(sequence, scratch, own);
#pragma omp ordered
    std::ranges::transform(gradient, own, gradient.begin(), std::plus<float>());
  }
}

}  // namespace gpt
