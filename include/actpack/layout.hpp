// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The shape of a packed tensor: where every row, group and word lies. Integers only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/detail/require.hpp"

namespace actpack {

/// The version of the packed format: which words and parameters mean which values.
inline constexpr std::uint32_t format_version = 2;

/// The packed format. A tensor is `rows` × `row_size` elements, row-major. Each row is cut into
/// groups of `group_size` elements; its last group may be short. Codes of a row are packed as in
/// codes.hpp into words of its own, rows follow each other, and every group has one set of
/// parameters, in order. Nothing is padded: elements that do not exist enter neither ranges nor
/// noise nor storage.
struct Layout {
  std::int64_t rows = 1;
  std::int64_t row_size = 0;
  std::int32_t group_size = 256;   // a positive multiple of 32
  std::int32_t bits = 2;           // 1, 2, 4 or 8; where rows have widths of their own: the widest
  std::int64_t last_row_size = 0;  // of a ragged tensor's last row; 0: it is full

  /// More elements than this are refused, so that no count of bits or bytes below can overflow.
  static constexpr std::int64_t max_numel = std::int64_t{1} << 48;

  ACTPACK_CORE constexpr std::int64_t size_of_row(std::int64_t row) const {
    return row == rows - 1 && last_row_size != 0 ? last_row_size : row_size;
  }
  ACTPACK_CORE constexpr std::int64_t numel() const {
    return rows == 0 ? 0 : (rows - 1) * row_size + size_of_row(rows - 1);
  }
  ACTPACK_CORE constexpr std::int64_t groups_per_row() const { return groups_for(row_size); }
  ACTPACK_CORE constexpr std::int64_t num_groups() const {
    return rows == 0 ? 0 : (rows - 1) * groups_per_row() + groups_for(size_of_row(rows - 1));
  }
  ACTPACK_CORE constexpr std::int64_t words_per_row() const { return words_for(row_size, bits); }

  /// Words of all rows at width `bits`; with widths by row, an upper bound.
  ACTPACK_CORE constexpr std::int64_t num_words() const {
    return rows == 0 ? 0 : (rows - 1) * words_per_row() + words_for(size_of_row(rows - 1), bits);
  }

  /// Stored bits, parameters included, per value: bits + 32 / group_size for full groups. 0 if
  /// empty.
  ACTPACK_INLINE constexpr double bits_per_value() const {
    const double stored = 32.0 * static_cast<double>(num_words() + num_groups());
    return numel() == 0 ? 0.0 : stored / static_cast<double>(numel());
  }

  ACTPACK_CORE constexpr Layout with_bits(int width) const {
    Layout other = *this;
    other.bits = width;
    return other;
  }

  /// Throws std::invalid_argument, naming the field and its value, unless this describes a tensor.
  ACTPACK_INLINE void validate() const {
    using detail::refuse_unless;
    refuse_unless(is_width(bits), "layout.bits = ", bits, " is not 1, 2, 4 or 8");
    refuse_unless(group_size > 0 && group_size % 32 == 0, "layout.group_size = ", group_size,
                  " is not a positive multiple of 32");
    refuse_unless(rows >= 0, "layout.rows = ", rows, " is negative");
    refuse_unless(row_size >= 0, "layout.row_size = ", row_size, " is negative");
    refuse_unless(last_row_size >= 0 && last_row_size <= row_size,
                  "layout.last_row_size = ", last_row_size,
                  " is not in [0, layout.row_size = ", row_size, "]");
    refuse_unless(last_row_size == 0 || rows > 0, "layout.last_row_size = ", last_row_size,
                  " but layout.rows = 0");
    refuse_unless(rows <= max_numel / std::max<std::int64_t>(row_size, 1) && row_size <= max_numel,
                  "layout.rows = ", rows, " times layout.row_size = ", row_size, " overflows");
    // A group of that size has group_size / 16 calls of the generator: see NoiseDomain.
    refuse_unless(num_groups() <= (std::int64_t{1} << 60) / group_size, "layout.rows = ", rows,
                  " with groups of layout.group_size = ", group_size,
                  " would draw 2^56 times from one seed");
  }

 private:
  ACTPACK_CORE constexpr std::int64_t groups_for(std::int64_t size) const {
    return size / group_size + (size % group_size != 0 ? 1 : 0);
  }
};

}  // namespace actpack

namespace actpack::detail::inline ACTPACK_TARGET {

inline void require_row_width(const Layout& layout, std::int64_t row, int bits) {
  refuse_unless(is_width(bits), "row_bits[", row, "] = ", bits, " is not 1, 2, 4 or 8");
  refuse_unless(bits <= layout.bits, "row_bits[", row, "] = ", bits,
                " exceeds layout.bits = ", layout.bits);
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_TARGET {

/// Writes where each row's words start when rows have widths of their own: `offsets` [host, rows +
/// 1] gets the running sum of the rows' words, the last being the total. `row_bits` [host, rows]
/// are the widths. Throws std::invalid_argument, before anything is written, if the layout, a size
/// or a width is wrong or exceeds layout.bits. Allocates nothing.
inline void row_offsets(const Layout& layout, std::span<const std::uint8_t> row_bits,
                        std::span<std::int64_t> offsets) {
  layout.validate();
  detail::refuse_unless(static_cast<std::int64_t>(row_bits.size()) == layout.rows,
                        "row_bits.size() = ", row_bits.size(), " but layout.rows = ", layout.rows);
  detail::refuse_unless(static_cast<std::int64_t>(offsets.size()) == layout.rows + 1,
                        "offsets.size() = ", offsets.size(),
                        " but layout.rows + 1 = ", layout.rows + 1);
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    detail::require_row_width(layout, row, row_bits[static_cast<std::size_t>(row)]);
  }
  std::int64_t total = 0;
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    offsets[static_cast<std::size_t>(row)] = total;
    total += words_for(layout.size_of_row(row), row_bits[static_cast<std::size_t>(row)]);
  }
  offsets[static_cast<std::size_t>(layout.rows)] = total;
}

}  // namespace actpack
