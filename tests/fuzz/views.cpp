// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: whatever a view, a range or a shape says, a verb either throws std::invalid_argument, and
// has written nothing, or stays within arrays of exactly the sizes that its documentation gives.

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <actpack/batch_norm.hpp>
#include <actpack/bit_pack.hpp>
#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_keeping.hpp>
#include <actpack/sign_magnitude.hpp>
#include <actpack/variance.hpp>

#include "fuzz.hpp"
#include "tensors.hpp"

namespace {

using namespace actpack;
using namespace fuzz;

constexpr std::int64_t most_words = 1 << 10;  // of any array here

// Calls call(), and checks that `array` is as before if it throws.
template <class T, class Call>
void check_call(const Fenced<T>& array, const Call& call) {
  const std::vector<std::uint8_t> before(array.bytes().begin(), array.bytes().end());
  if (refuses(call))
    check(std::ranges::equal(before, array.bytes()), "nothing is written before a refusal");
}

Layout hostile_layout(Input& input) {
  Layout layout = random_layout(input);
  switch (input.between(0, 11)) {
    case 0: layout.rows = hostile_integer(input); break;
    case 1: layout.row_size = hostile_integer(input); break;
    case 2: layout.last_row_size = hostile_integer(input); break;
    case 3: layout.group_size = static_cast<std::int32_t>(hostile_integer(input)); break;
    case 4: layout.bits = static_cast<std::int32_t>(hostile_integer(input)); break;
    default: break;
  }
  return layout;
}

// Whether memory for all arrays of the layout is there to be had; if it is valid.
bool is_small(const Layout& layout) {
  return !refuses([&] { layout.validate(); }) && layout.num_words() <= most_words &&
         layout.rows <= most_words;
}

std::size_t size_of(std::int64_t numel) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(numel, 0, most_words));
}

// ---- Arrays of widths and offsets ---------------------------------------------------------------

template <class T>
void affine(Input& input) {
  const Layout layout = hostile_layout(input);
  if (!is_small(layout)) {  // no arrays: refused, unless none are needed
    const PackedView view{layout, nullptr, nullptr};
    Fenced<T> x(input.between<std::size_t>(0, 40));
    const std::int64_t first = hostile_integer(input);
    check_call(x, [&] { dequantize(view, first, x.span()); });
    check_call(x, [&] { quantize(x.span(), view, Rounding::nearest(), first); });
    return;
  }
  const std::int64_t rows = layout.rows;
  Fenced<std::uint8_t> row_bits(rows);
  Fenced<std::int64_t> offsets(rows + 1);
  std::int64_t total = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    row_bits.data()[row] = static_cast<std::uint8_t>(std::min(input.pick(widths), layout.bits));
    offsets.data()[row] = total;
    total += words_for(layout.size_of_row(row), row_bits.data()[row]);
  }
  offsets.data()[rows] = total;
  // Some of it is damaged, or all of it moved.
  const auto move = [](std::int64_t& offset, std::int64_t by) {
    offset = static_cast<std::int64_t>(static_cast<std::uint64_t>(offset) +
                                       static_cast<std::uint64_t>(by));
  };
  for (int damages = input.between(0, 3); damages > 0 && rows > 0; --damages) {
    const std::int64_t at = input.between<std::int64_t>(0, rows);
    switch (input.between(0, 4)) {
      case 0: row_bits.data()[std::min(at, rows - 1)] = input.number<std::uint8_t>(); break;
      case 1: offsets.data()[at] = hostile_integer(input); break;
      case 2: move(offsets.data()[at], input.between(-3, 3)); break;
      case 3: {
        const std::int64_t by = input.flag() ? hostile_integer(input) : input.between(-9, 9);
        for (std::int64_t& offset : offsets.span()) move(offset, by);
        break;
      }
      default: std::swap(offsets.data()[0], offsets.data()[at]);
    }
  }
  const bool has_widths = input.flag();
  const bool has_row_bits = has_widths && !input.one_in(16);
  const bool has_offsets = has_widths && !input.one_in(16);
  const std::int64_t most = layout.num_words();
  Fenced<std::uint32_t> words(has_offsets ? std::clamp<std::int64_t>(offsets.data()[rows], 0, most)
                                          : most);
  Fenced<GroupParams> params(layout.num_groups());
  const PackedView view{layout, words.data(), params.data(),
                        has_row_bits ? row_bits.data() : nullptr,
                        has_offsets ? offsets.data() : nullptr};
  for (std::uint32_t& word : words.span()) word = input.number<std::uint32_t>();
  for (GroupParams& group : params.span())
    group = std::bit_cast<GroupParams>(input.number<std::uint32_t>());
  const Rounding rounding = random_rounding(input);
  const std::int64_t first =
      input.flag() ? hostile_integer(input) : input.between<std::int64_t>(0, layout.numel());
  Fenced<T> x(size_of(input.flag()
                          ? layout.numel() - std::clamp<std::int64_t>(first, 0, layout.numel())
                          : hostile_integer(input)));
  check_call(x, [&] { dequantize(view, first, x.span(), random_decoding(input, rounding)); });
  check_call(x, [&] { dequantize(view, x.span()); });
  const std::int64_t first_row =
      input.flag() ? hostile_integer(input) : input.between<std::int64_t>(0, rows);
  Fenced<T> chunk(
      size_of(input.flag() ? layout.numel() : input.between<std::int64_t>(0, 3) * layout.row_size));
  check_call(words, [&] { quantize(chunk.span(), view, rounding, first_row); });
  check_call(params, [&] { quantize(chunk.span(), view, rounding); });
}

