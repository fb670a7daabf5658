// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A sign-magnitude context in memory: parameters, views, and a buffer that owns it on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "actpack/config.hpp"
#include "actpack/detail/host_array.hpp"
#include "actpack/float16.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"

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
  ACTPACK_CORE constexpr ConstSignMagnitudeView(Layout shape, const std::uint32_t* signs,
                                                const std::uint32_t* magnitudes,
                                                const SignMagnitudeParams* group_params)
      : layout(shape), sign_words(signs), magnitude_words(magnitudes), params(group_params) {}
  ACTPACK_CORE constexpr ConstSignMagnitudeView(const SignMagnitudeView& view)
      : ConstSignMagnitudeView(view.layout, view.sign_words, view.magnitude_words, view.params) {}
};

static_assert(std::is_trivially_copyable_v<SignMagnitudeView> &&
              std::is_trivially_copyable_v<ConstSignMagnitudeView>);

/// Owns the memory of one context on the host. Movable; contents are indeterminate until encoded.
class SignMagnitudeBuffer {
 public:
  /// Throws std::invalid_argument if `layout` is invalid.
  ACTPACK_INLINE explicit SignMagnitudeBuffer(Layout layout)
      : layout_(detail::validated(layout)), sign_words_(layout.with_bits(1).num_words()),
        magnitude_words_(layout.num_words()), params_(layout.num_groups()) {}

  ACTPACK_INLINE SignMagnitudeView view() {
    return {layout_, sign_words_.get(), magnitude_words_.get(), params_.get()};
  }
  ACTPACK_INLINE ConstSignMagnitudeView view() const {
    return {layout_, sign_words_.get(), magnitude_words_.get(), params_.get()};
  }
  ACTPACK_INLINE const Layout& layout() const { return layout_; }

  /// Stored bytes: both planes and the parameters.
  ACTPACK_INLINE std::size_t size_bytes() const {
    return static_cast<std::size_t>(
        4 * (layout_.with_bits(1).num_words() + layout_.num_words() + layout_.num_groups()));
  }

 private:
  Layout layout_;
  detail::HostArray<std::uint32_t> sign_words_;
  detail::HostArray<std::uint32_t> magnitude_words_;
  detail::HostArray<SignMagnitudeParams> params_;
};

}  // namespace actpack
