// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A frame around any contents: the header before them and the checksum behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/checksum.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/frame.hpp"
#include "actpack/layout.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// "\x89actpk\r\n", the first byte lowest: no text, and none after a transfer as text.
inline constexpr std::uint64_t frame_magic = 0x0A0D6B7074636189;
inline constexpr std::uint32_t frame_version = 1;

/// The version of what is between header and checksum.
inline constexpr std::uint32_t controller_version = 2;
constexpr std::uint32_t contents_version(Form form) {
  return form == Form::controller ? controller_version : format_version;
}

/// Bytes of a frame beside its contents.
inline constexpr std::int64_t frame_overhead = std::int64_t{frame_header_size} + 8;

inline constexpr unsigned stochastic_flag = 1;
inline constexpr unsigned row_bits_flag = 2;

inline const char* name_of(Form form) {
  switch (form) {
    case Form::affine: return "an affine tensor";
    case Form::sign_magnitude: return "a sign-magnitude context";
    case Form::mask: return "a mask";
    case Form::codes: return "codes";
    case Form::controller: return "the state of an AutoPrecision";
  }
  return "nothing known";
}

/// A header without a tensor.
inline constexpr FrameContents controller_contents = {
    .form = Form::controller, .layout = {.rows = 0, .group_size = 0, .bits = 0}};

/// Refuses contents that no frame has: values out of range, or not 0 where the form has no use for
/// them.
inline void require_valid(const FrameContents& contents) {
  const Layout& layout = contents.layout;
  const Rounding& rounding = contents.rounding;
  const int form = static_cast<int>(contents.form);
  refuse_unless(form >= 1 && form <= 5, "form = ", form, " is not in [1, 5]");
  refuse_unless(rounding.is_stochastic || (rounding.seed == 0 && rounding.offset == 0),
                "rounding is to nearest, but has seed = ", rounding.seed,
                " and offset = ", rounding.offset);
  refuse_unless(!contents.has_row_bits || contents.form == Form::affine, name_of(contents.form),
                " has widths by row");
  const int type = static_cast<int>(contents.element_type);
  if (contents.form == Form::affine || contents.form == Form::sign_magnitude) {
    refuse_unless(type >= 1 && type <= 3, "element type = ", type, " is not in [1, 3]");
    layout.validate();
    return;
  }
  const int rows = contents.form == Form::controller ? 0 : 1;
  refuse_unless(type == 0 && !rounding.is_stochastic && layout.rows == rows &&
                    layout.last_row_size == 0 && layout.group_size == 0,
                name_of(contents.form), " has element type = ", type,
                ", is_stochastic = ", int{rounding.is_stochastic}, ", rows = ", layout.rows,
                ", last_row_size = ", layout.last_row_size, ", group_size = ", layout.group_size,
                " instead of 0, 0, ", rows, ", 0, 0");
  if (contents.form == Form::controller) {
    refuse_unless(layout.row_size == 0 && layout.bits == 0, name_of(contents.form),
                  " has row_size = ", layout.row_size, " and bits = ", layout.bits,
                  " instead of 0");
    return;
  }
  refuse_unless(layout.row_size >= 0 && layout.row_size <= Layout::max_numel,
                "numel = ", layout.row_size, " is not in [0, 2^48]");
  refuse_unless(is_width(layout.bits), "bits = ", layout.bits, " is not 1, 2, 4 or 8");
  refuse_unless(contents.form == Form::codes || layout.bits == 1, "bits = ", layout.bits,
                " but a mask has 1");
}

