// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: a frame gives back what was written; whatever bytes a frame has, they are refused or read
// within their size; and what is accepted is itself what `serialize` writes.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/codes.hpp>
#include <actpack/detail/checksum.hpp>
#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/serialize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "fuzz.hpp"
#include "tensors.hpp"

namespace {

using namespace actpack;
using namespace fuzz;

using Frame = std::vector<std::byte>;

// Where a header has what, and in how many bytes: the fields that a damage is worth while in.
constexpr std::pair<std::size_t, std::size_t> header_fields[] = {
    {0, 8},  {8, 4},  {12, 1}, {13, 1}, {14, 1}, {15, 1}, {16, 8},
    {24, 8}, {32, 8}, {40, 8}, {48, 4}, {52, 4}, {56, 8}, {64, 8}};

// ---- Frames that are right ----------------------------------------------------------------------

struct Tensor {
  Layout layout;
  std::vector<std::uint8_t> row_bits;
  Rounding rounding;
  ElementType type;
  std::vector<float> values;

  explicit Tensor(Input& input) {
    layout = random_layout(input);
    if (layout.numel() > 2000) layout.row_size = 65;
    layout.last_row_size = std::min(layout.last_row_size, layout.row_size);
    row_bits = random_row_bits(input, layout);
    rounding = random_rounding(input);
    type = static_cast<ElementType>(input.between(1, 3));
    values = random_values<float>(input, static_cast<std::size_t>(layout.numel()));
  }
};

template <class View>
Frame frame_of(View view, ElementType type, const Rounding& rounding) {
  Frame frame(serialized_size(view));
  serialize(view, type, rounding, frame);
  return frame;
}

Frame random_frame(Input& input) {
  switch (input.between(0, 3)) {
    case 0: {
      const Tensor t(input);
      PackedBuffer buffer =
          t.row_bits.empty() ? PackedBuffer(t.layout) : PackedBuffer(t.layout, t.row_bits);
      quantize(t.values, buffer.view(), t.rounding);
      return frame_of(std::as_const(buffer).view(), t.type, t.rounding);
    }
    case 1: {
      const Tensor t(input);
      SignMagnitudeBuffer buffer(t.layout);
      encode(t.values, buffer.view(), t.rounding);
      return frame_of(std::as_const(buffer).view(), t.type, t.rounding);
    }
    case 2: {
      const std::vector<float> x = random_values<float>(input, input.between<std::size_t>(0, 300));
      std::vector<float> y(x.size());
      std::vector<std::uint32_t> mask((x.size() + 31) / 32);
      relu(x, y, mask);
      Frame frame(serialized_mask_size(std::ssize(x)));
      serialize_mask(mask, std::ssize(x), frame);
      return frame;
    }
    default: {
      const int bits = input.pick(widths);
      std::vector<std::uint8_t> codes(input.between<std::size_t>(0, 300));
      for (std::uint8_t& code : codes)
        code = static_cast<std::uint8_t>(input.number<std::uint8_t>() & max_code(bits));
      std::vector<std::uint32_t> words(
          static_cast<std::size_t>(words_for(std::ssize(codes), bits)));
      pack(codes, bits, words);
      Frame frame(serialized_codes_size(std::ssize(codes), bits));
      serialize_codes(words, std::ssize(codes), bits, frame);
      return frame;
    }
  }
}

// ---- Frames that may be wrong -------------------------------------------------------------------

void damage(Input& input, Frame& frame) {
  const auto at = [&] {
    return input.between<std::size_t>(0, frame.empty() ? 0 : frame.size() - 1);
  };
  const auto put = [&](std::size_t first, std::size_t size, std::uint64_t number) {
    for (std::size_t i = 0; i < size && first + i < frame.size(); ++i) {
      frame[first + i] = static_cast<std::byte>(number >> (8 * i));
    }
  };
  if (frame.empty()) return;
  switch (input.between(0, 6)) {
    case 0: frame.resize(at()); break;
    case 1:
      frame.resize(frame.size() + input.between<std::size_t>(1, 70), input.number<std::byte>());
      break;
    case 2: frame[at()] ^= std::byte{1} << input.between(0, 7); break;
    case 3: put(at() / 4 * 4, 4, input.number<std::uint32_t>()); break;
    case 4: put(16, 8, frame.size()); break;  // the size that it claims
    default: {
      const auto [first, size] = input.pick(header_fields);
      put(first, size, static_cast<std::uint64_t>(hostile_integer(input)));
    }
  }
}

void repair_checksum(Frame& frame) {
  if (frame.size() < 8) return;
  const std::uint64_t sum = detail::checksum(std::span(frame).first(frame.size() - 8));
  for (std::size_t i = 0; i < 8; ++i)
    frame[frame.size() - 8 + i] = static_cast<std::byte>(sum >> (8 * i));
}

// ---- Reading ------------------------------------------------------------------------------------

// The bits of a row's last word that no code takes are 0.
void check_end(const std::uint32_t* words, std::int64_t numel, int bits) {
  if (numel * bits % 32 == 0) return;
  check(words[numel * bits / 32] >> numel * bits % 32 == 0, "unused bits of a frame's words are 0");
}

// Reads all of an accepted frame, and writes it again. Without elements there may be 2^48 rows.
Frame read_and_write(const FrameView& view) {
  const Rounding rounding = view.rounding();
  const auto decoding = Decoding::subtractive(rounding);
  Frame again;
  switch (view.form()) {
    case Form::affine: {
      check(view.layout().numel() == view.numel(), "layout and numel agree");
      Fenced<std::int64_t> offsets(view.num_row_offsets());
      Fenced<float> x(view.numel());
      const ConstPackedView tensor = view.packed(offsets.span());
      dequantize(tensor, x.span(), decoding);
      for (std::int64_t row = 0, word = 0; row < tensor.layout.rows && view.numel() > 0; ++row) {
        const int bits = tensor.row_bits == nullptr ? tensor.layout.bits : tensor.row_bits[row];
        check_end(tensor.words + word, tensor.layout.size_of_row(row), bits);
        word += words_for(tensor.layout.size_of_row(row), bits);
      }
      again.resize(serialized_size(tensor));
      serialize(tensor, view.element_type(), rounding, again);
      break;
    }
    case Form::sign_magnitude: {
      Fenced<float> y(view.numel());
      const ConstSignMagnitudeView context = view.sign_magnitude();
      decode(context, y.span(), decoding);
      decode_relu(context, y.span());
      for (std::int64_t row = 0; row < context.layout.rows && view.numel() > 0; ++row) {
        const std::int64_t size = context.layout.size_of_row(row);
        check_end(context.sign_words + row * context.layout.with_bits(1).words_per_row(), size, 1);
        check_end(context.magnitude_words + row * context.layout.words_per_row(), size,
                  view.bits());
      }
      again.resize(serialized_size(context));
      serialize(context, view.element_type(), rounding, again);
      break;
    }
    case Form::mask: {
      check_end(view.mask().data(), view.numel(), 1);
      Fenced<float> dy(view.numel());
      relu_backward(dy.view(), view.mask(), dy.span());
      again.resize(serialized_mask_size(view.numel()));
      serialize_mask(view.mask(), view.numel(), again);
      break;
    }
    case Form::codes: {
      check_end(view.codes().data(), view.numel(), view.bits());
      Fenced<std::uint8_t> codes(view.numel());
      unpack(view.codes(), view.bits(), codes.span());
      again.resize(serialized_codes_size(view.numel(), view.bits()));
      serialize_codes(view.codes(), view.numel(), view.bits(), again);
      break;
    }
    case Form::controller: break;  // the controller's own target reads those
  }
  const bool has_layout = view.form() == Form::affine || view.form() == Form::sign_magnitude;
  std::vector<std::int64_t> offsets(view.num_row_offsets());
  check(refuses([&] { view.packed(offsets); }) == (view.form() != Form::affine) &&
            refuses([&] { view.sign_magnitude(); }) == (view.form() != Form::sign_magnitude) &&
            refuses([&] { view.mask(); }) == (view.form() != Form::mask) &&
            refuses([&] { view.codes(); }) == (view.form() != Form::codes) &&
            refuses([&] { view.layout(); }) != has_layout,
        "a frame is read as what it is");
  return again;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  Frame frame;
  bool is_whole = true;
  if (input.one_in(8)) {
    const auto rest = input.rest();
    frame.resize(rest.size());
    if (!rest.empty()) std::memcpy(frame.data(), rest.data(), rest.size());
    is_whole = false;
  } else {
    frame = random_frame(input);
    const Frame before = frame;
    const int damages = input.between(0, 3);
    for (int i = 0; i < damages; ++i) damage(input, frame);
    is_whole = frame == before;
  }
  const bool is_repaired = !is_whole && input.flag();
  if (is_repaired) repair_checksum(frame);
  // Where it lies does not matter to the claims, but an address off 4 bytes is refused.
  const std::size_t shift = input.one_in(8) ? input.between<std::size_t>(0, 7) : 0;
  const Fenced<std::byte> placed = Fenced<std::byte>::copy_of(frame, shift);
  std::size_t claimed = 0;
  const bool has_header = !refuses([&] { claimed = frame_size(placed.span()); });
  const bool is_refused = refuses([&] {
    const FrameView view(placed.span());
    check(has_header && claimed == frame.size(), "frame_size gives the size of a frame");
    check(is_whole || is_repaired, "a damaged frame is refused");
    const Frame again = read_and_write(view);
    check(view.form() == Form::controller || again == frame,
          "an accepted frame is what serialize writes");
  });
  check(is_refused || shift % 4 == 0, "a frame off 4 bytes is refused");
  check(!is_refused || !is_whole || shift % 4 != 0, "a whole frame is read");
  return 0;
}
