// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The functions of serialize.hpp: its end, or compiled once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/codes.hpp"
#include "actpack/detail/byte_stream.hpp"
#include "actpack/detail/require.hpp"
#include "actpack/detail/require_view.hpp"
#include "actpack/detail/serialize/frame.hpp"
#include "actpack/serialize.hpp"

namespace actpack::detail::inline ACTPACK_TARGET {

/// How many elements each array of a tensor's frame has, in their order. All fit: a valid layout
/// has at most 2^48 rows, words and groups of each kind.
struct FrameArrays {
  std::int64_t row_bits = 0;
  std::int64_t words = 0;
  std::int64_t sign_words = 0;
  std::int64_t params = 0;

  std::int64_t size() const {
    return frame_overhead + padded_size(row_bits) + padded_size(4 * words) +
           padded_size(4 * sign_words) + padded_size(4 * params);
  }
};

/// Precondition: the contents are valid, and `row_bits` are their widths.
inline FrameArrays arrays_of(const FrameContents& contents, const std::uint8_t* row_bits) {
  const Layout& layout = contents.layout;
  if (contents.form == Form::mask || contents.form == Form::codes) {
    return {.words = layout.num_words()};
  }
  if (contents.form == Form::sign_magnitude) {
    return {.words = layout.num_words(),
            .sign_words = layout.with_bits(1).num_words(),
            .params = layout.num_groups()};
  }
  if (!contents.has_row_bits) {
    return {.words = layout.num_words(), .params = layout.num_groups()};
  }
  std::int64_t words = 0;
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    require_row_width(layout, row, row_bits[row]);
    words += words_for(layout.size_of_row(row), row_bits[row]);
  }
  return {.row_bits = layout.rows, .words = words, .params = layout.num_groups()};
}

/// Refuses rows whose last word has bits beyond its codes. The rows have `count` words.
inline void require_clear_ends(const Layout& layout, const std::uint8_t* row_bits,
                               const std::uint32_t* words, std::int64_t count) {
  std::int64_t end = 0;
  for (std::int64_t row = 0; end < count; ++row) {
    const std::int64_t size = layout.size_of_row(row);
    const int bits = row_bits == nullptr ? layout.bits : row_bits[row];
    end += words_for(size, bits);
    const int used = static_cast<int>(size % (32 / bits)) * bits;  // of the last word; 0: all
    refuse_unless(used == 0 || words[end - 1] >> used == 0, "the last word of row ", row,
                  " has bits beyond its codes");
  }
}

inline std::size_t size_in_memory(std::int64_t size) {
  refuse_unless(static_cast<std::int64_t>(static_cast<std::size_t>(size)) == size, "a frame of ",
                size, " bytes does not fit in memory");
  return static_cast<std::size_t>(size);
}

/// What a frame keeps of a rounding.
inline Rounding kept(const Rounding& rounding) {
  return rounding.is_stochastic ? rounding : Rounding::nearest();
}

/// A tensor of any form, about to become a frame.
struct FrameSource {
  FrameContents contents;
  const std::uint8_t* row_bits = nullptr;
  const std::uint32_t* words = nullptr;
  const std::uint32_t* sign_words = nullptr;

  FrameArrays arrays() const { return arrays_of(contents, row_bits); }

  /// Writes the whole frame, the parameters being `params`, after the checks that all forms share.
  template <class Params>
  void write(const Params* params, std::span<std::byte> frame) const {
    require_valid(contents);
    refuse_unless(contents.rounding.device_seed_and_offset == nullptr,
                  "rounding reads its seed from device memory, which a frame cannot hold");
    const FrameArrays arrays = arrays_of(contents, row_bits);
    refuse_unless(static_cast<std::int64_t>(frame.size()) == arrays.size(),
                  "frame.size() = ", frame.size(), " but ", name_of(contents.form),
                  " like this takes ", arrays.size());
    require_memory(frame, "frame");
    require_clear_ends(contents.layout, row_bits, words, arrays.words);
    require_clear_ends(contents.layout.with_bits(1), nullptr, sign_words, arrays.sign_words);

    ByteWriter out(frame);
    put_header(out, contents, arrays.size());
    out.put_array(row_bits, arrays.row_bits);
    out.put_array(words, arrays.words);
    out.put_array(sign_words, arrays.sign_words);
    out.put_array(params, arrays.params);
    seal_frame(frame);
  }
};

