// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The arithmetic of the layers that see one token at a time, forward and backward, on any number of
// rows. Nothing here knows what is saved, or how.
#pragma once

#include <cstdint>
#include <span>

#include "train_gpt/shape.hpp"

namespace gpt {

// A layer y = x · weight + bias. Its backward pass is linear in x, and x is all it needs: rounding
// x without bias leaves the gradient without bias.
namespace linear {

void forward(const LinearParameters<const float>& p, std::span<const float> x, std::span<float> y);

void add_parameter_gradient(std::span<const float> x, std::span<const float> dy,
                            const LinearParameters<float>& gradient);

void input_gradient(const LinearParameters<const float>& p, std::span<const float> dy,
                    std::span<float> dx);
void add_input_gradient(const LinearParameters<const float>& p, std::span<const float> dy,
                        std::span<float> dx);

}  // namespace linear

namespace layer_norm {

// Writes x̂ and, for each row, 1 / deviation.
void normalize(std::span<const float> x, std::int64_t channels, std::span<float> normalized,
               std::span<float> inverse_deviation);

void scale_and_shift(const NormParameters<const float>& p, std::span<const float> normalized,
                     std::span<float> y);

// Adds to the parameters' gradient and, since a residual stream runs past the layer, to dx. Turns
// dy into the gradient with respect to x̂ on the way.
void backward(const NormParameters<const float>& p, std::span<const float> normalized,
              std::span<const float> inverse_deviation, std::span<float> dy,
              const NormParameters<float>& gradient, std::span<float> dx);

}  // namespace layer_norm

// GPT-2's GELU, x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
namespace gelu {

// Writes the value and the derivative, which lies in [-0.13, 1.13].
void evaluate(std::span<const float> x, std::span<float> value, std::span<float> derivative);

}  // namespace gelu

}  // namespace gpt
