// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Both passes, a tile of tokens at a time.

#include "train_gpt/mlp_layer.hpp"

#include <algorithm>
#include <functional>

#include "train_gpt/layers.hpp"

namespace gpt {

void MlpLayer::forward(std::int64_t sequence, std::span<float> x, MlpContext& context,
                       Scratch& work) const {
  const std::span<float> normalized = work.normalized.span();
  const std::span<float> scaled = work.scaled.span();
  for (std::int64_t token = 0; token < shape_.context; token += shape_.tile()) {
    const std::int64_t first = sequence * shape_.context + token;
    const std::span<float> stream = tile(x, token);
    layer_norm::normalize(stream, shape_.channels, normalized,
                          part(context.inverse_deviation.span(), first, shape_.tile()));
    context.input.save(first, normalized);
    layer_norm::scale_and_shift(p_.norm, normalized, scaled);
    linear::forward(p_.up, scaled, wide(work.wide));
    gelu::evaluate(wide(work.wide), wide(work.wide_value), wide(work.wide_derivative));
    context.gelu.save(first, wide(context.keeps_derivative ? work.wide_derivative : work.wide));
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
    const std::span<float> stream = tile(dx, token);
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
  if (context.keeps_derivative) {
    return {context.output.load(first, output), context.gelu.load(first, derivative)};
  }
  gelu::evaluate(context.gelu.load(first, wide(work.wide)), output, derivative);
  return {output, derivative};
}

std::span<float> MlpLayer::tile(std::span<float> sequence, std::int64_t token) const {
  return part(sequence, token * shape_.channels, shape_.tile() * shape_.channels);
}

std::span<float> MlpLayer::wide(trainer::Array<float>& scratch) const {
  return scratch.first(shape_.tile() * shape_.hidden());
}

}  // namespace gpt
