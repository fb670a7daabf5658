// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Frames: their bytes against the specification, round trips, and that nothing but a whole and
// consistent frame is read.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <actpack/auto_precision.hpp>
#include <actpack/bit_pack.hpp>
#include <actpack/detail/checksum.hpp>
#include <actpack/mask.hpp>
#include <actpack/quantize.hpp>
#include <actpack/serialize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using actpack::ConstPackedView;
using actpack::ConstSignMagnitudeView;
using actpack::ElementType;
using actpack::Form;
using actpack::FrameView;
using actpack::GroupParams;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::Rounding;
using actpack::SignMagnitudeBuffer;
using support::Generator;
using support::GuardedBuffer;

using Bytes = std::vector<std::byte>;

// ---- Frames by the specification alone --------------------------------------------------------

// Appends numbers as docs/format.md has them.
struct Writer {
  Bytes bytes = {};

  void put(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes.push_back(static_cast<std::byte>(value >> 8 * i));
  }
  void pad() {
    while (bytes.size() % 8 != 0) bytes.push_back(std::byte{0});
  }
};

struct Specified {
  int form = 1;
  int element_type = 0;
  Layout layout = {};
  Rounding rounding = {};
  std::vector<std::uint8_t> row_bits = {};
  bool has_row_bits = false;
  std::vector<std::uint32_t> words = {};
  std::vector<std::uint32_t> sign_words = {};
  std::vector<std::uint16_t> params = {};
};

Bytes specified_frame(const Specified& s) {
  Writer body;
  for (const std::uint8_t bits : s.row_bits) body.put(bits, 1);
  body.pad();
  for (const std::uint32_t word : s.words) body.put(word, 4);
  body.pad();
  for (const std::uint32_t word : s.sign_words) body.put(word, 4);
  body.pad();
  for (const std::uint16_t param : s.params) body.put(param, 2);
  body.pad();
  Writer frame;
  for (const char byte : {'\x89', 'a', 'c', 't', 'p', 'k', '\r', '\n'}) {
    frame.put(static_cast<std::uint8_t>(byte), 1);
  }
  const int flags = (s.rounding.is_stochastic ? 1 : 0) + (s.has_row_bits ? 2 : 0);
  frame.put(1, 4);
  for (const int byte : {s.form, s.element_type, s.layout.bits, flags}) {
    frame.put(static_cast<std::uint64_t>(byte), 1);
  }
  frame.put(72 + body.bytes.size() + 8, 8);
  for (const std::int64_t size : {s.layout.rows, s.layout.row_size, s.layout.last_row_size}) {
    frame.put(static_cast<std::uint64_t>(size), 8);
  }
  frame.put(static_cast<std::uint64_t>(s.layout.group_size), 4);
  frame.put(2, 4);
  frame.put(s.rounding.seed, 8);
  frame.put(s.rounding.offset, 8);
  frame.bytes.insert(frame.bytes.end(), body.bytes.begin(), body.bytes.end());
  frame.put(actpack::detail::checksum(frame.bytes), 8);
  return frame.bytes;
}

// ---- The library's frames, in memory that shows what was written ------------------------------

template <class Serialize>
Bytes written(std::size_t size, const Serialize& serialize) {
  GuardedBuffer<std::byte> frame(size);
  serialize(frame.span());
  return frame.values();
}

Bytes frame_of(const ConstPackedView& view, ElementType type, const Rounding& rounding) {
  return written(actpack::serialized_size(view), [&](std::span<std::byte> frame) {
    actpack::serialize(view, type, rounding, frame);
  });
}

Bytes frame_of(const ConstSignMagnitudeView& view, ElementType type, const Rounding& rounding) {
  return written(actpack::serialized_size(view), [&](std::span<std::byte> frame) {
    actpack::serialize(view, type, rounding, frame);
  });
}

Bytes frame_of_mask(std::span<const std::uint32_t> mask, std::int64_t numel) {
  return written(actpack::serialized_mask_size(numel),
                 [&](std::span<std::byte> frame) { actpack::serialize_mask(mask, numel, frame); });
}

Bytes frame_of_codes(std::span<const std::uint32_t> words, std::int64_t numel, int bits) {
  return written(actpack::serialized_codes_size(numel, bits), [&](std::span<std::byte> frame) {
    actpack::serialize_codes(words, numel, bits, frame);
  });
}

// ---- The examples of docs/format.md -----------------------------------------------------------

Bytes affine_example() {
  const std::vector<float> x{0, 1, 2, 3, 1, 5, 6, 8};
  PackedBuffer packed({.rows = 2, .row_size = 5, .group_size = 32, .bits = 2, .last_row_size = 3});
  actpack::quantize(x, packed.view(), Rounding::nearest());
  return frame_of(packed.view(), ElementType::float32, Rounding::nearest());
}

// Its values are those of codes, so that no random bit matters.
Bytes widths_example() {
  const std::vector<float> x{0, 1, 1, 0, -1, 0, 1, 2, 0, 255, 128, 1};
  const Rounding rounding = Rounding::stochastic(7, (std::uint64_t{1} << 32) + 9);
  PackedBuffer packed({.rows = 3, .row_size = 4, .bits = 8}, std::vector<std::uint8_t>{1, 2, 8});
  actpack::quantize(x, packed.view(), rounding);
  return frame_of(packed.view(), ElementType::bfloat16, rounding);
}

