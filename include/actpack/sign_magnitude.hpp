// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One context for a chain of normalisation, ReLU and convolution: the exact sign of the ReLU's
// input, and its magnitude in a few bits.
//
// Of y, the input of a ReLU, three things are needed again: y itself by the normalisation before
// it, the mask y > 0 by the ReLU, and max(y, 0) by the operation after it. The sign plane is the
// mask, exactly. The magnitude plane rounds |y| without bias, against one scale for the positive
// and one for the negative values of each group, both starting at 0. So one copy serves all three.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

#include "actpack/affine.hpp"
#include "actpack/detail/element_range.hpp"
#include "actpack/detail/group.hpp"
#include "actpack/detail/group_loop.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// The steps of a group's positive and negative magnitudes; 0 for a side without values.
struct alignas(4) SignMagnitudeParams {
  bfloat16 positive, negative;
};

/// Names a context that may be written. `layout.bits` is the width of a magnitude; both planes lie
/// as a tensor of that layout does, the sign plane at a width of 1 bit.
struct SignMagnitudeView {
  Layout layout;
  std::uint32_t* sign_words = nullptr;       // [layout.with_bits(1).num_words()]
  std::uint32_t* magnitude_words = nullptr;  // [layout.num_words()]
  SignMagnitudeParams* params = nullptr;     // [layout.num_groups()]
};

/// Names a context that is only read.
struct ConstSignMagnitudeView {
  Layout layout;
  const std::uint32_t* sign_words = nullptr;
  const std::uint32_t* magnitude_words = nullptr;
  const SignMagnitudeParams* params = nullptr;

  ConstSignMagnitudeView() = default;
  ACTPACK_HD constexpr ConstSignMagnitudeView(Layout shape, const std::uint32_t* signs,
                                              const std::uint32_t* magnitudes,
                                              const SignMagnitudeParams* group_params)
      : layout(shape), sign_words(signs), magnitude_words(magnitudes), params(group_params) {}
  ACTPACK_HD constexpr ConstSignMagnitudeView(const SignMagnitudeView& view)
      : ConstSignMagnitudeView(view.layout, view.sign_words, view.magnitude_words, view.params) {}
};

static_assert(std::is_trivially_copyable_v<SignMagnitudeView> &&
              std::is_trivially_copyable_v<ConstSignMagnitudeView>);

/// Owns the memory of one context on the host. Movable; contents are indeterminate until encoded.
class SignMagnitudeBuffer {
 public:
  /// Throws std::invalid_argument if `layout` is invalid.
  explicit SignMagnitudeBuffer(Layout layout)
      : layout_(detail::validated(layout)),
        sign_words_(detail::make_array<std::uint32_t>(layout.with_bits(1).num_words())),
        magnitude_words_(detail::make_array<std::uint32_t>(layout.num_words())),
        params_(detail::make_array<SignMagnitudeParams>(layout.num_groups())) {}

  SignMagnitudeView view() {
    return {layout_, sign_words_.get(), magnitude_words_.get(), params_.get()};
  }
  ConstSignMagnitudeView view() const {
    return {layout_, sign_words_.get(), magnitude_words_.get(), params_.get()};
  }
  const Layout& layout() const { return layout_; }

  /// Stored bytes: both planes and the parameters.
  std::size_t size_bytes() const {
    return static_cast<std::size_t>(
        4 * (layout_.with_bits(1).num_words() + layout_.num_words() + layout_.num_groups()));
  }

 private:
  Layout layout_;
  std::unique_ptr<std::uint32_t[]> sign_words_;
  std::unique_ptr<std::uint32_t[]> magnitude_words_;
  std::unique_ptr<SignMagnitudeParams[]> params_;
};

namespace detail {

inline void require_view(const ConstSignMagnitudeView& view) {
  require_memory(view.sign_words, view.layout.with_bits(1).num_words(), "sign_words");
  require_memory(view.magnitude_words, view.layout.num_words(), "magnitude_words");
  require_memory(view.params, view.layout.num_groups(), "params");
}

/// Each side of 0 is an affine group whose smallest value is 0; both are poisoned if one is.
ACTPACK_HD inline SignMagnitudeParams fit_sides(ValueRange range, int bits) {
  const GroupParams positive = fit_params(0, range.max < 0 ? 0 : range.max, bits);
  const GroupParams negative = fit_params(0, range.min > 0 ? 0 : -range.min, bits);
  if (is_poisoned(positive) || is_poisoned(negative)) {
    return {poisoned_params.scale, poisoned_params.scale};
  }
  return {positive.scale, negative.scale};
}

ACTPACK_HD constexpr bool is_poisoned(SignMagnitudeParams params) {
  return is_nan(params.positive);
}

/// A pair of factors, one for each side, chosen without a branch: signs are as good as random.
class SideFactor {
 public:
  ACTPACK_HD SideFactor(float positive, float negative)
      : negative_(bits_of(negative)), flip_(bits_of(positive) ^ negative_) {}

