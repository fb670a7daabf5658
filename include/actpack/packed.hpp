// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A packed tensor in memory: views, which are passed by value, and a buffer that owns it on the
// host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "actpack/affine.hpp"
#include "actpack/detail/host_array.hpp"
#include "actpack/layout.hpp"

namespace actpack {

/// Names a packed tensor that may be written. Owns nothing; trivially copyable, so kernels take it
/// by value.
struct PackedView {
  Layout layout;
  std::uint32_t* words = nullptr;  // [layout.num_words()], or [row_offsets[layout.rows]]
  GroupParams* params = nullptr;   // [layout.num_groups()]
  const std::uint8_t* row_bits =
      nullptr;  // [layout.rows] widths by row; null, like the next, if uniform
  const std::int64_t* row_offsets =
      nullptr;  // [layout.rows + 1] first word of each row, and the total
};

/// Names a packed tensor that is only read.
struct ConstPackedView {
  Layout layout;
  const std::uint32_t* words = nullptr;
  const GroupParams* params = nullptr;
  const std::uint8_t* row_bits = nullptr;
  const std::int64_t* row_offsets = nullptr;

  ConstPackedView() = default;
  ACTPACK_CORE constexpr ConstPackedView(Layout shape, const std::uint32_t* code_words,
                                         const GroupParams* group_params,
                                         const std::uint8_t* row_widths = nullptr,
                                         const std::int64_t* offsets = nullptr)
      : layout(shape), words(code_words), params(group_params), row_bits(row_widths),
        row_offsets(offsets) {}
  ACTPACK_CORE constexpr ConstPackedView(const PackedView& view)
      : ConstPackedView(view.layout, view.words, view.params, view.row_bits, view.row_offsets) {}
};

static_assert(std::is_trivially_copyable_v<PackedView> &&
              std::is_trivially_copyable_v<ConstPackedView>);

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

inline const Layout& validated(const Layout& layout) {
  layout.validate();
  return layout;
}

/// The widest of some widths; the narrowest there is if there are none, or none is wide.
inline int widest(std::span<const std::uint8_t> row_bits) {
  int most = widths.front();
  for (const std::uint8_t bits : row_bits) {
    most = is_width(bits) && bits > most ? bits : most;
  }
  return most;
}

}  // namespace actpack::detail

namespace actpack {

/// Owns the memory of one packed tensor on the host. Movable; contents are indeterminate until
/// quantized.
class PackedBuffer {
 public:
  /// For rows of one width. Throws std::invalid_argument if `layout` is invalid.
  ACTPACK_INLINE explicit PackedBuffer(Layout layout)
      : layout_(detail::validated(layout)), num_words_(layout.num_words()), words_(num_words_),
        params_(layout.num_groups()) {}

  /// For rows with widths of their own, which are copied: `row_bits` [host, layout.rows]. The
  /// buffer's layout has the widest of them as `bits`, whatever `layout` has. Throws
  /// std::invalid_argument if the layout, the size or a width is wrong.
  ACTPACK_INLINE PackedBuffer(Layout layout, std::span<const std::uint8_t> row_bits)
      : layout_(detail::validated(layout.with_bits(detail::widest(row_bits)))),
        row_bits_(layout.rows), row_offsets_(layout.rows + 1) {
    const std::size_t rows = static_cast<std::size_t>(layout.rows);
    actpack::row_offsets(layout_, row_bits, {row_offsets_.get(), rows + 1});
    std::ranges::copy(row_bits, row_bits_.get());
    num_words_ = row_offsets_.get()[rows];
    words_ = detail::HostArray<std::uint32_t>(num_words_);
    params_ = detail::HostArray<GroupParams>(layout.num_groups());
  }

  ACTPACK_INLINE PackedView view() {
    return {layout_, words_.get(), params_.get(), row_bits_.get(), row_offsets_.get()};
  }
  ACTPACK_INLINE ConstPackedView view() const {
    return {layout_, words_.get(), params_.get(), row_bits_.get(), row_offsets_.get()};
  }
  ACTPACK_INLINE const Layout& layout() const { return layout_; }

  /// The memory that it owns: words, parameters and, where rows have widths, these and the offsets
  /// that follow from them, 8 bytes a row and 8 more.
  ACTPACK_INLINE std::size_t size_bytes() const {
    const std::int64_t of_rows = row_bits_.get() != nullptr ? 9 * layout_.rows + 8 : 0;
    return static_cast<std::size_t>(4 * num_words_ + 4 * layout_.num_groups() + of_rows);
  }

 private:
  Layout layout_;
  std::int64_t num_words_ = 0;
  detail::HostArray<std::uint32_t> words_;
  detail::HostArray<GroupParams> params_;
  detail::HostArray<std::uint8_t> row_bits_;
  detail::HostArray<std::int64_t> row_offsets_;
};

}  // namespace actpack