Bytes sign_magnitude_example() {
  const std::vector<float> y{-3, 0, 1, 3, 2};
  SignMagnitudeBuffer context(Layout{.row_size = 5});
  actpack::encode(y, context.view(), Rounding::nearest());
  return frame_of(context.view(), ElementType::float16, Rounding::nearest());
}

Bytes mask_example() {
  const std::vector<float> x{1, -1, 1, 1, 0};
  std::vector<float> y(5);
  std::vector<std::uint32_t> mask(1);
  actpack::relu(x, y, mask);
  return frame_of_mask(mask, 5);
}

Bytes codes_example() {
  const std::vector<std::uint8_t> codes{1, 15, 8};
  std::vector<std::uint32_t> words(1);
  actpack::pack(codes, 4, words);
  return frame_of_codes(words, 3, 4);
}

struct Example {
  std::string name;  // in docs/format.md
  Bytes frame;
};

std::vector<Example> examples() {
  return {{"affine", affine_example()},
          {"affine, widths by row", widths_example()},
          {"sign-magnitude", sign_magnitude_example()},
          {"mask", mask_example()},
          {"codes", codes_example()},
          {"controller", actpack::AutoPrecision().save()}};
}

// The bytes in the indented block after the line "`name`:", up to what is not indented. A line may
// end with a comment.
Bytes bytes_of_page(const std::string& name) {
  std::ifstream page(ACTPACK_FORMAT_PAGE);
  REQUIRE(page.good());
  std::string line;
  while (std::getline(page, line) && line.rfind("`" + name + "`:", 0) != 0) {
  }
  Bytes bytes;
  while (std::getline(page, line) && (line.empty() || line.rfind("    ", 0) == 0)) {
    std::istringstream numbers(line.substr(0, line.find('#')));
    for (std::string number; numbers >> number;) {
      REQUIRE(number.size() == 2);
      bytes.push_back(static_cast<std::byte>(std::stoi(number, nullptr, 16)));
    }
  }
  return bytes;
}

// ---- Reading ----------------------------------------------------------------------------------

std::uint64_t number_at(const Bytes& bytes, std::size_t first, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[first + i]);
  }
  return value;
}

void set_number(Bytes& bytes, std::size_t first, std::size_t size, std::uint64_t value) {
  for (std::size_t i = 0; i < size; ++i) bytes[first + i] = static_cast<std::byte>(value >> 8 * i);
}

// As someone would who means to deceive.
void reseal(Bytes& frame) {
  const std::span<const std::byte> checked(frame.data(), frame.size() - 8);
  set_number(frame, frame.size() - 8, 8, actpack::detail::checksum(checked));
}

// A frame that fills its allocation, so that a sanitizer sees every read past its end.
struct Allocated {
  std::unique_ptr<std::byte[]> memory;
  std::size_t size;

  explicit Allocated(std::span<const std::byte> bytes)
      : memory(new std::byte[bytes.size()]), size(bytes.size()) {
    std::ranges::copy(bytes, memory.get());
  }
  std::span<const std::byte> span() const { return {memory.get(), size}; }
};

Bytes written_again(const FrameView& frame) {
  std::vector<std::int64_t> offsets(frame.num_row_offsets());
  switch (frame.form()) {
    case Form::affine:
      return frame_of(frame.packed(offsets), frame.element_type(), frame.rounding());
    case Form::sign_magnitude:
      return frame_of(frame.sign_magnitude(), frame.element_type(), frame.rounding());
    case Form::mask: return frame_of_mask(frame.mask(), frame.numel());
    case Form::codes: return frame_of_codes(frame.codes(), frame.numel(), frame.bits());
    case Form::controller: break;
  }
  return {};
}