  ACTPACK_HD float operator()(std::uint32_t sign) const {
    return float_of(negative_ ^ (flip_ & (0 - sign)));
  }

 private:
  std::uint32_t negative_, flip_;
};

/// Turns values of one group into positions between the magnitude codes of their side.
class SideEncoder {
 public:
  ACTPACK_HD explicit SideEncoder(SignMagnitudeParams params)
      : steps_(steps_per_unit(params.positive), steps_per_unit(params.negative)) {}

  /// Returns the position of |y| in steps of 2^−14. Precondition: the parameters are not poisoned.
  /// Nothing to halve near overflow: a magnitude is its own distance from 0.
  ACTPACK_HD std::int32_t operator()(float y) const {
    return floor_product(float_of(magnitude_bits(y)), steps_(y > 0));
  }

 private:
  SideFactor steps_;
};

/// What becomes of values that are not positive.
enum class NegativeSide { kept, zero };

/// Turns signs and magnitude codes of one group back into values.
class SideDecoder {
 public:
  // A code times a negative step is the negative side, times a step of 0 nothing, times NaN NaN.
  ACTPACK_HD SideDecoder(SignMagnitudeParams params, NegativeSide negative_side, float alpha)
      : step_(params.positive, negative_side == NegativeSide::zero && !is_poisoned(params)
                                   ? 0.0f
                                   : -params.negative),
        alpha_(alpha), near_overflow_(is_near_overflow(params.positive, params.negative)) {}

  ACTPACK_HD float operator()(std::uint32_t sign, std::uint32_t code) const {
    return finish(static_cast<float>(code) * step_(sign));
  }
  ACTPACK_HD float operator()(std::uint32_t sign, std::uint32_t code, std::uint32_t dither) const {
    return finish(position_of(code, dither, alpha_) * (step_(sign) * 0x1p-15f));
  }

 private:
  // Adding +0 makes every zero positive and changes nothing else, so it may be contracted or not.
  ACTPACK_HD float finish(float value) const {
    return near_overflow_ ? saturate(value) + 0.0f : value + 0.0f;
  }

