// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of the 1-bit contexts on one thread.
#include <cstdint>
#include <span>
#include <string>

#include "actpack/mask.hpp"
#include "support/rows.hpp"
#include "support/tensors.hpp"

namespace {

using namespace actpack;
using namespace bench;

constexpr double drop_probability = 0.1;

/// Measures run(from, to, mask), which reads and writes as many bytes as a copy, and a mask of half
/// ones.
template <class T, class Run>
void add_verb(const std::string& verb, Run run) {
  add<T>(verb, [=](benchmark::State& state, std::int64_t numel) {
    const Buffer<T> from = make_tensor<T>(Data::normal, numel);
    Buffer<T> to(numel);
    Buffer<std::uint32_t> mask(words_for(numel, 1));
    make_mask(from.span(), mask.span(), [](T value) { return value > 0; });
    measure_tensor(state, bytes_of(from), Access::both,
                   [&] { run(from.span(), to.span(), mask.span()); });
    state.counters["bits_per_value"] = 1;
  });
}

template <class T>
void add_type() {
  using From = std::span<const T>;
  using To = std::span<T>;
  using Mask = std::span<std::uint32_t>;
  add_verb<T>("relu", [](From x, To y, Mask mask) { relu(x, y, mask); });
  add_verb<T>("relu_backward", [](From dy, To dx, Mask mask) { relu_backward(dy, mask, dx); });
  add_verb<T>("dropout", [](From x, To y, Mask mask) {
    dropout(x, y, mask, drop_probability, Rounding::stochastic(1));
  });
  add_verb<T>("dropout_backward",
              [](From dy, To dx, Mask mask) { dropout_backward(dy, mask, dx, drop_probability); });
}

void add_rows() {
  add_type<float>();
  add_type<bfloat16>();
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