// Whether the bytes are accepted as a frame. One that is has a single spelling: written again from
// what was read, it is the same.
bool is_accepted(const Bytes& bytes) {
  const Allocated allocated(bytes);
  try {
    const FrameView frame(allocated.span());
    const bool is_same = frame.form() == Form::controller || written_again(frame) == bytes;
    CHECK(is_same);
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

void check_refused(const Bytes& bytes, const std::vector<std::string>& words) {
  const Allocated allocated(bytes);
  support::check_refused([&] { FrameView frame(allocated.span()); }, words);
}

// Random words whose unused bits are 0, and random parameters.
Specified random_affine(const Layout& layout, bool has_row_bits, Generator& generator) {
  Specified s{.form = 1, .element_type = 1, .layout = layout, .has_row_bits = has_row_bits};
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    int bits = layout.bits;
    if (has_row_bits) {
      do bits = 1 << generator.below(4);
      while (bits > layout.bits);
      s.row_bits.push_back(static_cast<std::uint8_t>(bits));
    }
    for (std::int64_t left = layout.size_of_row(row) * bits; left > 0; left -= 32) {
      const std::uint32_t word = static_cast<std::uint32_t>(generator.bits());
      s.words.push_back(left < 32 ? word & ((1U << left) - 1) : word);
    }
    const std::int64_t groups =
        (layout.size_of_row(row) + layout.group_size - 1) / layout.group_size;
    for (std::int64_t i = 0; i < 2 * groups; ++i) {
      s.params.push_back(static_cast<std::uint16_t>(generator.bits()));
    }
  }
  return s;
}

std::vector<std::int64_t> offsets_of(const Specified& s) {
  std::vector<std::int64_t> offsets{0};
  for (std::size_t row = 0; row < s.row_bits.size(); ++row) {
    const std::int64_t bits =
        s.layout.size_of_row(static_cast<std::int64_t>(row)) * s.row_bits[row];
    offsets.push_back(offsets.back() + (bits + 31) / 32);
  }
  return offsets;
}

// Every shape of rows for a width, a size and a size of groups.
std::vector<Layout> layouts_of(const support::Config& config) {
  const std::int64_t size = config.size;
  std::vector<Layout> layouts;
  for (const std::int64_t rows : {0, 1, 2, 5}) {
    for (const std::int64_t last : {std::int64_t{0}, size / 2, size}) {
      if (rows == 0 && last != 0) continue;
      layouts.push_back({.rows = rows,
                         .row_size = size,
                         .group_size = config.group_size,
                         .bits = config.bits,
                         .last_row_size = last});
    }
  }
  return layouts;
}

}  // namespace

// ---- Writing ----------------------------------------------------------------------------------

TEST_CASE("serialize: forms and element types have these numbers") {
  CHECK(static_cast<int>(Form::affine) == 1);
  CHECK(static_cast<int>(Form::sign_magnitude) == 2);
  CHECK(static_cast<int>(Form::mask) == 3);
  CHECK(static_cast<int>(Form::codes) == 4);
  CHECK(static_cast<int>(Form::controller) == 5);
  CHECK(static_cast<int>(ElementType::none) == 0);
  CHECK(static_cast<int>(actpack::element_type_of<float>) == 1);
  CHECK(static_cast<int>(actpack::element_type_of<actpack::bfloat16>) == 2);
  CHECK(static_cast<int>(actpack::element_type_of<actpack::float16>) == 3);
  CHECK(actpack::format_version == 2);
  CHECK(actpack::frame_header_size == 72);
}

TEST_CASE("serialize: the frames in docs/format.md are the library's") {
  for (const Example& example : examples()) {
    CAPTURE(example.name);
    const Bytes page = bytes_of_page(example.name);
    CHECK(!page.empty());
    const bool is_same = page == example.frame;
    CHECK(is_same);
  }
}

TEST_CASE("serialize: affine tensors of every layout, with widths by row and without") {
  Generator generator(1);
  std::uint64_t number = 0;
  const std::vector<std::int64_t> sizes{0, 1, 2, 31, 32, 33, 63, 65, 257, 1000};
  support::for_each_config(sizes, [&](const support::Config& config) {
    for (const Layout& layout : layouts_of(config)) {
      for (const bool has_row_bits : {false, true}) {
        if (support::is_left_out(number++)) continue;
        Specified s = random_affine(layout, has_row_bits, generator);
        s.element_type = static_cast<int>(1 + generator.below(3));
        const std::uint64_t seed = generator.bits();
        if (generator.below(2) == 0) s.rounding = Rounding::stochastic(seed, generator.bits());
        const std::vector<std::int64_t> offsets = offsets_of(s);
        static_assert(sizeof(GroupParams) == 4);
        std::vector<GroupParams> params(s.params.size() / 2);
        if (!params.empty()) std::memcpy(params.data(), s.params.data(), 4 * params.size());
        const ConstPackedView view(layout, s.words.data(), params.data(),
                                   has_row_bits ? s.row_bits.data() : nullptr,
                                   has_row_bits && layout.rows > 0 ? offsets.data() : nullptr);
        s.has_row_bits = has_row_bits && layout.rows > 0;

        const ElementType type = static_cast<ElementType>(s.element_type);
        const Bytes bytes = frame_of(view, type, s.rounding);
        const bool is_as_specified = bytes == specified_frame(s);
        CHECK(is_as_specified);
        CHECK(bytes.size() <= 4 * s.words.size() + 2 * s.params.size() + s.row_bits.size() + 96);

        const Allocated allocated(bytes);
        const FrameView frame(allocated.span());
        CHECK(frame.form() == Form::affine);
        CHECK(frame.element_type() == type);
        CHECK(frame.numel() == layout.numel());
        CHECK(frame.bits() == layout.bits);
        CHECK(frame.rounding().is_stochastic == s.rounding.is_stochastic);
        CHECK(frame.rounding().seed == s.rounding.seed);
        CHECK(frame.rounding().offset == s.rounding.offset);
        const Layout& read = frame.layout();
        const bool is_same_layout = read.rows == layout.rows && read.row_size == layout.row_size &&
                                    read.group_size == layout.group_size &&
                                    read.bits == layout.bits &&
                                    read.last_row_size == layout.last_row_size;
        CHECK(is_same_layout);
        CHECK(frame.num_row_offsets() == (s.has_row_bits ? s.row_bits.size() + 1 : 0));
        GuardedBuffer<std::int64_t> scratch(frame.num_row_offsets());
        const ConstPackedView packed = frame.packed(scratch.span());
        CHECK(std::equal(s.words.begin(), s.words.end(), packed.words));
        const bool has_same_params =
            params.empty() || std::memcmp(params.data(), packed.params, 4 * params.size()) == 0;
        CHECK(has_same_params);
        CHECK((packed.row_bits != nullptr) == s.has_row_bits);
        if (s.has_row_bits) {
          CHECK(std::equal(s.row_bits.begin(), s.row_bits.end(), packed.row_bits));
          CHECK(scratch.values() == offsets);
          CHECK(packed.row_offsets == scratch.data());
        }
      }
    }
  });
}

