// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The transformer by the textbook, in double and one number at a time: shares no code with the
// trainer but the order of its parameters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

#include "train_gpt/shape.hpp"

namespace reference {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;  // one for each token

// Reads parameters front to back.
class Reader {
 public:
  explicit Reader(std::span<const double> values) : rest_(values) {}
  std::span<const double> take(std::size_t size) {
    const std::span<const double> piece = rest_.first(size);
    rest_ = rest_.subspan(size);
    return piece;
  }

 private:
  std::span<const double> rest_;
};

inline Vector normalize(Reader& parameters, const Vector& x) {
  const std::span<const double> gamma = parameters.take(x.size());
  const std::span<const double> beta = parameters.take(x.size());
  const double count = static_cast<double>(x.size());
  double mean = 0;
  for (const double value : x) mean += value / count;
  double variance = 0;
  for (const double value : x) variance += (value - mean) * (value - mean) / count;
  Vector y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y.push_back(gamma[i] * (x[i] - mean) / std::sqrt(variance + 1e-5) + beta[i]);
  }
  return y;
}

inline Vector linear(Reader& parameters, const Vector& x, std::size_t outputs) {
  const std::span<const double> weight = parameters.take(x.size() * outputs);
  const std::span<const double> bias = parameters.take(outputs);
  Vector y(bias.begin(), bias.end());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t o = 0; o < outputs; ++o) y[o] += x[i] * weight[i * outputs + o];
  }
  return y;
}

// The same layer for every token: each starts to read where `parameters` is, which then moves on.
template <class Layer>
Rows for_each_token(Reader& parameters, const Rows& rows, const Layer& layer) {
  Rows out;
  Reader behind = parameters;
  for (const Vector& row : rows) {
    behind = parameters;
    out.push_back(layer(behind, row));
  }
  parameters = behind;
  return out;
}

inline Rows sum(Rows a, const Rows& b) {
  for (std::size_t row = 0; row < a.size(); ++row) {
    for (std::size_t i = 0; i < a[row].size(); ++i) a[row][i] += b[row][i];
  }
  return a;
}

inline Rows attention_layer(Reader& parameters, const Rows& x, std::size_t heads) {
  const std::size_t channels = x[0].size();
  const std::size_t size = channels / heads;
  const auto project = [&](Reader& p, const Vector& row) { return linear(p, row, channels); };
  const Rows normal = for_each_token(parameters, x, normalize);
  const Rows query = for_each_token(parameters, normal, project);
  const Rows key = for_each_token(parameters, normal, project);
  const Rows value = for_each_token(parameters, normal, project);
  Rows out(x.size(), Vector(channels, 0.0));
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t to = 0; to < x.size(); ++to) {
      Vector weights;
      double total = 0;
      for (std::size_t from = 0; from <= to; ++from) {
        double score = 0;
        for (std::size_t i = head * size; i < (head + 1) * size; ++i) {
          score += query[to][i] * key[from][i];
        }
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(size))));
        total += weights.back();
      }
      for (std::size_t from = 0; from <= to; ++from) {
        for (std::size_t i = head * size; i < (head + 1) * size; ++i) {
          out[to][i] += weights[from] / total * value[from][i];
        }
      }
    }
  }
  return sum(x, for_each_token(parameters, out, project));
}

inline double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

inline Rows mlp_layer(Reader& parameters, const Rows& x) {
  const std::size_t channels = x[0].size();
  const Rows normal = for_each_token(parameters, x, normalize);
  Rows hidden = for_each_token(parameters, normal, [&](Reader& p, const Vector& row) {
    return linear(p, row, 4 * channels);
  });
  for (Vector& row : hidden) std::ranges::transform(row, row.begin(), gelu);
  return sum(x, for_each_token(parameters, hidden, [&](Reader& p, const Vector& row) {
               return linear(p, row, channels);
             }));
}

// The mean loss of one sequence of context + 1 bytes.
inline double loss(std::span<const double> parameters, const gpt::ModelShape& shape,
                   std::span<const std::uint8_t> bytes) {
  const std::size_t channels = static_cast<std::size_t>(shape.channels);
  Reader reader(parameters);
  const std::span<const double> tokens = reader.take(256 * channels);
  const std::span<const double> positions =
      reader.take(static_cast<std::size_t>(shape.context) * channels);
  Rows x;
  for (std::size_t token = 0; token + 1 < bytes.size(); ++token) {
    Vector row;
    for (std::size_t i = 0; i < channels; ++i) {
      row.push_back(tokens[bytes[token] * channels + i] + positions[token * channels + i]);
    }
    x.push_back(row);
  }
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    x = attention_layer(reader, x, static_cast<std::size_t>(shape.heads));
    x = mlp_layer(reader, x);
  }
  x = for_each_token(reader, x, normalize);
  const Rows logits =
      for_each_token(reader, x, [](Reader& p, const Vector& row) { return linear(p, row, 256); });
  double total = 0;
  for (std::size_t token = 0; token < logits.size(); ++token) {
    double sum_of_exponentials = 0;
    for (const double logit : logits[token]) sum_of_exponentials += std::exp(logit);
    total += std::log(sum_of_exponentials) - logits[token][bytes[token + 1]];
  }
  return total / static_cast<double>(logits.size());
}

// The derivative of f(values) with respect to values[i], by central differences of `step`: off by
// step² / 6 of the third derivative, and by 2^-53 f / step of rounding.
template <class F>
double derivative(const F& f, Vector& values, std::size_t i, double step = 1e-4) {
  const double value = values[i];
  values[i] = value + step;
  const double above = f(values);
  values[i] = value - step;
  const double below = f(values);
  values[i] = value;
  return (above - below) / (2 * step);
}

}  // namespace reference