template <class T>
void sign_magnitude(Input& input) {
  const Layout layout = hostile_layout(input);
  const bool has_arrays = is_small(layout);
  const std::int64_t numel = has_arrays ? layout.numel() : 0;
  Fenced<std::uint32_t> signs(has_arrays ? layout.with_bits(1).num_words() : 0);
  Fenced<std::uint32_t> magnitudes(has_arrays ? layout.num_words() : 0);
  Fenced<SignMagnitudeParams> params(has_arrays ? layout.num_groups() : 0);
  for (std::uint32_t& word : signs.span()) word = input.number<std::uint32_t>();
  for (SignMagnitudeParams& group : params.span()) {
    group = std::bit_cast<SignMagnitudeParams>(input.number<std::uint32_t>());
  }
  const SignMagnitudeView view =
      has_arrays && !input.one_in(16)
          ? SignMagnitudeView{layout, signs.data(), magnitudes.data(), params.data()}
          : SignMagnitudeView{layout, nullptr, nullptr, nullptr};
  const std::int64_t first =
      input.flag() ? hostile_integer(input) : input.between<std::int64_t>(0, numel);
  Fenced<T> y(size_of(input.flag() ? numel - std::clamp<std::int64_t>(first, 0, numel)
                                   : hostile_integer(input)));
  const Rounding rounding = random_rounding(input);
  const Decoding decoding = random_decoding(input, rounding);
  check_call(y, [&] { decode(view, first, y.span(), decoding); });
  check_call(y, [&] { decode_relu(view, first, y.span(), decoding); });
  check_call(y, [&] { relu_backward(y.view(), view, first, y.span()); });
  check_call(y, [&] { decode_keeping_signs(view, y.span()); });
  check_call(magnitudes, [&] { encode(y.span(), view, rounding, first); });
  check_call(signs, [&] { encode(y.span(), view, rounding); });
}

// ---- Masks and codes ----------------------------------------------------------------------------

template <class T>
void masks(Input& input) {
  Fenced<T> x(input.between<std::size_t>(0, 200));
  Fenced<T> y(input.one_in(4) ? input.between<std::size_t>(0, 200) : x.span().size());
  Fenced<std::uint32_t> mask(input.one_in(4) ? input.between<std::size_t>(0, 9)
                                             : (x.span().size() + 31) / 32);
  const double p = hostile_double(input);
  const std::int64_t first = hostile_integer(input);
  const Rounding rounding = random_rounding(input);
  check_call(y, [&] { relu(x.span(), y.span(), mask.span()); });
  check_call(y, [&] { relu_backward(x.span(), mask.view(), y.span()); });
  check_call(y, [&] { dropout(x.span(), y.span(), mask.span(), p, rounding, first); });
  check_call(y, [&] { dropout_backward(x.span(), mask.view(), y.span(), p); });
  check_call(mask,
             [&] { make_mask(x.span(), mask.span(), [](T value) { return float{value} > 0; }); });
}

void codes(Input& input) {
  const int bits = input.one_in(4) ? static_cast<int>(hostile_integer(input)) : input.pick(widths);
  Fenced<std::uint32_t> words(input.between<std::size_t>(0, 40));
  Fenced<std::uint8_t> bytes(input.between<std::size_t>(0, 300));
  for (std::uint8_t& byte : bytes.span()) byte = input.number<std::uint8_t>();
  check_call(words, [&] { pack(bytes.view(), bits, words.span()); });
  check_call(bytes, [&] { unpack(words.view(), bits, bytes.span()); });
  check_call(bytes, [&] { unpack(words.view(), bits, hostile_integer(input), bytes.span()); });
}

// ---- Shapes -------------------------------------------------------------------------------------

void owners(Input& input) {
  const Layout layout = hostile_layout(input);
  Fenced<std::uint8_t> row_bits(size_of(input.one_in(8) ? hostile_integer(input) : layout.rows));
  for (std::uint8_t& bits : row_bits.span()) {
    bits = input.one_in(64)
               ? input.number<std::uint8_t>()
               : static_cast<std::uint8_t>(std::min(input.pick(widths), std::max(layout.bits, 1)));
  }
  Fenced<std::int64_t> offsets(row_bits.span().size() + 1);
  check_call(offsets, [&] { row_offsets(layout, row_bits.view(), offsets.span()); });
  if (!is_small(layout) && !refuses([&] { layout.validate(); })) return;
  refuses([&] {
    PackedBuffer buffer(layout);
    check(buffer.layout().num_words() >= 0 && buffer.size_bytes() < 100 * most_words,
          "sizes are right");
  });
  refuses([&] {
    PackedBuffer buffer(layout, row_bits.view());
    std::vector<float> x(static_cast<std::size_t>(layout.numel()), 1.0F);
    quantize(x, buffer.view(), Rounding::nearest());
    dequantize(std::as_const(buffer).view(), x);
    check(std::ranges::all_of(x, [](float value) { return value == 1; }), "a constant is kept");
  });
  refuses([&] { SignMagnitudeBuffer buffer(layout); });
}

