// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Both passes of both halves: a tile of tokens at a time, except in attention.

#include "train_gpt/transformer_layer.hpp"

#include <algorithm>
#include <functional>

#include "train_gpt/layers.hpp"

namespace gpt {
namespace {

std::span<float> tile(const ModelShape& shape, std::span<float> sequence, std::int64_t token) {
  return part(sequence, token * shape.channels, shape.tile() * shape.channels);
}

}  // namespace

void AttentionLayer::forward(std::int64_t sequence, std::span<float> x, AttentionContext& context,
                             Scratch& work) const {
  const std::int64_t start = sequence * shape_.context;
  const std::span<float> normalized = work.normalized.span();
  const std::span<float> scaled = work.scaled.span();
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    layer_norm::normalize(tile(shape_, x, token), shape_.channels, normalized,
                          part(context.inverse_deviation.span(), start + token, shape_.tile()));
    context.input.save(start + token, normalized);
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    linear::forward(p_.query, scaled, tile(shape_, work.query.span(), token));
    linear::forward(p_.key, scaled, tile(shape_, work.key.span(), token));
    linear::forward(p_.value, scaled, tile(shape_, work.value.span(), token));
  }
  context.query.save(start, work.query.span());
  context.key.save(start, work.key.span());
  context.value.save(start, work.value.span());
  attention_.forward({work.query.span(), work.key.span(), work.value.span()}, work.output.span(),
                     work.scores.span());
  context.output.save(start, work.output.span());
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    linear::forward(p_.projection, tile(shape_, work.output.span(), token), scaled);
    const std::span<float> stream = tile(shape_, x, token);
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
    linear::add_parameter_gradient(output, tile(shape_, dx, token), dp.projection);
    linear::input_gradient(p_.projection, tile(shape_, dx, token),
                           tile(shape_, work.output_gradient.span(), token));
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
    const std::span<const float> dq = tile(shape_, work.query_gradient.span(), token);
    const std::span<const float> dk = tile(shape_, work.key_gradient.span(), token);
    const std::span<const float> dv = tile(shape_, work.value_gradient.span(), token);
    linear::add_parameter_gradient(scaled, dq, dp.query);
    linear::add_parameter_gradient(scaled, dk, dp.key);
    linear::add_parameter_gradient(scaled, dv, dp.value);
    const std::span<float> dy = work.row_gradient.span();
    linear::input_gradient(p_.query, dq, dy);
    linear::add_input_gradient(p_.key, dk, dy);
    linear::add_input_gradient(p_.value, dv, dy);
    layer_norm::backward(p_.norm, normalized,
                         part(context.inverse_deviation.span(), start + token, shape_.tile()), dy,
                         dp.norm, tile(shape_, dx, token));
  }
}

void MlpLayer::forward(std::int64_t sequence, std::span<float> x, MlpContext& context,
                       Scratch& work) const {
  const std::span<float> normalized = work.normalized.span();
  const std::span<float> scaled = work.scaled.span();
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::int64_t first = sequence * shape_.context + token;
    const std::span<float> stream = tile(shape_, x, token);
    layer_norm::normalize(stream, shape_.channels, normalized,
                          part(context.inverse_deviation.span(), first, shape_.tile()));
    context.input.save(first, normalized);
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    linear::forward(p_.up, scaled, wide(work.wide));
    gelu::evaluate(wide(work.wide), wide(work.wide_value), wide(work.wide_derivative));
    context.gelu.save(first, wide(context.saves_derivative ? work.wide_derivative : work.wide));
    context.output.save(first, wide(work.wide_value));
    linear::forward(p_.down, wide(work.wide_value), scaled);
    std::ranges::transform(stream, scaled, stream.begin(), std::plus<float>());
  }
}

void MlpLayer::backward(std::int64_t sequence, std::span<float> dx, const MlpContext& context,
                        Scratch& work, std::span<float> gradient) const {
  const MlpParameters<float> dp(gradient, shape_);
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::int64_t first = sequence * shape_.context + token;
    const std::span<float> stream = tile(shape_, dx, token);
    const std::span<float> dh = wide(work.wide);
    {
      const auto [output, derivative] = load_gelu(first, context, work);
      linear::add_parameter_gradient(output, stream, dp.down);
      linear::input_gradient(p_.down, stream, dh);
      std::ranges::transform(dh, derivative, dh.begin(), std::multiplies<float>());
    }
    const std::span<const float> normalized = context.input.load(first, work.normalized.span());
    const std::span<float> scaled = work.scaled.span();
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    linear::add_parameter_gradient(scaled, dh, dp.up);
    const std::span<float> dy = work.row_gradient.span();
    linear::input_gradient(p_.up, dh, dy);
    layer_norm::backward(p_.norm, normalized,
                         part(context.inverse_deviation.span(), first, shape_.tile()), dy, dp.norm,
                         stream);
  }
}

MlpLayer::Gelu MlpLayer::load_gelu(std::int64_t first, const MlpContext& context,
                                   Scratch& work) const {
  const std::span<float> output = wide(work.wide_value);
  const std::span<float> derivative = wide(work.wide_derivative);
  if (context.saves_derivative) {
    return {context.output.load(first, output), context.gelu.load(first, derivative)};
  }
  gelu::evaluate(context.gelu.load(first, wide(work.wide)), output, derivative);
  return {output, derivative};
}

std::span<float> MlpLayer::wide(trainer::Array<float>& scratch) const {
  return scratch.first(shape_.tile() * shape_.hidden());
}

}  // namespace gpt
