// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The second half of a transformer layer: x += down(gelu(up(layer_norm(x)))).
#pragma once

#include <cstdint>
#include <span>

#include "common/saved_tensor.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/sequences.hpp"
#include "train_gpt/shape.hpp"

namespace gpt {

// All that the backward pass needs of a batch.
struct MlpContext {
  MlpContext(std::int64_t layer, std::int64_t tokens, ActivationStore& store)
      : input(store.make(layer, Kind::mlp_input, tokens)),
        gelu(store.make(layer, Kind::gelu, tokens)),
        output(store.make(layer, Kind::mlp_output, tokens)), inverse_deviation(tokens),
        keeps_derivative(store.policy().gelu == SavePolicy::Gelu::derivative) {}

  void finish(std::int64_t layer, ActivationStore& store) const {
    store.finish(layer, Kind::mlp_input, input);
    store.finish(layer, Kind::gelu, gelu);
    store.finish(layer, Kind::mlp_output, output);
    store.count_bytes(inverse_deviation.numel() * static_cast<std::int64_t>(sizeof(float)));
  }

  SavedTensor input;
  SavedTensor gelu;    // the derivative or the input
  SavedTensor output;  // GELU's; nothing where it comes from the input again
  trainer::Array<float> inverse_deviation;
  bool keeps_derivative;
};

class MlpLayer {
 public:
  MlpLayer(const ModelShape& shape, std::span<const float> parameters)
      : shape_(shape), p_(parameters, shape) {}

  // `x` is the residual stream of one sequence.
  void forward(std::int64_t sequence, std::span<float> x, MlpContext& context, Scratch& work) const;

  // `dx` is the gradient with respect to the residual stream: behind this layer before, in front of
  // it after. Adds to the gradient with respect to the parameters.
  void backward(std::int64_t sequence, std::span<float> dx, const MlpContext& context,
                Scratch& work, std::span<float> gradient) const;

 private:
  struct Gelu {
    std::span<const float> output, derivative;
  };

  Gelu load_gelu(std::int64_t first, const MlpContext& context, Scratch& work) const;

  std::span<float> tile(std::span<float> sequence, std::int64_t token) const;
  std::span<float> wide(trainer::Array<float>& scratch) const;

  ModelShape shape_;
  MlpParameters<const float> p_;
};

}  // namespace gpt