TEST_CASE("serialize: sign-magnitude contexts, masks and codes of every size") {
  std::uint64_t number = 0;
  support::for_each_config([&](const support::Config& config) {
    if (support::is_left_out(number++)) return;
    const std::size_t size = static_cast<std::size_t>(config.size);
    const Layout layout{
        .row_size = config.size, .group_size = config.group_size, .bits = config.bits};
    SignMagnitudeBuffer context(layout);
    const Rounding rounding = Rounding::stochastic(5, 6);
    actpack::encode(support::gaussian(size, 3), context.view(), rounding);
    const Bytes bytes = frame_of(context.view(), ElementType::float32, rounding);
    CHECK(bytes.size() <= context.size_bytes() + 96);
    const Allocated allocated(bytes);
    const FrameView frame(allocated.span());
    CHECK(frame.form() == Form::sign_magnitude);
    CHECK(frame.num_row_offsets() == 0);
    std::vector<float> expected(size);
    std::vector<float> got(size);
    const auto decoding = actpack::Decoding::subtractive(rounding);
    actpack::decode(context.view(), expected, decoding);
    actpack::decode(frame.sign_magnitude(), got, actpack::Decoding::subtractive(frame.rounding()));
    support::check_same_values(got, expected);

    std::vector<std::uint8_t> codes(size);
    Generator generator(4);
    for (std::uint8_t& code : codes) {
      code = static_cast<std::uint8_t>(generator.below(1U << config.bits));
    }
    std::vector<std::uint32_t> words(
        static_cast<std::size_t>(actpack::words_for(config.size, config.bits)));
    actpack::pack(codes, config.bits, words);
    const Bytes codes_bytes = frame_of_codes(words, config.size, config.bits);
    CHECK(codes_bytes.size() <= 4 * words.size() + 96);
    const Layout flat{.row_size = config.size, .group_size = 0, .bits = config.bits};
    const bool is_specified =
        codes_bytes == specified_frame({.form = 4, .layout = flat, .words = words});
    CHECK(is_specified);
    const Allocated allocated_codes(codes_bytes);
    const FrameView frame_of_them(allocated_codes.span());
    CHECK(frame_of_them.form() == Form::codes);
    CHECK(frame_of_them.numel() == config.size);
    CHECK(frame_of_them.bits() == config.bits);
    CHECK(std::ranges::equal(frame_of_them.codes(), words));
    if (config.bits != 1) return;
    const Bytes mask_bytes = frame_of_mask(words, config.size);
    const bool is_mask_specified =
        mask_bytes == specified_frame({.form = 3, .layout = flat, .words = words});
    CHECK(is_mask_specified);
    const Allocated allocated_mask(mask_bytes);
    const FrameView mask(allocated_mask.span());
    CHECK(mask.form() == Form::mask);
    CHECK(mask.numel() == config.size);
    CHECK(std::ranges::equal(mask.mask(), words));
  });
}

TEST_CASE("serialize: an empty tensor with widths by row keeps its offsets") {
  PackedBuffer packed(Layout{.rows = 0, .row_size = 7}, std::span<const std::uint8_t>());
  ConstPackedView view = packed.view();
  const std::uint8_t none = 0;
  view.row_bits = &none;
  const Bytes bytes = frame_of(view, ElementType::float32, Rounding::nearest());
  const Allocated allocated(bytes);
  const FrameView frame(allocated.span());
  CHECK(frame.num_row_offsets() == 1);
  std::vector<std::int64_t> offsets(1, 5);
  CHECK(frame.packed(offsets).row_bits != nullptr);
  CHECK(offsets[0] == 0);
}

TEST_CASE("serialize: what a rounding to nearest has of seeds is not kept") {
  PackedBuffer packed(Layout{.row_size = 40});
  actpack::quantize(support::gaussian(40, 1), packed.view(), Rounding::nearest());
  Rounding rounding = Rounding::nearest();
  rounding.seed = 3;
  rounding.offset = 4;
  CHECK(frame_of(packed.view(), ElementType::float32, rounding) ==
        frame_of(packed.view(), ElementType::float32, Rounding::nearest()));
}