  SideFactor step_;
  float alpha_;
  bool near_overflow_;
};

template <class T>
void encode_groups(std::span<const T> y, const SignMagnitudeView& out, const Rounding& rounding,
                   ElementInterval elements) {
  const Layout& layout = out.layout;
  DitherTile tile(rounding);
  for (GroupCursor cursor(layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const T* values = y.data() + (group.first - elements.first);
    std::uint32_t* signs = out.sign_words + uniform_place(layout, group, 1).word;
    std::uint32_t* magnitudes =
        out.magnitude_words + uniform_place(layout, group, layout.bits).word;
    const SignMagnitudeParams params = fit_sides(range_of(values, group.size), layout.bits);
    out.params[group.index] = params;
    std::fill_n(signs, words_for(group.size, 1), 0u);
    std::fill_n(magnitudes, words_for(group.size, layout.bits), 0u);
    const SideEncoder encoder(params);
    for_each_run(tile, group.index, layout.group_size, 0, group.size,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   std::uint8_t codes[run_capacity];
                   for (int i = 0; i < count; ++i) {
                     codes[i] = values[first + i] > 0;
                   }
                   insert_codes(codes, count, 1, signs, first);
                   if (is_poisoned(params)) {
                     return;
                   }
                   for (int i = 0; i < count; ++i) {
                     codes[i] = static_cast<std::uint8_t>(
                         round_code(encoder(values[first + i]), dithers[i]));
                   }
                   insert_codes(codes, count, layout.bits, magnitudes, first);
                 });
  }
}

template <class T>
void decode_groups(const ConstSignMagnitudeView& in, std::span<T> y, const Decoding& decoding,
                   ElementInterval elements, NegativeSide negative_side) {
  const Layout& layout = in.layout;
  DitherTile tile(decoding.rounding);
  for (GroupCursor cursor(layout, elements); cursor.has_group(); cursor.advance()) {
    const Group group = cursor.group();
    const std::uint32_t* signs = in.sign_words + uniform_place(layout, group, 1).word;
    const std::uint32_t* magnitudes =
        in.magnitude_words + uniform_place(layout, group, layout.bits).word;
    const SideDecoder decoder(in.params[group.index], negative_side, decoding.alpha);
    T* values = y.data() + (group.first - elements.first);
    const std::int64_t begin = std::max<std::int64_t>(elements.first - group.first, 0);
    const std::int64_t end = std::min(elements.end - group.first, group.size);
    for_each_run(tile, group.index, layout.group_size, begin, end,
                 [&](std::int64_t first, int count, const std::uint16_t* dithers) {
                   std::uint8_t sign[run_capacity];
                   std::uint8_t code[run_capacity];
                   extract_codes(signs, first, count, 1, sign);
                   extract_codes(magnitudes, first, count, layout.bits, code);
                   const auto store = [&](auto value_of) {
                     for (int i = 0; i < count; ++i) {
                       values[first + i] = saturate_cast<T>(value_of(i));
                     }
                   };
                   if (decoding.is_subtractive()) {
                     store([&](int i) { return decoder(sign[i], code[i], dithers[i]); });
                   } else {
                     store([&](int i) { return decoder(sign[i], code[i]); });
                   }
                 });
  }
}

template <class T>
void decode_range(const ConstSignMagnitudeView& in, std::int64_t first, std::span<T> y,
                  const Decoding& decoding, NegativeSide negative_side) {
  in.layout.validate();
  const ElementInterval elements = require_range(in.layout, first, {"y", y});
  require_memory(y, "y");
  require_view(in);
  require_host(decoding.rounding);
  decode_groups(in, y, decoding, elements, negative_side);
}

}  // namespace detail

/// Encodes `y` [host, layout.numel() values, row-major], a ReLU's input, into `out` [host memory]:
/// writes every word of both planes and the parameters of every group. The sign bit is y > 0, so ±0
/// and NaN give 0. Each side's scale is the smallest bfloat16 whose largest code covers that side
/// exactly. A group with NaN, ±∞ or a side beyond bfloat16 parameters is poisoned: both scales NaN,
/// magnitude codes 0. Noise as in `quantize`: a function of seed, offset and element index alone.
/// Throws std::invalid_argument, naming the argument and the numbers, before anything is written.
/// Allocates nothing.
template <class T>
void encode(std::span<const T> y, SignMagnitudeView out, Rounding rounding) {
  out.layout.validate();
  detail::require_all(out.layout, {"y", y});
  encode(y, out, rounding, 0);
}

/// Encodes a chunk: `y` holds whole rows, from row `first_row` of the tensor that `out` views.
template <class T>
void encode(std::span<const T> y, SignMagnitudeView out, Rounding rounding,
            std::int64_t first_row) {
  out.layout.validate();
  const detail::ElementInterval rows = detail::require_rows(out.layout, {"y", y}, first_row);
  detail::require_memory(y, "y");
  detail::require_view(out);
  detail::require_host(rounding);
  detail::encode_groups(y, out, rounding, rows);
}

/// Decodes elements [first, first + y.size()) of y, for the normalisation before the ReLU. Unbiased
/// as `dequantize` is; zeros decode plainly to +0; poisoned groups give NaN. Throws
/// std::invalid_argument before anything is written. Allocates nothing.
template <class T>
void decode(ConstSignMagnitudeView in, std::int64_t first, std::span<T> y,
            Decoding decoding = Decoding::plain()) {
  detail::decode_range(in, first, y, decoding, detail::NegativeSide::kept);
}

/// Decodes the whole tensor: y.size() is layout.numel().
template <class T>
void decode(ConstSignMagnitudeView in, std::span<T> y, Decoding decoding = Decoding::plain()) {
  in.layout.validate();
  detail::require_all(in.layout, {"y", y});
  decode(in, 0, y, decoding);
}

/// Decodes elements [first, first + y.size()) of max(y, 0), for the operation after the ReLU:
/// exactly 0 where the sign bit is 0, else unbiased; poisoned groups give NaN everywhere. Throws
/// and allocates as `decode`.
template <class T>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, std::span<T> y,
                 Decoding decoding = Decoding::plain()) {
  detail::decode_range(in, first, y, decoding, detail::NegativeSide::zero);
}