inline FrameSource source_of(const ConstPackedView& tensor, ElementType type = ElementType::float32,
                             const Rounding& rounding = {}) {
  require_arrays(tensor);
  const FrameSource source = {.contents = {Form::affine, type, tensor.layout, kept(rounding),
                                           tensor.row_offsets != nullptr},
                              .row_bits = tensor.row_bits,
                              .words = tensor.words};
  if (tensor.row_offsets != nullptr) {
    (void)source.arrays();  // which checks the widths
    std::int64_t offset = 0;
    for (std::int64_t row = 0;; ++row) {
      refuse_unless(tensor.row_offsets[row] == offset, "row_offsets[", row,
                    "] = ", tensor.row_offsets[row], " but the rows before it have ", offset,
                    " words");
      if (row == tensor.layout.rows) break;
      offset += words_for(tensor.layout.size_of_row(row), tensor.row_bits[row]);
    }
  }
  return source;
}

inline FrameSource source_of(const ConstSignMagnitudeView& context,
                             ElementType type = ElementType::float32,
                             const Rounding& rounding = {}) {
  require_arrays(context);
  return {.contents = {Form::sign_magnitude, type, context.layout, kept(rounding)},
          .words = context.magnitude_words,
          .sign_words = context.sign_words};
}

inline FrameSource source_of(Form form, std::int64_t numel, int bits,
                             const std::uint32_t* words = nullptr) {
  const FrameSource source = {
      .contents = {.form = form, .layout = {.row_size = numel, .group_size = 0, .bits = bits}},
      .words = words};
  require_valid(source.contents);
  return source;
}

inline void write_words(Form form, std::span<const std::uint32_t> words, const char* name,
                        std::int64_t numel, int bits, std::span<std::byte> frame) {
  const FrameSource source = source_of(form, numel, bits, words.data());
  refuse_unless(static_cast<std::int64_t>(words.size()) == source.arrays().words, name,
                ".size() = ", words.size(), " but ", numel, " elements take ",
                source.arrays().words);
  require_memory(words, name);
  source.write<GroupParams>(nullptr, frame);
}

}  // namespace actpack::detail

namespace actpack::inline ACTPACK_ONCE {

// ---- Writing ----------------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE std::size_t serialized_size(ConstPackedView tensor) {
  return detail::size_in_memory(detail::source_of(tensor).arrays().size());
}

ACTPACK_COMPILED_ONCE std::size_t serialized_size(ConstSignMagnitudeView context) {
  return detail::size_in_memory(detail::source_of(context).arrays().size());
}

ACTPACK_COMPILED_ONCE std::size_t serialized_mask_size(std::int64_t numel) {
  return detail::size_in_memory(detail::source_of(Form::mask, numel, 1).arrays().size());
}

ACTPACK_COMPILED_ONCE std::size_t serialized_codes_size(std::int64_t numel, int bits) {
  return detail::size_in_memory(detail::source_of(Form::codes, numel, bits).arrays().size());
}

ACTPACK_COMPILED_ONCE void serialize(ConstPackedView tensor, ElementType type, Rounding rounding,
                                     std::span<std::byte> frame) {
  detail::source_of(tensor, type, rounding).write(tensor.params, frame);
}

ACTPACK_COMPILED_ONCE void serialize(ConstSignMagnitudeView context, ElementType type,
                                     Rounding rounding, std::span<std::byte> frame) {
  detail::source_of(context, type, rounding).write(context.params, frame);
}

ACTPACK_COMPILED_ONCE void serialize_mask(std::span<const std::uint32_t> mask, std::int64_t numel,
                                          std::span<std::byte> frame) {
  detail::write_words(Form::mask, mask, "mask", numel, 1, frame);
}

