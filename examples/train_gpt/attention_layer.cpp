// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Both passes, a tile of tokens at a time where tokens do not meet.

#include "train_gpt/attention_layer.hpp"

#include <algorithm>
#include <functional>

#include "train_gpt/layers.hpp"

namespace gpt {

void AttentionLayer::forward(std::int64_t sequence, std::span<float> x, AttentionContext& context,
                             Scratch& work) const {
  const std::int64_t start = sequence * shape_.context;
  const std::span<float> normalized = work.normalized.span();
  const std::span<float> scaled = work.scaled.span();
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    layer_norm::normalize(tile(x, token), shape_.channels, normalized,
                          part(context.inverse_deviation.span(), start + token, shape_.tile()));
    context.input.save(start + token, normalized);
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    linear::forward(p_.query, scaled, tile(work.query.span(), token));
    linear::forward(p_.key, scaled, tile(work.key.span(), token));
    linear::forward(p_.value, scaled, tile(work.value.span(), token));
  }
  context.query.save(start, work.query.span());
  context.key.save(start, work.key.span());
  context.value.save(start, work.value.span());
  attention_.forward({work.query.span(), work.key.span(), work.value.span()}, work.output.span(),
                     work.scores.span());
  context.output.save(start, work.output.span());
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    linear::forward(p_.projection, tile(work.output.span(), token), scaled);
    const std::span<float> stream = tile(x, token);
    std::ranges::transform(stream, scaled, stream.begin(), std::plus<float>());
  }
}

void AttentionLayer::backward(std::int64_t sequence, std::span<float> dx,
                              const AttentionContext& context, Scratch& work,
                              std::span<float> gradient) const {
  const AttentionParameters<float> dp(gradient, shape_);
  const std::int64_t start = sequence * shape_.context;
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::span<const float> output =
        context.output.load(start + token, work.row_gradient.span());
    linear::add_parameter_gradient(output, tile(dx, token), dp.projection);
    linear::input_gradient(p_.projection, tile(dx, token),
                           tile(work.output_gradient.span(), token));
  }
  attention_.backward(
      {context.query.load(start, work.query.span()), context.key.load(start, work.key.span()),
       context.value.load(start, work.value.span())},
      work.output_gradient.span(),
      {work.query_gradient.span(), work.key_gradient.span(), work.value_gradient.span()},
      work.scores.span(), work.score_gradients.span());
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::span<const float> normalized =
        context.input.load(start + token, work.normalized.span());
    const std::span<float> scaled = work.scaled.span();
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    const std::span<const float> dq = tile(work.query_gradient.span(), token);
    const std::span<const float> dk = tile(work.key_gradient.span(), token);
    const std::span<const float> dv = tile(work.value_gradient.span(), token);
    linear::add_parameter_gradient(scaled, dq, dp.query);
    linear::add_parameter_gradient(scaled, dk, dp.key);
    linear::add_parameter_gradient(scaled, dv, dp.value);
    const std::span<float> dy = work.row_gradient.span();
    linear::input_gradient(p_.query, dq, dy);
    linear::add_input_gradient(p_.key, dk, dy);
    linear::add_input_gradient(p_.value, dv, dy);
    layer_norm::backward(p_.norm, normalized,
                         part(context.inverse_deviation.span(), start + token, shape_.tile()), dy,
                         dp.norm, tile(dx, token));
  }
}

std::span<float> AttentionLayer::tile(std::span<float> sequence, std::int64_t token) const {
  return part(sequence, token * shape_.channels, shape_.tile() * shape_.channels);
}

}  // namespace gpt
