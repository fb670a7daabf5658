// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The model: embedding, layers, head. A step goes through it layer by layer for the whole batch, as
// the frameworks do; a layer's saved tensors are freed as soon as its backward pass is over.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/step_report.hpp"
#include "common/tensor.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/sequences.hpp"
#include "train_gpt/shape.hpp"
#include "train_gpt/transformer_layer.hpp"

namespace gpt {

// Rows of context + 1 bytes: all but the last are a sequence, all but the first its targets.
using Batch = trainer::Tensor<std::uint8_t>;

class Model {
 public:
  Model(const ModelShape& shape, std::uint64_t seed);

  const ModelShape& shape() const { return shape_; }
  const ParameterMap& map() const { return map_; }
  std::span<float> values() { return values_.span(); }
  std::span<float> gradients() { return gradients_.span(); }

  // The mean loss over all tokens of a batch.
  double loss(const Batch& batch);

  // Leaves the gradient of that loss in gradients().
  trainer::StepReport forward_backward(const Batch& batch, ActivationStore& store);

 private:
  struct Context {
    AttentionContext attention;
    MlpContext mlp;
  };

  std::span<const float> const_values() const { return values_.span(); }

  // As GPT-2 does: normal with deviation 0.02, and less where a layer adds to the residual stream.
  void initialize(std::uint64_t seed);

  std::span<const std::uint8_t> inputs(const Batch& batch, std::int64_t sequence) const;
  std::span<const std::uint8_t> targets(const Batch& batch, std::int64_t sequence) const;
  double tokens_of(const Batch& batch) const;
  double mean(const std::vector<double>& losses) const;

  // The residual stream at its start.
  trainer::Tensor<float> embed(const Batch& batch);

  AttentionLayer attention(std::int64_t layer) const;
  MlpLayer mlp(std::int64_t layer) const { return {shape_, map_.mlp(const_values(), layer)}; }

  // Half a layer: its attention or its MLP.
  template <class HalfContext, class Half>
  HalfContext half_forward(const Half& half, std::int64_t layer, trainer::Tensor<float>& stream,
                           ActivationStore& store);
  template <class Half, class HalfContext>
  void half_backward(const Half& half, const HalfContext& context, trainer::Tensor<float>& stream,
                     std::span<float> gradients);

  Context layer_forward(std::int64_t layer, trainer::Tensor<float>& stream, ActivationStore& store);

  // From here on `stream` is the gradient with respect to the residual stream.
  double head_backward(const Batch& batch, trainer::Tensor<float>& stream);

  void layer_backward(std::int64_t layer, const Context& context, trainer::Tensor<float>& stream);

  void embedding_backward(const Batch& batch, const trainer::Tensor<float>& stream);

  ModelShape shape_;
  ParameterMap map_;
  trainer::Array<float> values_;
  trainer::Array<float> gradients_;
  Workspace workspace_;
};

}  // namespace gpt