ACTPACK_COMPILED_ONCE void serialize_codes(std::span<const std::uint32_t> words, std::int64_t numel,
                                           int bits, std::span<std::byte> frame) {
  detail::write_words(Form::codes, words, "words", numel, bits, frame);
}

// ---- Reading ----------------------------------------------------------------------------------

ACTPACK_COMPILED_ONCE std::size_t frame_size(std::span<const std::byte> header) {
  detail::ByteReader in(header, "header");
  detail::refuse_unless(header.size() >= frame_header_size, "header.size() = ", header.size(),
                        " but a header has ", frame_header_size, " bytes");
  return detail::size_in_memory(detail::get_size(in, "header"));
}

ACTPACK_COMPILED_ONCE FrameView::FrameView(std::span<const std::byte> frame) {
  using detail::refuse_unless;
  refuse_unless(detail::is_little_endian,
                "frames are read in place on little-endian machines alone");
  refuse_unless(reinterpret_cast<std::uintptr_t>(frame.data()) % alignof(std::uint32_t) == 0,
                "frame is not aligned to 4 bytes");
  const detail::OpenFrame opened = detail::open_frame(frame, "frame");
  contents_ = opened.contents;
  if (contents_.form == Form::controller) return;

  const Layout& layout = contents_.layout;
  detail::ByteReader in(opened.body, "frame");
  if (contents_.has_row_bits) {
    row_bits_ = reinterpret_cast<const std::uint8_t*>(in.get_array(layout.rows));
  }
  const detail::FrameArrays arrays = detail::arrays_of(contents_, row_bits_);
  refuse_unless(static_cast<std::uint64_t>(arrays.size()) == frame.size(), "frame has ",
                frame.size(), " bytes, but its layout takes ", arrays.size());
  const auto get_words = [&](std::int64_t count) {
    return reinterpret_cast<const std::uint32_t*>(in.get_array(4 * count));
  };
  words_ = get_words(arrays.words);
  sign_words_ = get_words(arrays.sign_words);
  params_ = get_words(arrays.params);
  detail::require_clear_ends(layout, row_bits_, words_, arrays.words);
  detail::require_clear_ends(layout.with_bits(1), nullptr, sign_words_, arrays.sign_words);
}

ACTPACK_COMPILED_ONCE void FrameView::require_form(Form form) const {
  detail::refuse_unless(contents_.form == form, "frame holds ", detail::name_of(contents_.form),
                        ", not ", detail::name_of(form));
}

ACTPACK_COMPILED_ONCE std::span<const std::uint32_t> FrameView::words() const {
  return {words_, static_cast<std::size_t>(contents_.layout.num_words())};
}

ACTPACK_COMPILED_ONCE const Layout& FrameView::layout() const {
  if (contents_.form != Form::sign_magnitude) require_form(Form::affine);
  return contents_.layout;
}

ACTPACK_COMPILED_ONCE ConstPackedView FrameView::packed(std::span<std::int64_t> row_offsets) const {
  require_form(Form::affine);
  detail::refuse_unless(row_offsets.size() == num_row_offsets(),
                        "row_offsets.size() = ", row_offsets.size(), " but the frame needs ",
                        num_row_offsets());
  ConstPackedView view(contents_.layout, words_, reinterpret_cast<const GroupParams*>(params_));
  if (contents_.has_row_bits) {
    view.row_bits = row_bits_;
    view.row_offsets = row_offsets.data();
    actpack::row_offsets(view.layout, {view.row_bits, static_cast<std::size_t>(view.layout.rows)},
                         row_offsets);
  }
  return view;
}

ACTPACK_COMPILED_ONCE ConstSignMagnitudeView FrameView::sign_magnitude() const {
  require_form(Form::sign_magnitude);
  return {contents_.layout, sign_words_, words_,
          reinterpret_cast<const SignMagnitudeParams*>(params_)};
}

ACTPACK_COMPILED_ONCE std::span<const std::uint32_t> FrameView::mask() const {
  require_form(Form::mask);
  return words();
}

ACTPACK_COMPILED_ONCE std::span<const std::uint32_t> FrameView::codes() const {
  require_form(Form::codes);
  return words();
}

}  // namespace actpack