TEST_CASE("serialize: wrong arguments are refused before anything is written") {
  std::vector<std::uint8_t> row_bits{1, 2, 4};
  PackedBuffer packed(Layout{.rows = 3, .row_size = 20, .bits = 4}, row_bits);
  actpack::quantize(support::gaussian(60, 1), packed.view(), Rounding::nearest());
  const ConstPackedView view = packed.view();
  const std::size_t size = actpack::serialized_size(view);
  const auto check = [&](const ConstPackedView& tensor, ElementType type, const Rounding& rounding,
                         std::size_t frame_size, const std::vector<std::string>& words) {
    GuardedBuffer<std::byte> frame(frame_size);
    support::check_refused([&] { actpack::serialize(tensor, type, rounding, frame.span()); },
                           words);
    CHECK(frame.is_untouched());
  };
  const Rounding nearest = Rounding::nearest();
  for (const std::size_t wrong : {std::size_t{0}, size - 1, size + 1, size + 8}) {
    check(view, ElementType::float32, nearest, wrong,
          {"frame.size()", std::to_string(wrong), std::to_string(size)});
  }
  check(view, ElementType::none, nearest, size, {"element type", "0"});
  check(view, static_cast<ElementType>(4), nearest, size, {"element type", "4"});
  const std::uint64_t on_device[2] = {1, 2};
  check(view, ElementType::float32, Rounding::stochastic(on_device), size, {"device memory"});

  ConstPackedView wrong = view;
  wrong.layout.group_size = 33;
  check(wrong, ElementType::float32, nearest, size, {"layout.group_size", "33"});
  for (const std::size_t row : {0U, 1U, 2U, 3U}) {
    std::vector<std::int64_t> offsets(view.row_offsets, view.row_offsets + 4);
    for (const std::int64_t shift : {std::int64_t{1}, std::int64_t{-1}, std::int64_t{1} << 62}) {
      std::vector<std::int64_t> shifted = offsets;
      shifted[row] += shift;
      wrong = view;
      wrong.row_offsets = shifted.data();
      check(wrong, ElementType::float32, nearest, size,
            {"row_offsets[" + std::to_string(row) + "]", std::to_string(shifted[row]),
             std::to_string(offsets[row])});
    }
    if (row == 3) break;
    for (const std::uint8_t bits : {std::uint8_t{0}, std::uint8_t{3}, std::uint8_t{8}}) {
      std::vector<std::uint8_t> widths = row_bits;
      widths[row] = bits;
      wrong = view;
      wrong.row_bits = widths.data();
      check(wrong, ElementType::float32, nearest, size,
            {"row_bits[" + std::to_string(row) + "]", std::to_string(bits)});
    }
    // Row r has 20 codes of 2^r bits.
    std::vector<std::uint32_t> words(view.words, view.words + offsets[3]);
    words[static_cast<std::size_t>(offsets[row + 1]) - 1] |= 1U << (20 << row) % 32;
    wrong = view;
    wrong.words = words.data();
    check(wrong, ElementType::float32, nearest, size, {"row", std::to_string(row)});
  }

  SignMagnitudeBuffer context(Layout{.rows = 2, .row_size = 20});
  actpack::encode(support::gaussian(40, 1), context.view(), nearest);
  for (const bool in_signs : {false, true}) {
    context.view().sign_words[1] ^= in_signs ? 1U << 20 : 0U;
    context.view().magnitude_words[3] ^= in_signs ? 0U : 1U << 8;
    GuardedBuffer<std::byte> frame(actpack::serialized_size(context.view()));
    support::check_refused(
        [&] { actpack::serialize(context.view(), ElementType::float32, nearest, frame.span()); },
        {"row", "1"});
    CHECK(frame.is_untouched());
    context.view().magnitude_words[3] ^= in_signs ? 0U : 1U << 8;
  }

  const std::vector<std::uint32_t> words{7, 0};
  GuardedBuffer<std::byte> frame(actpack::serialized_codes_size(40, 1));
  const auto check_words = [&](const auto& call, const std::vector<std::string>& names) {
    support::check_refused(call, names);
    CHECK(frame.is_untouched());
  };
  const std::span<const std::uint32_t> one(words.data(), 1);
  check_words([&] { actpack::serialize_mask(one, 40, frame.span()); }, {"mask.size()", "1", "2"});
  check_words([&] { actpack::serialize_codes(one, 40, 1, frame.span()); },
              {"words.size()", "1", "2"});
  check_words([&] { actpack::serialize_codes(words, 40, 3, frame.span()); }, {"bits", "3"});
  check_words([&] { actpack::serialize_codes(words, -1, 1, frame.span()); }, {"numel", "-1"});
  check_words([&] { actpack::serialize_mask(words, 33, frame.span().first(0)); },
              {"frame.size()", "0", "88"});
  const std::int64_t many = Layout::max_numel + 1;
  check_words([&] { actpack::serialize_mask(words, many, frame.span()); },
              {"numel", std::to_string(many)});
  support::check_refused([&] { (void)actpack::serialized_codes_size(1, 5); }, {"bits", "5"});
  support::check_refused([&] { (void)actpack::serialized_mask_size(-7); }, {"numel", "-7"});
  const std::vector<std::uint32_t> unused{8};
  check_words([&] { actpack::serialize_mask(unused, 3, frame.span()); }, {"last word"});
  CHECK(actpack::serialized_mask_size(Layout::max_numel) == 80 + (std::size_t{1} << 45));
}

