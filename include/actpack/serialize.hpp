// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed data as one string of bytes, a frame, for checkpoints, transport and offload: `serialize`
// writes it, and a FrameView reads it where it lies.
//
// A frame says what it is and how large, and ends with a checksum. docs/format.md specifies it to
// the byte. Reading trusts nothing: every field is checked before it is used, so bytes from a disk
// or a network are either a whole and consistent frame or refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actpack/frame.hpp"
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude_view.hpp"

namespace actpack::inline ACTPACK_ONCE {

/// Returns the bytes of a packed tensor's frame: those of its words, parameters and widths, and at
/// most 96 more. Throws std::invalid_argument if the view is wrong.
std::size_t serialized_size(ConstPackedView tensor);

/// The same of a sign-magnitude context.
std::size_t serialized_size(ConstSignMagnitudeView context);

/// The same of a mask of `numel` elements.
std::size_t serialized_mask_size(std::int64_t numel);

/// The same of `numel` codes of `bits` bits, as `pack` makes them.
std::size_t serialized_codes_size(std::int64_t numel, int bits);

/// Writes the frame of a packed tensor [host] to `frame` [host, serialized_size(tensor)], of any
/// alignment. `type` is that of the values before they were packed, `rounding` what packed them and
/// what decoding subtractively needs again. The bytes are a function of the arguments alone. Throws
/// std::invalid_argument, before anything is written, if the view or the size is wrong, row_offsets
/// are not those of row_bits, unused bits of a row's last word are not 0, `type` is none, or
/// `rounding` reads its seed from device memory. Allocates nothing.
void serialize(ConstPackedView tensor, ElementType type, Rounding rounding,
               std::span<std::byte> frame);

/// The same of a sign-magnitude context.
void serialize(ConstSignMagnitudeView context, ElementType type, Rounding rounding,
               std::span<std::byte> frame);

/// Writes the frame of a mask of `numel` elements [host, words_for(numel, 1)] to `frame` [host,
/// serialized_mask_size(numel)]. Throws and allocates as the others.
void serialize_mask(std::span<const std::uint32_t> mask, std::int64_t numel,
                    std::span<std::byte> frame);

/// Writes the frame of `numel` codes [host, words_for(numel, bits)] to `frame` [host,
/// serialized_codes_size(numel, bits)]. Throws and allocates as the others.
void serialize_codes(std::span<const std::uint32_t> words, std::int64_t numel, int bits,
                     std::span<std::byte> frame);

/// Returns the bytes of the whole frame that starts with `header` [host, frame_header_size bytes or
/// more], for readers of files that hold several. Throws std::invalid_argument if no frame of this
/// version starts like that. The checksum is not read yet, so a damaged header may name any size.
std::size_t frame_size(std::span<const std::byte> header);

/// Reads a frame in place. Owns nothing: the bytes must outlive it and stay as they are.
class FrameView {
 public:
  /// `frame` [host] is one whole frame, aligned to 4 bytes. Throws std::invalid_argument, and reads
  /// nothing beyond `frame`, if it is damaged, contradicts itself, is of another version, has
  /// another size than it says, or the machine is not little-endian. Takes one pass over the bytes;
  /// allocates nothing.
  explicit FrameView(std::span<const std::byte> frame);

  Form form() const { return contents_.form; }
  ElementType element_type() const { return contents_.element_type; }
  std::int64_t numel() const { return contents_.layout.numel(); }
  int bits() const { return contents_.layout.bits; }

  /// How the values were rounded: what Decoding::subtractive asks for.
  Rounding rounding() const { return contents_.rounding; }

  /// The layout of an affine tensor or a sign-magnitude context. Like the functions below, throws
  /// std::invalid_argument if the frame holds another form.
  const Layout& layout() const;

  /// The size of the scratch memory that `packed` needs: rows + 1 where rows have widths of their
  /// own, else 0.
  std::size_t num_row_offsets() const {
    return contents_.has_row_bits ? static_cast<std::size_t>(contents_.layout.rows) + 1 : 0;
  }

  /// The affine tensor. `row_offsets` [host, num_row_offsets()] is written, and the view refers to
  /// it. Throws std::invalid_argument, before anything is written, if its size is wrong.
  ConstPackedView packed(std::span<std::int64_t> row_offsets = {}) const;

  ConstSignMagnitudeView sign_magnitude() const;

  /// The words of a mask of numel() elements.
  std::span<const std::uint32_t> mask() const;

  /// The words of numel() codes of bits() bits.
  std::span<const std::uint32_t> codes() const;

 private:
  void require_form(Form form) const;
  std::span<const std::uint32_t> words() const;

  detail::FrameContents contents_;
  const std::uint8_t* row_bits_ = nullptr;
  const std::uint32_t* words_ = nullptr;
  const std::uint32_t* sign_words_ = nullptr;
  const std::uint32_t* params_ = nullptr;  // two bfloat16 each
};

}  // namespace actpack

#if !ACTPACK_EXTERN_KERNELS
#include "actpack/detail/serialize/members.hpp"
#endif
