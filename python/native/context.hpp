// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The structs that Python passes, which _native.py declares again, and the planes of a packed
// tensor.
#pragma once

#include <cstdint>

#include "actpack/batch_norm_channels.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack_python {

namespace batch_norm = actpack::batch_norm;
using batch_norm::Operation;

// Values that share parameters: the number for which cuda/batch_norm.hpp has kernels.
constexpr std::int32_t group_size = 256;

enum class Form : std::int32_t { affine, sign_magnitude };
enum class Type : std::int32_t { float32, float16, bfloat16 };
enum class DecodeAs : std::int32_t { values, relu };

// One packed tensor. `bytes` holds its planes one after the other: the codes, the signs if the form
// has them, the parameters of the groups.
struct Context {
  std::int64_t numel;
  Form form;
  std::int32_t bits;
  std::int32_t is_stochastic;
  std::uint64_t seed;
  std::uint64_t offset;
  std::uint8_t* bytes;
};

// A call's element type, and where it runs: on a stream of the current device, or on so many
// threads.
struct Execution {
  Type type;
  std::int32_t is_cuda;
  void* stream;
  std::int32_t threads;
};

// The planes of a context, as the library's verbs take them.
class Planes {
 public:
  explicit Planes(const Context& context)
      : context_(context), layout_{.row_size = context.numel,
                                   .group_size = group_size,
                                   .bits = context.bits} {
    layout_.validate();
  }

  const actpack::Layout& layout() const { return layout_; }
  std::int64_t size_bytes() const { return params_at() + 4 * layout_.num_groups(); }
  bool has_signs() const { return context_.form == Form::sign_magnitude; }
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
  // Each plane starts at a multiple of 16 bytes, the kernels' widest access.
  static std::int64_t aligned(std::int64_t words) { return (4 * words + 15) / 16 * 16; }
  std::int64_t signs_at() const { return aligned(layout_.num_words()); }
  std::int64_t params_at() const {
    return signs_at() + (has_signs() ? aligned(layout_.with_bits(1).num_words()) : 0);
  }
  std::uint32_t* words_at(std::int64_t byte) const {
    return reinterpret_cast<std::uint32_t*>(context_.bytes + byte);
  }

  const Context& context_;
  actpack::Layout layout_;
};

}  // namespace actpack_python