// ---- Reading ----------------------------------------------------------------------------------

TEST_CASE("FrameView: a tensor decodes from its frame as from its buffer") {
  const std::vector<float> x = support::gaussian(3000, 5);
  const Layout layout{.rows = 10, .row_size = 300, .bits = 8};
  const std::vector<std::uint8_t> row_bits{1, 2, 4, 8, 1, 1, 2, 8, 4, 2};
  const Rounding rounding = Rounding::stochastic(3, 4);
  PackedBuffer packed(layout, row_bits);
  actpack::quantize(x, packed.view(), rounding);
  const Allocated allocated(frame_of(packed.view(), ElementType::float32, rounding));
  const FrameView frame(allocated.span());
  std::vector<std::int64_t> offsets(frame.num_row_offsets());
  std::vector<float> expected(x.size());
  std::vector<float> got(x.size());
  actpack::dequantize(packed.view(), expected, actpack::Decoding::subtractive(rounding));
  actpack::dequantize(frame.packed(offsets), got, actpack::Decoding::subtractive(frame.rounding()));
  support::check_same_values(got, expected);
}

TEST_CASE("FrameView: it gives the form that it holds and refuses others") {
  for (const Example& example : examples()) {
    CAPTURE(example.name);
    const Allocated allocated(example.frame);
    const FrameView frame(allocated.span());
    const Form form = frame.form();
    std::vector<std::int64_t> offsets(frame.num_row_offsets());
    const auto check = [&](bool is_held, const auto& call) {
      if (is_held) {
        CHECK_NOTHROW(call());
      } else {
        support::check_refused(call, {"frame", "holds"});
      }
    };
    check(form == Form::affine || form == Form::sign_magnitude, [&] { (void)frame.layout(); });
    check(form == Form::affine, [&] { (void)frame.packed(offsets); });
    check(form == Form::sign_magnitude, [&] { (void)frame.sign_magnitude(); });
    check(form == Form::mask, [&] { (void)frame.mask(); });
    check(form == Form::codes, [&] { (void)frame.codes(); });
  }
}

TEST_CASE("FrameView: scratch for offsets of another size is refused and stays as it is") {
  const Allocated with_widths(widths_example());
  for (const std::size_t size : {0U, 3U, 5U}) {
    GuardedBuffer<std::int64_t> offsets(size);
    support::check_refused([&] { (void)FrameView(with_widths.span()).packed(offsets.span()); },
                           {"row_offsets.size()", std::to_string(size), "4"});
    CHECK(offsets.is_untouched());
  }
  const Allocated without(affine_example());
  GuardedBuffer<std::int64_t> offsets(std::size_t{3});
  support::check_refused([&] { (void)FrameView(without.span()).packed(offsets.span()); },
                         {"row_offsets.size()", "3", "0"});
}

TEST_CASE("FrameView: bytes must be aligned to 4, and need no more") {
  for (const Example& example : examples()) {
    const std::size_t size = example.frame.size();
    const std::unique_ptr<std::byte[]> memory(new std::byte[size + 16]);
    for (std::size_t shift = 0; shift < 16; ++shift) {
      CAPTURE(shift);
      const std::span<std::byte> bytes(memory.get() + shift, size);
      std::ranges::copy(example.frame, bytes.begin());
      if (shift % 4 == 0) {
        CHECK_NOTHROW(FrameView{bytes});
      } else {
        support::check_refused([&] { FrameView frame(bytes); }, {"aligned", "4"});
      }
    }
  }
}

TEST_CASE("FrameView: frames that are cut short or longer are refused") {
  for (const Example& example : examples()) {
    CAPTURE(example.name);
    const std::size_t size = example.frame.size();
    for (std::size_t cut = 0; cut < size; ++cut) {
      CAPTURE(cut);
      const auto end = example.frame.begin() + static_cast<std::ptrdiff_t>(cut);
      check_refused(Bytes(example.frame.begin(), end), {"frame", std::to_string(cut)});
    }
    for (const std::size_t surplus : {1U, 2U, 7U, 8U, 16U, 1000U}) {
      Bytes longer = example.frame;
      longer.resize(size + surplus);
      check_refused(longer, {std::to_string(size), std::to_string(size + surplus)});
    }
    // A cut that hides itself: the size is right, and so is the checksum.
    for (std::size_t cut = 80; cut < size; cut += 8) {
      Bytes shorter = example.frame;
      shorter.resize(cut);
      set_number(shorter, 16, 8, cut);
      reseal(shorter);
      const bool is_refused = example.name == "controller" || !is_accepted(shorter);
      CHECK(is_refused);
    }
  }
}

