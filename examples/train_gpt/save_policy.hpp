// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The tensors that a layer saves for its backward pass, and how a training run saves each of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "train_gpt/shape.hpp"

namespace gpt {

// The backward pass is linear in most of them: rounded without bias, they leave the gradient
// without bias. It sees queries and keys through a softmax. x̂ stands twice in the layer norm's
// backward pass, which adds a bias of Var(x̂) / channels.
enum class Kind {
  attention_input,  // x̂ of the layer norm before: query, key and value read gamma · x̂ + beta
  query,
  key,
  value,
  attention_output,  // the projection's input
  mlp_input,   // x̂ of the layer norm before: the first linear layer reads gamma · x̂ + beta
  gelu,        // GELU's derivative, or its input
  mlp_output,  // GELU's output: the second linear layer's input
};

inline constexpr std::array<std::string_view, 8> kind_names = {
    "attention-input",  "query",     "key",  "value",
    "attention-output", "mlp-input", "gelu", "mlp-output"};
inline constexpr std::size_t kinds = kind_names.size();

constexpr std::size_t index_of(Kind kind) { return static_cast<std::size_t>(kind); }

constexpr std::int64_t channels_of(const ModelShape& shape, Kind kind) {
  return kind == Kind::gelu || kind == Kind::mlp_output ? shape.hidden() : shape.channels;
}

struct SavePolicy {
  // Widths that are none of actpack's.
  static constexpr int nothing = 0;          // where no backward pass follows
  static constexpr int full_precision = 32;  // floats

  // The GELU's saved tensor. With `derivative` the backward pass is linear in it. The other
  // two compute the derivative and the output from one rounded input: fewer bits, and a bias.
  enum class Gelu { derivative, input, input_with_sign };

  std::array<int, kinds> bits{};  // by kind
  Gelu gelu = Gelu::derivative;
  double average_bits = 0;  // if not 0, instead of `bits`: widths by tensor, found during training
  bool is_stochastic = true;
  bool is_subtractive = true;

  int& bits_of(Kind kind) { return bits[index_of(kind)]; }
  int bits_of(Kind kind) const { return bits[index_of(kind)]; }

  static SavePolicy all(int width) {
    SavePolicy policy;
    policy.bits.fill(width);
    return policy;
  }

  // `width` for what the backward pass is linear in, and no less than 8 bits for queries and keys.
  // The bias that these cause grows as attention sharpens; relative to the gradient of the default
  // model after 300 and 1200 steps: 0.01 and 0.22 at 2 bits, less than 0.001 and 0.013 at 4, less
  // than 0.0004 at 8. One rounding of everything to 2 bits is off by 0.4 and 0.7.
  static SavePolicy shipped(int width) {
    SavePolicy policy = all(width);
    policy.bits_of(Kind::query) = std::max(width, 8);
    policy.bits_of(Kind::key) = std::max(width, 8);
    return policy;
  }
  static SavePolicy on_average(double bits) {
    SavePolicy policy = shipped(2);
    policy.average_bits = bits;
    return policy;
  }

  bool recomputes_mlp_output() const { return gelu != Gelu::derivative; }
};

}  // namespace gpt
