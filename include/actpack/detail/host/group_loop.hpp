// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The host's loop over groups: which of them hold some elements of a tensor, and how threads share
// them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "actpack/detail/group.hpp"
#include "actpack/detail/host/pieces.hpp"
#include "actpack/layout.hpp"
#include "actpack/parallel.hpp"

namespace actpack::detail::inline ACTPACK_ONCE {

/// Elements [first, end) of a tensor.
struct ElementInterval {
  std::int64_t first, end;
};

/// Where the values of a whole call, not only of one of its pieces, come from or go to: a cache
/// that a core has to itself, one that it shares, or memory.
enum class Footprint { core, shared, memory };

}  // namespace actpack::detail

namespace actpack::detail::inline ACTPACK_TARGET {

/// Which of a group's elements are in an interval of its tensor, counted within the group.
inline ElementInterval interval_in(const Group& group, ElementInterval elements) {
  return {std::max<std::int64_t>(elements.first - group.first, 0),
          (std::min)(elements.end - group.first, group.size)};
}

template <class T>
Footprint footprint_of(std::span<T> values) {
  constexpr std::size_t largest_core = std::size_t{1} << 20;
  constexpr std::size_t largest_shared = std::size_t{1} << 25;
  return values.size_bytes() <= largest_core     ? Footprint::core
         : values.size_bytes() <= largest_shared ? Footprint::shared
                                                 : Footprint::memory;
}

/// Walks the groups that hold elements of an interval of a valid layout.
class GroupCursor {
 public:
  GroupCursor(const Layout& layout, ElementInterval elements)
      : layout_(layout), elements_(elements) {
    if (elements.first == elements.end) {
      elements_ = {0, 0};
    } else {
      row_ = elements.first / layout.row_size;
      column_ = elements.first % layout.row_size / layout.group_size * layout.group_size;
      index_ = row_ * layout.groups_per_row() + column_ / layout.group_size;
    }
  }

  bool has_group() const { return first() < elements_.end; }
  /// Precondition: has_group().
  Group group() const { return group_at(layout_, index_, row_, column_); }

  /// The number of groups from here on that are full, lie in the interval with all their elements,
  /// and follow each other without a gap in elements, parameters and words. `crosses_rows` says
  /// that all rows have one width.
  std::int64_t full_groups(bool crosses_rows) const {
    if (first() < elements_.first) {
      return 0;
    }
    const std::int64_t in_row = layout_.size_of_row(row_) - column_;
    const std::int64_t to_end = elements_.end - first();
    const bool without_gap = crosses_rows && layout_.row_size % layout_.group_size == 0;
    return (without_gap ? to_end : (std::min)(in_row, to_end)) / layout_.group_size;
  }
  /// Goes past `count` of them, or past one group, full or not.
  void skip(std::int64_t count) {
    index_ += count;
    column_ += count * layout_.group_size;
    if (column_ >= layout_.row_size) {
      const bool is_divided = layout_.row_size % layout_.group_size == 0;
      row_ += is_divided ? column_ / layout_.row_size : 1;
      column_ = is_divided ? column_ % layout_.row_size : 0;
    }
  }

 private:
  std::int64_t first() const { return row_ * layout_.row_size + column_; }

  const Layout& layout_;
  ElementInterval elements_;
  std::int64_t index_ = 0, row_ = 0, column_ = 0;
};

/// What codes_of(view, group) gives: where a group's parameters and codes are.
template <class View>
using CodesOf = decltype(codes_of(std::declval<const View&>(), std::declval<const Group&>()));

/// The first element of group number `group` of a valid layout that has groups; its size for the
/// group after the last.
inline std::int64_t first_element(const Layout& layout, std::int64_t group) {
  const std::int64_t row = group / layout.groups_per_row();
  const std::int64_t column = group % layout.groups_per_row() * layout.group_size;
  return (std::min)(row * layout.row_size + column, layout.numel());
}

/// Calls work(piece) for intervals that together are `elements` and meet where groups do, through
/// `parallel` if there are several.
template <class Work>
void for_each_piece(const Layout& layout, ElementInterval elements, ParallelFor auto& parallel,
                    Work work) {
  if (elements.first == elements.end) {
    return;
  }
  const std::int64_t unit = std::min<std::int64_t>(layout.group_size, layout.row_size);
  for_each_piece(group_of(layout, elements.first), group_of(layout, elements.end - 1) + 1, unit,
                 parallel, [&](std::int64_t begin, std::int64_t end) {
                   work(ElementInterval{(std::max)(first_element(layout, begin), elements.first),
                                        (std::min)(first_element(layout, end), elements.end)});
                 });
}

}  // namespace actpack::detail
