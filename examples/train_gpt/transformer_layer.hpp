// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The two halves of a transformer layer, and the tensors that each saves for its backward pass.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/attention.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/sequences.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

// The saved tensors of a batch.
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

// The first half of a transformer layer: x += projection(attention(layer_norm(x))).
class AttentionLayer {
 public:
  AttentionLayer(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape), attention_(shape) {}

  // `x` is the residual stream of one sequence.
  void forward(std::int64_t sequence, std::span<float> x, AttentionContext& context,
               Scratch& work) const;

  // `dx` is the gradient with respect to the residual stream: after this layer at first, before
  // it after. Adds to the gradient with respect to the parameters.
  void backward(std::int64_t sequence, std::span<float> dx, const AttentionContext& context,
                Scratch& work, std::span<float> gradient) const;

 private:
  ModelShape shape_;
  AttentionParameters<const float> p_;
  Attention attention_;
};

// The saved tensors of a batch.
struct MlpContext {
  MlpContext(std::int64_t layer, std::int64_t tokens, ActivationStore& store)
      : input(store.make(layer, Kind::mlp_input, tokens)),
        gelu(store.make(layer, Kind::gelu, tokens)),
        output(store.make(layer, Kind::mlp_output, tokens)), inverse_deviation(tokens),
        saves_derivative(store.policy().gelu == SavePolicy::Gelu::derivative) {}

  void finish(std::int64_t layer, ActivationStore& store) const {
    store.finish(layer, Kind::mlp_input, input);
    store.finish(layer, Kind::gelu, gelu);
    store.finish(layer, Kind::mlp_output, output);
    store.count_bytes(inverse_deviation.numel() * static_cast<std::int64_t>(sizeof(float)));
  }

  SavedTensor input;
  SavedTensor gelu;    // the derivative or the input
  SavedTensor output;  // GELU's; nothing where it is computed from the input again
  trainer::Array<float> inverse_deviation;
  bool saves_derivative;
};

// The second half: x += down(gelu(up(layer_norm(x)))).
class MlpLayer {
 public:
  MlpLayer(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape) {}

  // Both as the attention's.
  void forward(std::int64_t sequence, std::span<float> x, MlpContext& context, Scratch& work) const;
  void backward(std::int64_t sequence, std::span<float> dx, const MlpContext& context,
                Scratch& work, std::span<float> gradient) const;

 private:
  struct Gelu {
    std::span<const float> output, derivative;
  };

  Gelu load_gelu(std::int64_t first, const MlpContext& context, Scratch& work) const;

  std::span<float> wide(trainer::Array<float>& scratch) const;

  ModelShape shape_;
  MlpParameters<const float> p_;
};

}  // namespace gpt