TEST_CASE("FrameView: every single bit that is flipped is found") {
  for (const Example& example : examples()) {
    CAPTURE(example.name);
    std::size_t accepted = 0;
    for (std::size_t bit = 0; bit < 8 * example.frame.size(); ++bit) {
      Bytes damaged = example.frame;
      damaged[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      accepted += is_accepted(damaged) ? 1 : 0;
    }
    CHECK(accepted == 0);
  }
}

TEST_CASE("FrameView: what text transfers and strangers make of a frame is refused") {
  Bytes text = affine_example();
  text.erase(text.begin() + 6);  // the carriage return
  text.push_back(std::byte{0});
  check_refused(text, {"text"});
  text = affine_example();
  text[0] = std::byte{0x09};  // the eighth bit
  check_refused(text, {"text"});
  check_refused(Bytes(4000), {"no", "frame"});
  check_refused({}, {"0", "80"});
}

TEST_CASE("FrameView: other versions are named, whatever else the bytes are") {
  for (const Example& example : examples()) {
    for (const std::uint64_t version : {0U, 2U, 257U, 0xFFFFFFFFU}) {
      Bytes other = example.frame;
      set_number(other, 8, 4, version);
      check_refused(other, {"version", std::to_string(version), "1"});
      other = example.frame;
      if (version == 2) continue;
      set_number(other, 52, 4, version);
      reseal(other);
      check_refused(other, {"version", std::to_string(version), "2"});
    }
  }
}

TEST_CASE("FrameView: padding and unused bits that are not 0 are refused, checksum or not") {
  struct Spot {
    Bytes frame;
    std::size_t byte;
  };
  // Behind widths, words, parameters; above the codes of each plane.
  const std::vector<Spot> spots{{widths_example(), 72 + 3},
                                {widths_example(), 72 + 7},
                                {widths_example(), 72 + 8 + 12},
                                {widths_example(), 72 + 8 + 16 + 12},
                                {widths_example(), 72 + 8 + 15 - 8},
                                {affine_example(), 72 + 3},
                                {affine_example(), 72 + 5},
                                {sign_magnitude_example(), 72 + 2},
                                {sign_magnitude_example(), 72 + 4},
                                {sign_magnitude_example(), 72 + 8 + 1},
                                {sign_magnitude_example(), 72 + 12},
                                {sign_magnitude_example(), 72 + 16 + 4},
                                {mask_example(), 72 + 3},
                                {mask_example(), 72 + 4},
                                {codes_example(), 72 + 2},
                                {codes_example(), 72 + 7}};
  for (const Spot& spot : spots) {
    CAPTURE(spot.byte);
    Bytes damaged = spot.frame;
    REQUIRE(damaged[spot.byte] == std::byte{0});
    damaged[spot.byte] = std::byte{0x80};
    reseal(damaged);
    CHECK(!is_accepted(damaged));
  }
}

TEST_CASE("FrameView: widths by row that lie are refused") {
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::uint64_t bits = 0; bits < 256; ++bits) {
      CAPTURE(row);
      CAPTURE(bits);
      Bytes lying = widths_example();
      const bool is_same = number_at(lying, 72 + row, 1) == bits;
      set_number(lying, 72 + row, 1, bits);
      reseal(lying);
      // All rows take a word at any width. Codes of row r beyond narrower ones are unused bits.
      const bool is_wider =
          (bits == 2 || bits == 4 || bits == 8) && bits > number_at(widths_example(), 72 + row, 1);
      CHECK(is_accepted(lying) == (is_same || is_wider));
    }
  }
}

namespace {

struct Field {
  std::size_t first;
  std::size_t size;
};

// Form, element type, bits, flags, size, rows, row_size, last_row_size, group_size, version, seed,
// offset.
const std::vector<Field> fields{{12, 1}, {13, 1}, {14, 1}, {15, 1}, {16, 8}, {24, 8},
                                {32, 8}, {40, 8}, {48, 4}, {52, 4}, {56, 8}, {64, 8}};

std::vector<std::uint64_t> lies_about(const Field& field, std::uint64_t truth) {
  std::vector<std::uint64_t> lies{truth + 1, truth - 1, truth + 8, truth - 8, truth * 2, truth / 2};
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    for (const std::uint64_t near : {power - 32, power - 1, power, power + 1, power / 3}) {
      lies.push_back(near);
    }
  }
  for (std::uint64_t value = 0; field.size == 1 && value < 256; ++value) lies.push_back(value);
  return lies;
}

// The same, but few enough to combine with others.
std::vector<std::uint64_t> worst_lies_about(const Field& field, std::uint64_t truth) {
  constexpr std::uint64_t one = 1;
  if (field.size == 1) return {0, 1, 2, 3, 4, 5, 8, 255};
  return {0,         1,         2,         5,         32,          64,        one << 31,
          one << 32, one << 46, one << 47, one << 48, one << 61,   one << 62, one << 63,
          truth + 1, truth - 8, truth + 8, 0 - one,   0 - 32 * one};
}

}  // namespace

TEST_CASE("FrameView: headers that lie are refused or consistent, and never read out of bounds") {
  std::uint64_t number = 0;
  std::size_t accepted = 0;
  for (const Example& example : examples()) {
    CAPTURE(example.name);
    // The frame with another number in a field, and a checksum that agrees.
    const auto with = [](Bytes frame, const Field& field, std::uint64_t lie) {
      set_number(frame, field.first, field.size, lie);
      reseal(frame);
      return frame;
    };
    const auto truth = [&](const Field& field) {
      return number_at(example.frame, field.first, field.size);
    };
    for (const Field& first : fields) {
      for (const std::uint64_t lie : lies_about(first, truth(first))) {
        accepted += is_accepted(with(example.frame, first, lie)) ? 1 : 0;
      }
      for (const std::uint64_t lie : worst_lies_about(first, truth(first))) {
        const Bytes lying = with(example.frame, first, lie);
        for (const Field& second : fields) {
          if (second.first <= first.first) continue;
          for (const std::uint64_t other : worst_lies_about(second, truth(second))) {
            if (support::is_left_out(number++)) continue;
            accepted += is_accepted(with(lying, second, other)) ? 1 : 0;
          }
        }
      }
    }
  }
  CHECK(accepted > 0);  // some lies, as about the seed, are another truth
}

