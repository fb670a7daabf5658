// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The model's sizes, and where each of its parts lies in the one array of all parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace gpt {

// A decoder-only transformer of GPT-2's shape over bytes.
struct ModelShape {
  static constexpr std::int64_t vocabulary = 256;

  std::int64_t layers = 2;
  std::int64_t channels = 64;
  std::int64_t heads = 4;
  std::int64_t context = 64;  // tokens of a sequence
  std::int64_t tile_limit = 32;

  constexpr std::int64_t head_size() const { return channels / heads; }
  constexpr std::int64_t hidden() const { return 4 * channels; }

  // The consecutive tokens of a sequence that layers work on at a time: no tensor of a batch is
  // ever decoded as a whole.
  constexpr std::int64_t tile() const { return std::gcd(context, tile_limit); }
};

// The `size` values from `first` on.
template <class T>
std::span<T> part(std::span<T> values, std::int64_t first, std::int64_t size) {
  return values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size));
}

// Hands out an array piece by piece, front to back.
template <class T>
class Carver {
 public:
  explicit Carver(std::span<T> all) : rest_(all) {}

  std::span<T> take(std::int64_t size) {
    const std::span<T> piece = part(rest_, 0, size);
    rest_ = rest_.subspan(piece.size());
    return piece;
  }

 private:
  std::span<T> rest_;
};

// The parameters of y = x · weight + bias, or (T = float) the gradient with respect to them.
template <class T>
struct LinearParameters {
  LinearParameters(Carver<T>& carver, std::int64_t inputs, std::int64_t outputs)
      : weight(carver.take(inputs * outputs)), bias(carver.take(outputs)) {}

  static constexpr std::int64_t numel(std::int64_t inputs, std::int64_t outputs) {
    return (inputs + 1) * outputs;
  }
  std::int64_t outputs() const { return static_cast<std::int64_t>(bias.size()); }
  std::int64_t inputs() const { return static_cast<std::int64_t>(weight.size()) / outputs(); }

  std::span<T> weight;  // [inputs][outputs]
  std::span<T> bias;
};

// Of y = gamma · x̂ + beta, x̂ being x of zero mean and unit variance.
template <class T>
struct NormParameters {
  NormParameters(Carver<T>& carver, std::int64_t channels)
      : gamma(carver.take(channels)), beta(carver.take(channels)) {}

  static constexpr std::int64_t numel(std::int64_t channels) { return 2 * channels; }
  std::int64_t channels() const { return static_cast<std::int64_t>(gamma.size()); }

  std::span<T> gamma;
  std::span<T> beta;
};

template <class T>
struct AttentionParameters {
  AttentionParameters(std::span<T> all, const ModelShape& shape)
      : AttentionParameters(Carver<T>(all), shape.channels) {}

  static constexpr std::int64_t numel(const ModelShape& shape) {
    const std::int64_t channels = shape.channels;
    return NormParameters<T>::numel(channels) + 4 * LinearParameters<T>::numel(channels, channels);
  }

  NormParameters<T> norm;
  LinearParameters<T> query, key, value, projection;

 private:
  AttentionParameters(Carver<T> carver, std::int64_t channels)
      : norm(carver, channels), query(carver, channels, channels), key(carver, channels, channels),
        value(carver, channels, channels), projection(carver, channels, channels) {}
};

template <class T>
struct MlpParameters {
  MlpParameters(std::span<T> all, const ModelShape& shape)
      : MlpParameters(Carver<T>(all), shape.channels, shape.hidden()) {}

  static constexpr std::int64_t numel(const ModelShape& shape) {
    return NormParameters<T>::numel(shape.channels) +
           LinearParameters<T>::numel(shape.channels, shape.hidden()) +
           LinearParameters<T>::numel(shape.hidden(), shape.channels);
  }

  NormParameters<T> norm;
  LinearParameters<T> up, down;

 private:
  MlpParameters(Carver<T> carver, std::int64_t channels, std::int64_t hidden)
      : norm(carver, channels), up(carver, channels, hidden), down(carver, hidden, channels) {}
};

template <class T>
struct HeadParameters {
  HeadParameters(std::span<T> all, const ModelShape& shape)
      : HeadParameters(Carver<T>(all), shape.channels) {}

  static constexpr std::int64_t numel(const ModelShape& shape) {
    return NormParameters<T>::numel(shape.channels) +
           LinearParameters<T>::numel(shape.channels, ModelShape::vocabulary);
  }

  NormParameters<T> norm;
  LinearParameters<T> logits;

 private:
  HeadParameters(Carver<T> carver, std::int64_t channels)
      : norm(carver, channels), logits(carver, channels, ModelShape::vocabulary) {}
};

template <class T>
struct EmbeddingParameters {
  EmbeddingParameters(std::span<T> all, const ModelShape& shape)
      : EmbeddingParameters(Carver<T>(all), shape) {}

  static constexpr std::int64_t numel(const ModelShape& shape) {
    return (ModelShape::vocabulary + shape.context) * shape.channels;
  }

  std::span<T> tokens;     // [vocabulary][channels]
  std::span<T> positions;  // [context][channels]

 private:
  EmbeddingParameters(Carver<T> carver, const ModelShape& shape)
      : tokens(carver.take(ModelShape::vocabulary * shape.channels)),
        positions(carver.take(shape.context * shape.channels)) {}
};

// Where the parts lie: embedding, then attention and MLP of each layer, then the head.
class ParameterMap {
 public:
  explicit ParameterMap(const ModelShape& shape) : shape_(shape) {}

  std::int64_t numel() const { return head_first() + HeadParameters<float>::numel(shape_); }

  template <class T>
  std::span<T> embedding(std::span<T> all) const {
    return part(all, 0, embedding_numel());
  }
  template <class T>
  std::span<T> attention(std::span<T> all, std::int64_t layer) const {
    return part(all, layer_first(layer), attention_numel());
  }
  template <class T>
  std::span<T> mlp(std::span<T> all, std::int64_t layer) const {
    return part(all, layer_first(layer) + attention_numel(), mlp_numel());
  }
  template <class T>
  std::span<T> head(std::span<T> all) const {
    return part(all, head_first(), HeadParameters<float>::numel(shape_));
  }

  // The matrices among the parameters: what weight decay is for.
  template <class T>
  std::vector<std::span<T>> matrices(std::span<T> all) const {
    const EmbeddingParameters<T> embeddings(embedding(all), shape_);
    std::vector<std::span<T>> found = {embeddings.tokens, embeddings.positions};
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
      const AttentionParameters<T> a(attention(all, layer), shape_);
      const MlpParameters<T> m(mlp(all, layer), shape_);
      found.insert(found.end(), {a.query.weight, a.key.weight, a.value.weight, a.projection.weight,
                                 m.up.weight, m.down.weight});
    }
    found.push_back(HeadParameters<T>(head(all), shape_).logits.weight);
    return found;
  }

 private:
  std::int64_t embedding_numel() const { return EmbeddingParameters<float>::numel(shape_); }
  std::int64_t attention_numel() const { return AttentionParameters<float>::numel(shape_); }
  std::int64_t mlp_numel() const { return MlpParameters<float>::numel(shape_); }
  std::int64_t layer_first(std::int64_t layer) const {
    return embedding_numel() + layer * (attention_numel() + mlp_numel());
  }
  std::int64_t head_first() const { return layer_first(shape_.layers); }

  ModelShape shape_;
};

}  // namespace gpt
