// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How tensors are packed, and the noise that rounds each of them.
#pragma once

#include <cstdint>

#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack_torch {

struct Options {
  int bits = 2;                   // of a magnitude: 1, 2, 4 or 8; its sign takes another
  std::int32_t group_size = 256;  // values that share two scales, a multiple of 32
  std::uint64_t seed = 0;         // of the noise
  std::uint64_t step = 0;         // the first step: of a resumed run, or of a scope for one step
  std::int64_t min_numel = 1024;  // a scope leaves smaller tensors as they are
};

inline actpack::Layout flat_layout(std::int64_t numel, const Options& options) {
  actpack::Layout layout{.row_size = numel};
  layout.group_size = options.group_size;
  layout.bits = options.bits;
  layout.validate();
  return layout;
}

// Who draws noise. Each origin has offsets of its own, so no two tensors share noise.
enum class Origin : std::uint64_t { chain, scope, hand };

inline actpack::Rounding noise(const Options& options, Origin origin, std::uint64_t step,
                               std::uint64_t number) {
  return actpack::Rounding::stochastic(
      options.seed, static_cast<std::uint64_t>(origin) << 62 | step << 32 | number);
}

}  // namespace actpack_torch