/// Decodes the whole tensor: y.size() is layout.numel().
template <class T>
void decode_relu(ConstSignMagnitudeView in, std::span<T> y, Decoding decoding = Decoding::plain()) {
  in.layout.validate();
  detail::require_all(in.layout, {"y", y});
  decode_relu(in, 0, y, decoding);
}

/// Writes dx = dy where the sign bit is set, else 0, and NaN throughout poisoned groups, for
/// elements [first, first + dy.size()): the ReLU's backward pass, exactly. `dy`, `dx` [host] of one
/// size; dx may be dy. Throws std::invalid_argument before anything is written. Allocates nothing.
template <class T>
void relu_backward(std::span<const T> dy, ConstSignMagnitudeView in, std::int64_t first,
                   std::span<T> dx) {
  in.layout.validate();
  detail::require(dx.size() == dy.size(), "dx.size() = ", dx.size(),
                  " but dy.size() = ", dy.size());
  const detail::ElementInterval elements = detail::require_range(in.layout, first, {"dy", dy});
  detail::require_memory(dy, "dy");
  detail::require_memory(dx, "dx");
  detail::require_view(in);
  for (detail::GroupCursor cursor(in.layout, elements); cursor.has_group(); cursor.advance()) {
    const detail::Group group = cursor.group();
    const std::uint32_t* signs = in.sign_words + detail::uniform_place(in.layout, group, 1).word;
    const T masked(detail::is_poisoned(in.params[group.index]) ? float{poisoned_params.scale}
                                                               : 0.0f);
    const std::int64_t begin = std::max<std::int64_t>(elements.first - group.first, 0);
    const std::int64_t end = std::min(elements.end - group.first, group.size);
    for (std::int64_t e = begin; e < end; ++e) {
      const std::size_t i = static_cast<std::size_t>(group.first + e - elements.first);
      const bool pass = detail::is_nan(masked) ? false : extract(signs, e, 1) != 0;
      dx[i] = pass ? dy[i] : masked;
    }
  }
}

/// The same for the whole tensor: dy.size() is layout.numel().
template <class T>
void relu_backward(std::span<const T> dy, ConstSignMagnitudeView in, std::span<T> dx) {
  in.layout.validate();
  detail::require_all(in.layout, {"dy", dy});
  relu_backward(dy, in, 0, dx);
}

// The same for vectors, arrays and other contiguous ranges.

template <detail::ElementRange R>
void encode(const R& y, SignMagnitudeView out, Rounding rounding) {
  encode(detail::as_const_span(y), out, rounding);
}

template <detail::ElementRange R>
void encode(const R& y, SignMagnitudeView out, Rounding rounding, std::int64_t first_row) {
  encode(detail::as_const_span(y), out, rounding, first_row);
}

template <detail::ElementRange R>
void decode(ConstSignMagnitudeView in, std::int64_t first, R&& y,
            Decoding decoding = Decoding::plain()) {
  decode(in, first, detail::as_span(y), decoding);
}

template <detail::ElementRange R>
void decode(ConstSignMagnitudeView in, R&& y, Decoding decoding = Decoding::plain()) {
  decode(in, detail::as_span(y), decoding);
}

template <detail::ElementRange R>
void decode_relu(ConstSignMagnitudeView in, std::int64_t first, R&& y,
                 Decoding decoding = Decoding::plain()) {
  decode_relu(in, first, detail::as_span(y), decoding);
}

template <detail::ElementRange R>
void decode_relu(ConstSignMagnitudeView in, R&& y, Decoding decoding = Decoding::plain()) {
  decode_relu(in, detail::as_span(y), decoding);
}

template <detail::ElementRange Dy, detail::ElementRange Dx>
void relu_backward(const Dy& dy, ConstSignMagnitudeView in, std::int64_t first, Dx&& dx) {
  relu_backward(detail::as_const_span(dy), in, first, detail::as_span(dx));
}

template <detail::ElementRange Dy, detail::ElementRange Dx>
void relu_backward(const Dy& dy, ConstSignMagnitudeView in, Dx&& dx) {
  relu_backward(detail::as_const_span(dy), in, detail::as_span(dx));
}

}  // namespace actpack