TEST_CASE("FrameView: lies are refused with the field and its number") {
  struct Lie {
    Bytes frame;
    Field field;
    std::uint64_t value;
    std::vector<std::string> words;
  };
  const Bytes affine = affine_example();
  const Bytes mask = mask_example();
  const Bytes codes = codes_example();
  const Bytes controller = actpack::AutoPrecision().save();
  const std::uint64_t minus_one = ~std::uint64_t{0};
  const std::vector<Lie> lies{
      {affine, {12, 1}, 0, {"form", "0"}},
      {affine, {12, 1}, 6, {"form", "6"}},
      {affine, {13, 1}, 0, {"element type", "0"}},
      {affine, {13, 1}, 4, {"element type", "4"}},
      {affine, {14, 1}, 0, {"layout.bits", "0"}},
      {affine, {14, 1}, 3, {"layout.bits", "3"}},
      {affine, {15, 1}, 4, {"flags", "4"}},
      {affine, {24, 8}, minus_one, {"layout.rows", "-1"}},
      {affine, {24, 8}, std::uint64_t{1} << 48, {"layout.rows", "layout.row_size", "overflows"}},
      {affine, {24, 8}, 3, {"96", "112"}},
      {affine, {32, 8}, minus_one, {"layout.row_size", "-1"}},
      {affine, {40, 8}, 6, {"layout.last_row_size", "6"}},
      {affine, {48, 4}, 0, {"layout.group_size", "0"}},
      {affine, {48, 4}, 33, {"layout.group_size", "33"}},
      {affine, {48, 4}, minus_one, {"layout.group_size", "-1"}},
      {affine, {56, 8}, 5, {"seed", "5"}},
      {affine, {64, 8}, 6, {"offset", "6"}},
      {sign_magnitude_example(), {15, 1}, 2, {"sign-magnitude", "widths by row"}},
      {mask, {13, 1}, 1, {"mask", "element type", "1"}},
      {mask, {14, 1}, 2, {"bits", "2"}},
      {mask, {15, 1}, 1, {"mask", "is_stochastic", "1"}},
      {mask, {24, 8}, 2, {"mask", "rows", "2"}},
      {mask, {32, 8}, (std::uint64_t{1} << 48) + 1, {"numel", "281474976710657"}},
      {mask, {40, 8}, 1, {"mask", "last_row_size", "1"}},
      {mask, {48, 4}, 32, {"mask", "group_size", "32"}},
      {codes, {14, 1}, 16, {"bits", "16"}},
      {controller, {14, 1}, 1, {"AutoPrecision", "bits", "1"}},
      {controller, {24, 8}, 1, {"AutoPrecision", "rows", "1"}},
      {controller, {32, 8}, 1, {"AutoPrecision", "row_size", "1"}},
  };
  for (const Lie& lie : lies) {
    CAPTURE(lie.field.first);
    CAPTURE(lie.value);
    Bytes lying = lie.frame;
    set_number(lying, lie.field.first, lie.field.size, lie.value);
    reseal(lying);
    check_refused(lying, lie.words);
  }
  Bytes lying = affine;
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{72}, std::uint64_t{81},
                                   std::uint64_t{112}, std::uint64_t{1} << 62, minus_one - 7}) {
    set_number(lying, 16, 8, size);
    reseal(lying);
    check_refused(lying, {"frame", std::to_string(static_cast<std::int64_t>(size))});
  }
}

TEST_CASE("frame_size: the header alone tells the size of a frame in a file of several") {
  Bytes file;
  for (const Example& example : examples()) {
    file.insert(file.end(), example.frame.begin(), example.frame.end());
  }
  std::size_t first = 0;
  for (const Example& example : examples()) {
    const Allocated header(
        std::span<const std::byte>(file).subspan(first, actpack::frame_header_size));
    CHECK(actpack::frame_size(header.span()) == example.frame.size());
    CHECK(actpack::frame_size(std::span(file).subspan(first)) == example.frame.size());
    first += example.frame.size();
  }
  for (std::size_t size = 0; size < actpack::frame_header_size; ++size) {
    const Allocated header(std::span<const std::byte>(file).first(size));
    support::check_refused([&] { (void)actpack::frame_size(header.span()); },
                           {std::to_string(size), "72"});
  }
  for (const std::size_t byte : {0U, 7U, 8U, 23U}) {  // magic, version, sign of the size
    Bytes header = affine_example();
    header[byte] ^= std::byte{0x80};
    support::check_refused([&] { (void)actpack::frame_size(header); }, {"header"});
  }
}
