// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A packed tensor and a batch normalisation, as the library's verbs take them.
#pragma once

#include <cstdint>

#include "actpack/batch_norm_channels.hpp"
#include "actpack/codes.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"
#include "arguments.hpp"
#include "native.h"

namespace actpack_python {

namespace batch_norm = actpack::batch_norm;
using batch_norm::Operation;

// Values that share parameters: the number for which cuda/batch_norm.hpp has kernels.
constexpr std::int32_t group_size = 256;

// The planes of a packed tensor.
class Planes {
 public:
  // Each plane starts at a multiple of so many bytes, the kernels' widest access.
  static constexpr std::int64_t alignment = 16;

  // These refuse a wrong context. The first looks at its shape alone: it may have no bytes yet.
  explicit Planes(const actpack_context* context)
      : context_(require_struct("context", context)), layout_{.row_size = context_.numel,
                                                              .group_size = group_size,
                                                              .bits = context_.bits} {
    require_numel("context.numel", context_.numel);
    refuse_unless(
        context_.form == ACTPACK_FORM_AFFINE || context_.form == ACTPACK_FORM_SIGN_MAGNITUDE,
        "context.form = ", context_.form, " is neither affine, 0, nor sign-magnitude, 1");
    refuse_unless(actpack::is_width(context_.bits), "context.bits = ", context_.bits,
                  " is not 1, 2, 4 or 8");
    require_flag("context.is_stochastic", context_.is_stochastic);
  }

  static Planes in_memory(const actpack_context* context) {
    const Planes planes(context);
    require_array("context.bytes", planes.context_.bytes, planes.numel(), alignment);
    return planes;
  }
  static Planes with_signs(const actpack_context* context) {
    const Planes planes = in_memory(context);
    refuse_unless(planes.has_signs(), "context.form = ", planes.context_.form,
                  " is affine, but signs are needed");
    return planes;
  }

  const actpack::Layout& layout() const { return layout_; }
  std::int64_t numel() const { return context_.numel; }
  std::int64_t size_bytes() const { return params_at() + 4 * layout_.num_groups(); }
  bool has_signs() const { return context_.form == ACTPACK_FORM_SIGN_MAGNITUDE; }
  actpack::PackedView affine() const {
    return {layout_, words_at(0), reinterpret_cast<actpack::GroupParams*>(words_at(params_at()))};
  }
  actpack::SignMagnitudeView sign_magnitude() const {
    return {layout_, words_at(signs_at()), words_at(0),
            reinterpret_cast<actpack::SignMagnitudeParams*>(words_at(params_at()))};
  }
  // Calls call(view) with the view of the context's form.
  template <class Call>
  void with_view(const Call& call) const {
    if (has_signs()) {
      call(sign_magnitude());
    } else {
      call(affine());
    }
  }
  actpack::Rounding rounding() const {
    return context_.is_stochastic != 0
               ? actpack::Rounding::stochastic(context_.seed, context_.offset)
               : actpack::Rounding::nearest();
  }
  actpack::Decoding decoding(bool is_subtractive) const {
    return is_subtractive ? actpack::Decoding::subtractive(rounding()) : actpack::Decoding::plain();
  }

 private:
  static std::int64_t aligned(std::int64_t words) {
    return (4 * words + alignment - 1) / alignment * alignment;
  }
  std::int64_t signs_at() const { return aligned(layout_.num_words()); }
  std::int64_t params_at() const {
    return signs_at() + (has_signs() ? aligned(layout_.with_bits(1).num_words()) : 0);
  }
  std::uint32_t* words_at(std::int64_t byte) const {
    return reinterpret_cast<std::uint32_t*>(context_.bytes + byte);
  }

  const actpack_context& context_;
  actpack::Layout layout_;
};

// A batch normalisation of the context's values. Looks at no array.
inline Operation make_operation(const actpack_normalization* pointer,
                                const actpack_context& context) {
  const actpack_normalization& operation = require_struct("operation", pointer);
  const std::int64_t channels = operation.channels;
  constexpr std::int64_t most = actpack::Layout::max_numel;
  refuse_unless(channels > 0 && channels <= most, "operation.channels = ", channels,
                " is not in [1, ", most, "]");
  refuse_unless(operation.inner > 0 && operation.inner <= most / channels,
                "operation.inner = ", operation.inner, " is not in [1, ", most / channels, "]");
  refuse_unless(context.numel % (channels * operation.inner) == 0,
                "operation.channels = ", channels, " times operation.inner = ", operation.inner,
                " does not divide context.numel = ", context.numel);
  refuse_unless(operation.saved == ACTPACK_SAVED_INPUT || operation.saved == ACTPACK_SAVED_OUTPUT,
                "operation.saved = ", operation.saved,
                " is neither the input, 0, nor the output, 1");
  refuse_unless(operation.saved == ACTPACK_SAVED_OUTPUT || context.form == ACTPACK_FORM_AFFINE,
                "operation.saved = ", operation.saved,
                " is the input, but a sign-magnitude context holds the output");
  refuse_unless(operation.epsilon >= 0, "operation.epsilon = ", operation.epsilon,
                " is not 0 or more");
  refuse_unless(operation.smallest_gamma >= 0,
                "operation.smallest_gamma = ", operation.smallest_gamma, " is not 0 or more");
  return {.channels = {.count = channels, .inner = operation.inner},
          .saved = static_cast<batch_norm::SavedValue>(operation.saved),
          .epsilon = operation.epsilon,
          .smallest_gamma = operation.smallest_gamma,
          .mean = operation.mean,
          .variance = operation.variance,
          .gamma = operation.gamma,
          .beta = operation.beta,
          .by_channel = reinterpret_cast<batch_norm::Channel*>(operation.by_channel)};
}

}  // namespace actpack_python
