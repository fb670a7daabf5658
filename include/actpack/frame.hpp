// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What a frame says of its contents: see serialize.hpp, which writes and reads frames.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// The form of what a frame holds; the last is the saved state of an AutoPrecision.
enum class Form : std::uint8_t { affine = 1, sign_magnitude, mask, codes, controller };

/// The type that a tensor's values had before they were packed. Masks and codes have none.
enum class ElementType : std::uint8_t { none, float32, bfloat16, float16 };

template <Element T>
inline constexpr ElementType element_type_of = std::is_same_v<T, float>      ? ElementType::float32
                                               : std::is_same_v<T, bfloat16> ? ElementType::bfloat16
                                                                             : ElementType::float16;

/// The bytes of a frame's header, which is its start.
inline constexpr std::size_t frame_header_size = 72;

namespace detail {

/// What a header says. Masks and codes are one row, and have no groups: their group_size is 0.
struct FrameContents {
  Form form = Form::affine;
  ElementType element_type = ElementType::none;
  Layout layout = {};
  Rounding rounding = {};
  bool has_row_bits = false;
};

}  // namespace detail

}  // namespace actpack
