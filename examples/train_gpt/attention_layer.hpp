// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The first half of a transformer layer: x += projection(attention(layer_norm(x))).
#pragma once

#include <cstdint>
#include <span>

#include "common/saved_tensor.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/attention.hpp"
#include "train_gpt/sequences.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

// All that the backward pass needs of a batch.
struct AttentionContext {
  AttentionContext(std::int64_t layer, std::int64_t tokens, ActivationStore& store)
      : input(store.make(layer, Kind::attention_input, tokens)),
        query(store.make(layer, Kind::query, tokens)), key(store.make(layer, Kind::key, tokens)),
        value(store.make(layer, Kind::value, tokens)),
        output(store.make(layer, Kind::attention_output, tokens)), inverse_deviation(tokens) {}

  void finish(std::int64_t layer, ActivationStore& store) const {
    store.finish(layer, Kind::attention_input, input);
    store.finish(layer, Kind::query, query);
    store.finish(layer, Kind::key, key);
    store.finish(layer, Kind::value, value);
    store.finish(layer, Kind::attention_output, output);
    store.count_bytes(inverse_deviation.numel() * static_cast<std::int64_t>(sizeof(float)));
  }

  SavedTensor input;
  SavedTensor query, key, value;
  SavedTensor output;
  trainer::Array<float> inverse_deviation;
};

class AttentionLayer {
 public:
  AttentionLayer(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape), attention_(shape) {}

  // `x` is the residual stream of one sequence.
  void forward(std::int64_t sequence, std::span<float> x, AttentionContext& context,
               Scratch& work) const;

  // `dx` is the gradient with respect to the residual stream: behind this layer before, in front of
  // it after. Adds to the gradient with respect to the parameters.
  void backward(std::int64_t sequence, std::span<float> dx, const AttentionContext& context,
                Scratch& work, std::span<float> gradient) const;

 private:
  std::span<float> tile(std::span<float> sequence, std::int64_t token) const;

  ModelShape shape_;
  AttentionParameters<const float> p_;
  Attention attention_;
};

}  // namespace gpt
