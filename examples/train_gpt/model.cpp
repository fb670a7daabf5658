// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The passes, sequence by sequence.

#include "train_gpt/model.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "common/parameter.hpp"
#include "train_gpt/head.hpp"

namespace gpt {

Model::Model(const ModelShape& shape, std::uint64_t seed)
    : shape_(shape), map_(shape), values_(map_.numel()), gradients_(map_.numel()) {
  initialize(seed);
  for (int thread = 0; thread < omp_get_max_threads(); ++thread) {
    workspace_.emplace_back(shape);
  }
}

double Model::loss(const Batch& batch) {
  ActivationStore nothing(shape_, SavePolicy::all(SavePolicy::nothing), 0);
  trainer::Tensor<float> stream = embed(batch);
  for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
    layer_forward(layer, stream, nothing);
  }
  const Head head(shape_, map_.head(const_values()));
  std::vector<double> losses(static_cast<std::size_t>(batch.images()));
  for_each_sequence(batch.images(), workspace_, [&](std::int64_t sequence, Scratch& work) {
    losses[static_cast<std::size_t>(sequence)] =
        head.loss(stream.image(sequence), targets(batch, sequence), work);
  });
  return mean(losses);
}

trainer::StepReport Model::forward_backward(const Batch& batch, ActivationStore& store) {
  const trainer::StepMemory memory;
  store.begin_step();
  trainer::Tensor<float> stream = embed(batch);
  std::vector<Context> contexts;
  contexts.reserve(static_cast<std::size_t>(shape_.layers));
  for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
    contexts.push_back(layer_forward(layer, stream, store));
  }
  trainer::StepReport report;
  report.saved_bytes = store.saved_bytes();
  report.loss = head_backward(batch, stream);
  for (std::int64_t layer = shape_.layers - 1; layer >= 0; --layer) {
    layer_backward(layer, contexts.back(), stream);
    contexts.pop_back();
  }
  embedding_backward(batch, stream);
  report.peak_bytes = memory.peak_bytes();
  return report;
}

void Model::initialize(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::ranges::fill(values_.span(), 0.0f);
  for (const std::span<float> matrix : map_.matrices(values_.span())) {
    trainer::fill_normal(matrix, 0.02, random);
  }
  const float shrink = 1 / std::sqrt(2 * static_cast<float>(shape_.layers));
  const auto shrink_all = [&](std::span<float> weights) {
    std::ranges::transform(weights, weights.begin(), [&](float w) { return shrink * w; });
  };
  for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
    const AttentionParameters<float> attention(map_.attention(values_.span(), layer), shape_);
    const MlpParameters<float> mlp(map_.mlp(values_.span(), layer), shape_);
    std::ranges::fill(attention.norm.gamma, 1.0f);
    std::ranges::fill(mlp.norm.gamma, 1.0f);
    shrink_all(attention.projection.weight);
    shrink_all(mlp.down.weight);
  }
  std::ranges::fill(HeadParameters<float>(map_.head(values_.span()), shape_).norm.gamma, 1.0f);
}

std::span<const std::uint8_t> Model::inputs(const Batch& batch, std::int64_t sequence) const {
  return part(batch.image(sequence), 0, shape_.context);
}

std::span<const std::uint8_t> Model::targets(const Batch& batch, std::int64_t sequence) const {
  return part(batch.image(sequence), 1, shape_.context);
}

double Model::tokens_of(const Batch& batch) const {
  return static_cast<double>(batch.images() * shape_.context);
}

double Model::mean(const std::vector<double>& losses) const {
  return std::accumulate(losses.begin(), losses.end(), 0.0) /
         (static_cast<double>(losses.size()) * static_cast<double>(shape_.context));
}

trainer::Tensor<float> Model::embed(const Batch& batch) {
  const EmbeddingParameters<const float> p(map_.embedding(const_values()), shape_);
  trainer::Tensor<float> stream(batch.images(), shape_.context * shape_.channels);
  for_each_sequence(batch.images(), workspace_, [&](std::int64_t sequence, Scratch&) {
    const std::span<float> x = stream.image(sequence);
    std::int64_t first = 0;
    for (const std::uint8_t token : inputs(batch, sequence)) {
      std::ranges::transform(part(p.tokens, token * shape_.channels, shape_.channels),
                             part(p.positions, first, shape_.channels),
                             part(x, first, shape_.channels).begin(), std::plus<float>());
      first += shape_.channels;
    }
  });
  return stream;
}

AttentionLayer Model::attention(std::int64_t layer) const {
  return {shape_, map_.attention(const_values(), layer)};
}

template <class HalfContext, class Half>
HalfContext Model::half_forward(const Half& half, std::int64_t layer,
                                trainer::Tensor<float>& stream, ActivationStore& store) {
  HalfContext context(layer, stream.images() * shape_.context, store);
  for_each_sequence(stream.images(), workspace_, [&](std::int64_t sequence, Scratch& work) {
    half.forward(sequence, stream.image(sequence), context, work);
  });
  context.finish(layer, store);
  return context;
}

Model::Context Model::layer_forward(std::int64_t layer, trainer::Tensor<float>& stream,
                                    ActivationStore& store) {
  auto of_attention = half_forward<AttentionContext>(attention(layer), layer, stream, store);
  auto of_mlp = half_forward<MlpContext>(mlp(layer), layer, stream, store);
  return {std::move(of_attention), std::move(of_mlp)};
}

double Model::head_backward(const Batch& batch, trainer::Tensor<float>& stream) {
  const Head head(shape_, map_.head(const_values()));
  const float share = static_cast<float>(1 / tokens_of(batch));
  std::vector<double> losses(static_cast<std::size_t>(batch.images()));
  sum_over_sequences(batch.images(), workspace_, map_.head(gradients_.span()),
                     [&](std::int64_t sequence, Scratch& work, std::span<float> gradient) {
                       losses[static_cast<std::size_t>(sequence)] = head.backward(
                           stream.image(sequence), targets(batch, sequence), share, work, gradient);
                     });
  return mean(losses);
}

template <class Half, class HalfContext>
void Model::half_backward(const Half& half, const HalfContext& context,
                          trainer::Tensor<float>& stream, std::span<float> gradients) {
  sum_over_sequences(stream.images(), workspace_, gradients,
                     [&](std::int64_t sequence, Scratch& work, std::span<float> gradient) {
                       half.backward(sequence, stream.image(sequence), context, work, gradient);
                     });
}

void Model::layer_backward(std::int64_t layer, const Context& context,
                           trainer::Tensor<float>& stream) {
  half_backward(mlp(layer), context.mlp, stream, map_.mlp(gradients_.span(), layer));
  half_backward(attention(layer), context.attention, stream,
                map_.attention(gradients_.span(), layer));
}

void Model::embedding_backward(const Batch& batch, const trainer::Tensor<float>& stream) {
  const std::span<float> all = map_.embedding(gradients_.span());
  std::ranges::fill(all, 0.0f);
  const EmbeddingParameters<float> gradient(all, shape_);
  for (std::int64_t sequence = 0; sequence < batch.images(); ++sequence) {
    std::int64_t first = 0;
    for (const std::uint8_t token : inputs(batch, sequence)) {
      const std::span<const float> dx = part(stream.image(sequence), first, shape_.channels);
      for (const std::span<float> row :
           {part(gradient.tokens, token * shape_.channels, shape_.channels),
            part(gradient.positions, first, shape_.channels)}) {
        std::ranges::transform(row, dx, row.begin(), std::plus<float>());
      }
      first += shape_.channels;
    }
  }
}

}  // namespace gpt
