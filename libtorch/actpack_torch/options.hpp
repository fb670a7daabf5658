// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How tensors are packed, and the noise that rounds each of them.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>

#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack_torch {

struct Options {
  int bits = 2;                   // of a magnitude: 1, 2, 4 or 8; its sign takes another
  std::int32_t group_size = 256;  // values that share two scales, a multiple of 32
  std::uint64_t seed = 0;         // of the noise
  std::uint64_t step = 0;         // the first, below 2^30: of a resumed run, or a scope's only one
  std::int64_t min_numel = 1024;  // a scope leaves smaller tensors as they are
};

inline actpack::Layout flat_layout(std::int64_t numel, const Options& options) {
  actpack::Layout layout{.row_size = numel};
  layout.group_size = options.group_size;
  layout.bits = options.bits;
  layout.validate();
  return layout;
}

// Who draws noise. Each origin, step and number has an offset of its own, so no two tensors share
// noise. Throws c10::Error if step or number has more bits than an offset has room for.
enum class Origin : std::uint64_t { chain, scope, hand };

inline actpack::Rounding noise(const Options& options, Origin origin, std::uint64_t step,
                               std::uint64_t number) {
  TORCH_CHECK(step >> 30 == 0, "actpack: step = ", step, " is not below 2^30");
  TORCH_CHECK(number >> 32 == 0, "actpack: number = ", number, " is not below 2^32");
  return actpack::Rounding::stochastic(
      options.seed, static_cast<std::uint64_t>(origin) << 62 | step << 32 | number);
}

}  // namespace actpack_torch