/// Writes the header of a frame of `size` bytes. Precondition: the contents are valid.
inline void put_header(ByteWriter& out, const FrameContents& contents, std::int64_t size) {
  const unsigned flags = (contents.rounding.is_stochastic ? stochastic_flag : 0) |
                         (contents.has_row_bits ? row_bits_flag : 0);
  const Layout& layout = contents.layout;
  out.put(frame_magic);
  out.put(frame_version);
  out.put(static_cast<std::uint8_t>(contents.form));
  out.put(static_cast<std::uint8_t>(contents.element_type));
  out.put(static_cast<std::uint8_t>(layout.bits));
  out.put(static_cast<std::uint8_t>(flags));
  out.put(size);
  out.put(layout.rows);
  out.put(layout.row_size);
  out.put(layout.last_row_size);
  out.put(layout.group_size);
  out.put(contents_version(contents.form));
  out.put(contents.rounding.seed);
  out.put(contents.rounding.offset);
}

/// Writes the checksum of everything before it. `frame` is whole but for that.
inline void seal_frame(std::span<std::byte> frame) {
  const std::span<std::byte> checked = frame.first(frame.size() - 8);
  store_little_endian(checksum(checked), checked.data() + checked.size());
}

/// Checks the first fields of a header, and returns the size that it claims for the frame.
inline std::int64_t get_size(ByteReader& in, const char* name) {
  refuse_unless(in.get<std::uint64_t>() == frame_magic, name,
                " is no frame of actpack, or was changed as if it were text");
  const std::uint32_t version = in.get<std::uint32_t>();
  refuse_unless(version == frame_version, name, " has version ", version, " instead of ",
                frame_version);
  (void)in.get<std::uint32_t>();  // form, element type, bits, flags
  const std::int64_t size = in.get_integer();
  refuse_unless(size >= frame_overhead && size % array_alignment == 0, name, " claims a size of ",
                size, " bytes, which none has");
  return size;
}

/// A frame whose header and checksum are right.
struct OpenFrame {
  FrameContents contents;
  std::span<const std::byte> body;  // between them
};

/// Throws std::invalid_argument unless `frame`, which errors call `name`, is a whole frame with
/// valid contents.
inline OpenFrame open_frame(std::span<const std::byte> frame, const char* name) {
  const std::int64_t actual_size = static_cast<std::int64_t>(frame.size());
  refuse_unless(actual_size >= frame_overhead, name, " has ", actual_size,
                " bytes, but none has less than ", frame_overhead);
  ByteReader start(frame, name);
  const std::int64_t size = get_size(start, name);
  refuse_unless(size == actual_size, name, " has ", actual_size, " bytes, but claims ", size);
  const std::span<const std::byte> checked = frame.first(frame.size() - 8);
  refuse_unless(
      load_little_endian<std::uint64_t>(checked.data() + checked.size()) == checksum(checked), name,
      " is damaged: its checksum is not that of its bytes");

  ByteReader in(frame.subspan(12), name);
  FrameContents contents;
  contents.form = static_cast<Form>(in.get<std::uint8_t>());
  contents.element_type = static_cast<ElementType>(in.get<std::uint8_t>());
  contents.layout.bits = in.get<std::uint8_t>();
  const unsigned flags = in.get<std::uint8_t>();
  (void)in.get_integer();  // size
  contents.layout.rows = in.get_integer();
  contents.layout.row_size = in.get_integer();
  contents.layout.last_row_size = in.get_integer();
  contents.layout.group_size = static_cast<std::int32_t>(in.get<std::uint32_t>());
  const std::uint32_t version = in.get<std::uint32_t>();
  contents.rounding.seed = in.get<std::uint64_t>();
  contents.rounding.offset = in.get<std::uint64_t>();
  refuse_unless(flags <= (stochastic_flag | row_bits_flag), "flags = ", flags, " has unknown ones");
  contents.rounding.is_stochastic = (flags & stochastic_flag) != 0;
  contents.has_row_bits = (flags & row_bits_flag) != 0;
  require_valid(contents);
  refuse_unless(version == contents_version(contents.form), name_of(contents.form), " has version ",
                version, " instead of ", contents_version(contents.form));
  return {contents, checked.subspan(frame_header_size)};
}

}  // namespace actpack::detail
