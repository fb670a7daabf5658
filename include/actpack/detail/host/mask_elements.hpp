// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Elements and their mask bits, on the host: portable loops, those of the processor's instruction
// set, and the choice between them. A mask starts at bit 0 of its first word and every word is
// written.
#pragma once

#include <algorithm>
#include <cstdint>

#include "actpack/codes.hpp"
#include "actpack/detail/codes.hpp"
#include "actpack/detail/dropout.hpp"
#include "actpack/detail/host/host_path.hpp"
#include "actpack/float16.hpp"
#include "actpack/philox.hpp"
#include "actpack/rounding.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// Writes the mask of `numel` elements: bit e is keep(e).
template <class Keep>
void fill_mask(std::uint32_t* mask, std::int64_t numel, Keep keep) {
  for (std::int64_t first = 0; first < numel; first += 32) {
    const std::int64_t count = std::min<std::int64_t>(32, numel - first);
    std::uint8_t kept[32] = {};
    if (count == 32) {  // of constant length: it vectorises
      for (int i = 0; i < 32; ++i) {
        kept[i] = keep(first + i);
      }
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        kept[i] = keep(first + i);
      }
    }
    insert_words<1>(kept, mask++);
  }
}

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_ONCE {

/// y = max(x, 0), NaN kept; mask: x > 0.
template <class T>
void relu_elements(const T* x, std::int64_t numel, T* y, std::uint32_t* mask);

/// to = from where the mask is set, else 0.
template <class T>
void keep_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to);

/// to = from · scale where the mask is set, else 0.
template <class T>
void scale_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to,
                    float scale);

/// Drops elements at random. The noise counts x[0] as element `first`, a multiple of 4.
template <class T>
void drop_elements(const T* x, std::int64_t first, std::int64_t numel, T* y, std::uint32_t* mask,
                   const DropoutRule& rule, const Rounding& rounding);

}  // namespace actpack::detail

#if !ACTPACK_EXTERN_KERNELS

#if ACTPACK_X86_KERNELS
#include "actpack/detail/x86/noise.hpp"
#endif

namespace actpack::detail::inline ACTPACK_TARGET {

/// Writes to[e] = map(from[e]) where bit e is set, else 0.
template <class T, class Map>
void map_where(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to, Map map) {
  for (std::int64_t e = 0; e < numel; ++e) {
    to[e] = (mask[e / 32] >> (e % 32) & 1) != 0 ? map(from[e]) : T(0.0f);
  }
}

namespace portable {

template <class T>
void relu_elements(const T* x, std::int64_t numel, T* y, std::uint32_t* mask) {
  fill_mask(mask, numel, [&](std::int64_t e) {
    const float value = x[e];
    y[e] = value <= 0 ? T(0.0f) : x[e];
    return value > 0;
  });
}

template <class T>
void keep_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to) {
  map_where(from, numel, mask, to, [](T value) { return value; });
}

template <class T>
void scale_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to,
                    float scale) {
  map_where(from, numel, mask, to, [=](T value) { return saturate_cast<T>(value * scale); });
}

template <class T>
void drop_elements(const T* x, std::int64_t first, std::int64_t numel, T* y, std::uint32_t* mask,
                   const DropoutRule& rule, const Rounding& rounding) {
  RandomWords random{};
  fill_mask(mask, numel, [&](std::int64_t e) {
    if (e % 4 == 0) {
      random = philox4x32(call_index(NoiseDomain::dropout, (first + e) / 4), rounding.offset,
                          rounding.seed);
    }
    const bool is_kept = random.word[e % 4] < rule.threshold;
    y[e] = is_kept ? saturate_cast<T>(x[e] * rule.scale) : T(0.0f);
    return is_kept;
  });
}

}  // namespace portable

}  // namespace actpack::detail

#if ACTPACK_X86_KERNELS
#define ACTPACK_KERNELS "actpack/detail/x86/mask_elements.inl"
#include "actpack/detail/x86/for_each_instruction_set.inl"
#endif

namespace actpack::detail::inline ACTPACK_ONCE {

template <class T>
void relu_elements(const T* x, std::int64_t numel, T* y, std::uint32_t* mask) {
  ACTPACK_HOST_PATH(relu_elements(x, numel, y, mask));
}

template <class T>
void keep_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to) {
  ACTPACK_HOST_PATH(keep_elements(from, numel, mask, to));
}

template <class T>
void scale_elements(const T* from, std::int64_t numel, const std::uint32_t* mask, T* to,
                    float scale) {
  ACTPACK_HOST_PATH(scale_elements(from, numel, mask, to, scale));
}

template <class T>
void drop_elements(const T* x, std::int64_t first, std::int64_t numel, T* y, std::uint32_t* mask,
                   const DropoutRule& rule, const Rounding& rounding) {
  ACTPACK_HOST_PATH(drop_elements(x, first, numel, y, mask, rule, rounding));
}

}  // namespace actpack::detail

#endif  // !ACTPACK_EXTERN_KERNELS