void convolutions(Input& input) {
  std::vector<ConvAxis> axes(input.between<std::size_t>(0, 3));
  std::int64_t inputs = 1, outputs = 1;
  for (ConvAxis& axis : axes) {
    const auto number = [&] {
      return input.one_in(16) ? hostile_integer(input) : input.between<std::int64_t>(1, 6);
    };
    // The number of taps is the time it takes.
    axis = {number(), number(),    input.between<std::int64_t>(0, 5), number(), number(),
            number(), input.flag()};
    inputs = std::clamp<std::int64_t>(axis.input, 0, most_words) * inputs % most_words;
    outputs = std::clamp<std::int64_t>(axis.output, 0, most_words) * outputs % most_words;
  }
  const std::int64_t groups = input.one_in(8) ? hostile_integer(input) : 1;
  double gain = 0;
  const bool is_refused = refuses([&] { gain = conv_gain(1, axes, groups); });
  check(is_refused || gain >= 0, "a gain is not negative");
  const Fenced<double> gradients(outputs);
  Fenced<double> gains(inputs);
  check_call(gains, [&] { conv_gain_map(gradients.span(), gains.span(), axes); });
}

template <class T>
void noise(Input& input) {
  const auto values = random_values<T>(input, input.between<std::size_t>(0, 300));
  const Fenced<T> row = Fenced<T>::copy_of(values);
  const auto group_size = static_cast<std::int32_t>(input.flag() ? hostile_integer(input) : 64);
  const auto check_noise = [](const RoundingNoise& noise) {
    for (const auto& sums : {noise.plain, noise.subtractive}) {
      for (const double sum : sums) check(!(sum < 0), "noise is not negative");
    }
  };
  refuses([&] { check_noise(measure_rounding_noise(row.span(), group_size)); });
  refuses([&] { check_noise(measure_sign_magnitude_noise(row.span(), group_size).whole); });
}

template <class T>
void normalise(Input& input) {
  batch_norm::Channels channels{input.between<std::int64_t>(1, 5),
                                input.between<std::int64_t>(1, 20)};
  const std::int64_t count = channels.count;
  if (input.one_in(8)) channels.inner = hostile_integer(input);
  if (input.one_in(8)) channels.count = -input.between<std::int64_t>(0, 3);
  Fenced<float> statistics(count);
  Fenced<batch_norm::Channel> by_channel(count);
  Fenced<batch_norm::InputGradient> input_gradients(count);
  const batch_norm::Operation operation{
      .channels = channels,
      .saved = input.flag() ? batch_norm::SavedValue::input : batch_norm::SavedValue::output,
      .mean = statistics.data(),
      .variance = statistics.data(),
      .by_channel = by_channel.data()};
  Fenced<T> x(input.between<std::size_t>(0, 300));
  Fenced<T> y(input.one_in(4) ? input.between<std::size_t>(0, 300) : x.span().size());
  Layout layout;
  layout.row_size =
      input.one_in(4) ? input.between(0, 300) : static_cast<std::int64_t>(x.span().size());
  Fenced<std::uint32_t> words(layout.num_words());
  Fenced<GroupParams> params(layout.num_groups());
  const PackedView view{layout, words.data(), params.data()};
  // Channels are counted from 0 wherever the elements start, so any `first` is in range.
  const std::int64_t first = input.one_in(4) ? hostile_integer(input) : 0;
  refuses([&] { batch_norm::forward(operation, x.view(), view, Rounding::nearest(), y.span()); });
  const batch_norm::SavedCodes saved{view, Decoding::plain()};
  Fenced<double> sums(input.one_in(4) ? input.between<std::size_t>(0, 12)
                                      : 2 * static_cast<std::size_t>(count));
  check_call(sums, [&] { add_gradient_sums(x.view(), first, saved, channels, sums.span()); });
  check_call(y, [&] {
    input_gradient(x.view(), first, saved, channels, input_gradients.data(), y.span());
  });
}

template <class T>
void run_views(Input& input) {
  switch (input.between(0, 9)) {
    case 0:
    case 1:
    case 2: return affine<T>(input);
    case 3: return sign_magnitude<T>(input);
    case 4: return masks<T>(input);
    case 5: return codes(input);
    case 6: return owners(input);
    case 7: return convolutions(input);
    case 8: return noise<T>(input);
    default: return normalise<T>(input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  input.flag() ? run_views<float>(input) : run_views<bfloat16>(input);
  return 0;
}
