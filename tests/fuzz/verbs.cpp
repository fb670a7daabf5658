// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: a host verb writes the same bits with every instruction set of this processor, whole or
// in chunks, in any order of its pieces, at any address; and on small tensors those of the
// reference.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <actpack/batch_norm.hpp>
#include <actpack/bit_pack.hpp>
#include <actpack/instruction_set.hpp>
#include <actpack/mask.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_keeping.hpp>
#include <actpack/sign_magnitude.hpp>

#include "fuzz.hpp"
#include "support/instruction_sets.hpp"
#include "support/reference.hpp"
#include "tensors.hpp"

namespace {

using namespace actpack;
using namespace fuzz;
using support::Generator;

// ---- Ways to do the same ------------------------------------------------------------------------

// A loop whose pieces come in a random order.
struct Shuffled {
  std::uint64_t seed;

  template <class Body>
  void operator()(std::int64_t count, const Body& body) const {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    Generator generator(seed);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[generator.below(static_cast<std::uint32_t>(left))]);
    }
    for (const std::int64_t piece : order) body(piece);
  }
};

struct Way {
  InstructionSet set;
  bool is_cut;       // into chunks
  bool is_shuffled;  // the pieces of each
  std::uint64_t seed;

  std::string name() const {
    return std::string(support::name_of(set)) + (is_cut ? ", in chunks" : "") +
           (is_shuffled ? ", in another order" : "");
  }
  // A buffer of this way: where it lies and what was in it before differ from way to way.
  template <class T>
  Fenced<T> buffer(std::int64_t size) const {
    return Fenced<T>(size, seed % 17, static_cast<std::uint8_t>(seed >> 8));
  }
  template <class T>
  Fenced<T> copy_of(const std::vector<T>& values) const {
    return Fenced<T>::copy_of(values, seed / 17 % 17);
  }
  // Calls call(loop).
  template <class Call>
  void with_loop(const Call& call) const {
    is_shuffled ? call(Shuffled{seed}) : call(Serial{});
  }
  // Calls call(first, count, loop) for chunks that together are [0, size), each but the last a
  // multiple of `unit`.
  template <class Call>
  void for_each_chunk(std::int64_t size, std::int64_t unit, const Call& call) const {
    Generator generator(seed);
    std::int64_t first = 0;
    do {
      std::int64_t count = size - first;
      if (is_cut && count > unit)
        count =
            std::min(count, unit * (1 + generator.below(static_cast<std::uint32_t>(count / unit))));
      with_loop([&](auto loop) { call(first, count, loop); });
      first += count;
    } while (first < size);
  }
};

using Bytes = std::vector<std::uint8_t>;

template <class T>
void append(Bytes& bytes, const Fenced<T>& buffer) {
  bytes.insert(bytes.end(), buffer.bytes().begin(), buffer.bytes().end());
}

// The same, a NaN being a NaN: which one, instruction sets may differ in where the packed
// parameters are none that an encoder writes.
template <class T>
void append_values(Bytes& bytes, Fenced<T>& buffer) {
  for (T& value : buffer.span()) {
    if (std::isnan(float{value})) value = T(std::numeric_limits<float>::quiet_NaN());
  }
  append(bytes, buffer);
}

// Calls run(way), which returns what was written, for each way, and compares with the first.
template <class Run>
Bytes check_same(const char* verb, Generator& generator, const Run& run) {
  Bytes expected;
  bool is_first = true;
  for (const InstructionSet set : support::all_instruction_sets) {
    if (!support::is_available(set)) continue;
    use_instruction_set(set);
    for (const auto& [is_cut, is_shuffled] :
         {std::pair{false, false}, {false, true}, {true, true}}) {
      const Way way{set, is_cut, is_shuffled, generator.bits()};
      Bytes written = run(way);
      if (is_first) expected = std::move(written);
      is_first = false;
      if (&expected == &written || written.empty() || written == expected) continue;
      const auto [got, want] = std::ranges::mismatch(written, expected);
      check(false, verb, " writes the same with ", way.name(), ", but byte ",
            want - expected.begin(), " of ", expected.size(), " differs");
    }
  }
  return expected;
}

// ---- The reference ------------------------------------------------------------------------------

constexpr std::int64_t most_for_reference = 700;  // elements: it is slow

reference::Shape shape_of(const Layout& layout, const std::vector<std::uint8_t>& row_bits) {
  return {layout.rows, layout.row_size,      layout.group_size,
          layout.bits, layout.last_row_size, row_bits};
}
reference::Rounding reference_of(const Rounding& rounding) {
  return {rounding.is_stochastic, rounding.seed, rounding.offset};
}
reference::Decoding reference_of(const Decoding& decoding) {
  return {decoding.is_subtractive(), reference_of(decoding.rounding), decoding.alpha};
}
template <class T>
std::vector<float> floats(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}
template <class T>
void append(Bytes& bytes, const std::vector<T>& values) {
  const auto* const first = reinterpret_cast<const std::uint8_t*>(values.data());
  bytes.insert(bytes.end(), first, first + values.size() * sizeof(T));
}
// As decoding stores them.
template <class T>
void append_stored(Bytes& bytes, const std::vector<float>& values) {
  for (const float value : values) {
    T stored(value);
    if constexpr (!std::is_same_v<T, float>) {
      constexpr reference::Format format =
          std::is_same_v<T, bfloat16> ? reference::bfloat16 : reference::float16;
      if (!std::isnan(value))
        stored = T::from_bits(reference::round_saturating(format, double{value}));
    }
    if (std::isnan(value)) stored = T(std::numeric_limits<float>::quiet_NaN());
    append(bytes, std::vector<T>{stored});
  }
}
void check_reference(const char* verb, const Bytes& got, const Bytes& want) {
  check(got.size() == want.size(), verb, " writes ", want.size(), " bytes");
  const auto at = std::ranges::mismatch(got, want);
  check(at.in1 == got.end(), verb, " agrees with the reference, but for byte ",
        at.in1 - got.begin(), " of ", got.size());
}

// ---- Affine -------------------------------------------------------------------------------------

// Words and parameters in memory of their own, wherever a way wants them.
struct Affine {
  Affine(const Layout& layout_, const std::vector<std::uint8_t>& row_bits_)
      : layout(layout_), row_bits(row_bits_), num_words(layout.num_words()) {
    if (row_bits.empty()) return;
    offsets.resize(row_bits.size() + 1);
    row_offsets(layout, row_bits, offsets);
    num_words = offsets.back();
  }

  PackedView view(std::uint32_t* words, GroupParams* params) const {
    if (row_bits.empty()) return {layout, words, params, nullptr, nullptr};
    return {layout, words, params, row_bits.data(), offsets.data()};
  }

  Layout layout;
  std::vector<std::uint8_t> row_bits;
  std::vector<std::int64_t> offsets;
  std::int64_t num_words;
};

template <class T>
Bytes check_dequantize(const Affine& shape, const std::vector<std::uint32_t>& words,
                       const std::vector<GroupParams>& params, const Decoding& decoding,
                       Generator& generator) {
  const std::int64_t numel = shape.layout.numel();
  return check_same("dequantize", generator, [&](const Way& way) {
    Fenced<std::uint32_t> placed_words = way.copy_of(words);
    Fenced<GroupParams> placed_params = way.copy_of(params);
    const ConstPackedView view = shape.view(placed_words.data(), placed_params.data());
    Bytes written;
    way.for_each_chunk(numel, 1, [&](std::int64_t first, std::int64_t count, auto loop) {
      Fenced<T> x = way.buffer<T>(count);
      dequantize(view, first, x.span(), decoding, loop);
      append_values(written, x);
    });
    return written;
  });
}

template <class T>
void affine(Input& input) {
  const Layout layout = random_layout(input);
  const Affine shape(layout, random_row_bits(input, layout));
  const Rounding rounding = random_rounding(input);
  const Decoding decoding = random_decoding(input, rounding);
  Generator generator = input.generator();
  const std::int64_t numel = layout.numel();
  const std::vector<T> x = random_values<T>(input, static_cast<std::size_t>(numel));
  std::vector<std::uint32_t> words;
  std::vector<GroupParams> params;
  const Bytes packed = check_same("quantize", generator, [&](const Way& way) {
    const Fenced<T> from = way.copy_of(x);
    Fenced<std::uint32_t> to_words = way.buffer<std::uint32_t>(shape.num_words);
    Fenced<GroupParams> to_params = way.buffer<GroupParams>(layout.num_groups());
    const PackedView view = shape.view(to_words.data(), to_params.data());
    if (layout.row_size == 0) {
      way.with_loop([&](auto loop) { quantize(from.span(), view, rounding, loop); });
    } else {
      way.for_each_chunk(numel, layout.row_size,
                         [&](std::int64_t first, std::int64_t count, auto loop) {
                           quantize(from.span().subspan(static_cast<std::size_t>(first),
                                                        static_cast<std::size_t>(count)),
                                    view, rounding, first / layout.row_size, loop);
                         });
    }
    Bytes written;
    append(written, to_words);
    append(written, to_params);
    words = to_words.values();
    params = to_params.values();
    return written;
  });
  const Bytes values = check_dequantize<T>(shape, words, params, decoding, generator);
  if (numel <= most_for_reference) {
    const reference::Shape reference_shape = shape_of(layout, shape.row_bits);
    const reference::Packed want =
        reference::quantize(floats(x), reference_shape, reference_of(rounding));
    Bytes want_packed, want_values;
    append(want_packed, want.words);
    append(want_packed, want.params);
    check_reference("quantize", packed, want_packed);
    append_stored<T>(want_values,
                     reference::dequantize(want, reference_shape, reference_of(decoding)));
    check_reference("dequantize", values, want_values);
  }
  // Any bits whatever decode to something, and to the same.
  for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(generator.bits());
  for (GroupParams& group : params) {
    group = {from_bits<bfloat16>(static_cast<std::uint32_t>(generator.bits())),
             from_bits<bfloat16>(static_cast<std::uint32_t>(generator.bits()))};
  }
  check_dequantize<T>(shape, words, params, decoding, generator);
}

// ---- Sign and magnitude -------------------------------------------------------------------------

struct Planes {
  std::vector<std::uint32_t> signs, magnitudes;
  std::vector<SignMagnitudeParams> params;
};

template <class T>
struct SignMagnitudeValues {
  Bytes whole, relu, gradient;
};

template <class T>
SignMagnitudeValues<T> check_decode(const Layout& layout, const Planes& planes,
                                    const Decoding& decoding, const std::vector<T>& dy,
                                    Generator& generator, bool is_encoded) {
  const auto decoded = [&](const char* verb, const auto& decode_chunk) {
    return check_same(verb, generator, [&](const Way& way) {
      Fenced<std::uint32_t> signs = way.copy_of(planes.signs);
      Fenced<std::uint32_t> magnitudes = way.copy_of(planes.magnitudes);
      Fenced<SignMagnitudeParams> params = way.copy_of(planes.params);
      const ConstSignMagnitudeView view{layout, signs.data(), magnitudes.data(), params.data()};
      Bytes written;
      way.for_each_chunk(layout.numel(), 1, [&](std::int64_t first, std::int64_t count, auto loop) {
        Fenced<T> y = way.buffer<T>(count);
        decode_chunk(view, first, y, loop);
        append_values(written, y);
      });
      return written;
    });
  };
  SignMagnitudeValues<T> values;
  values.whole = decoded("decode", [&](auto view, std::int64_t first, Fenced<T>& y, auto loop) {
    decode(view, first, y.span(), decoding, loop);
  });
  values.relu = decoded("decode_relu", [&](auto view, std::int64_t first, Fenced<T>& y, auto loop) {
    decode_relu(view, first, y.span(), decoding, loop);
  });
  values.gradient =
      decoded("relu_backward", [&](auto view, std::int64_t first, Fenced<T>& y, auto loop) {
        const auto from = std::span(dy).subspan(static_cast<std::size_t>(first), y.span().size());
        if (first % 2 == 0) {
          relu_backward(from, view, first, y.span(), loop);
        } else {  // in place
          std::ranges::copy(from, y.data());
          relu_backward(y.view(), view, first, y.span(), loop);
        }
      });
  check_same("decode_keeping_signs", generator, [&](const Way& way) {
    Fenced<T> y = way.buffer<T>(layout.numel());
    const ConstSignMagnitudeView view{layout, planes.signs.data(), planes.magnitudes.data(),
                                      planes.params.data()};
    way.with_loop([&](auto loop) { decode_keeping_signs(view, y.span(), loop); });
    for (std::int64_t e = 0; is_encoded && e < layout.numel(); ++e) {
      const std::int64_t row = e / layout.row_size;
      const std::uint32_t* const signs =
          view.sign_words + row * layout.with_bits(1).words_per_row();
      const bool is_positive = extract(signs, e - row * layout.row_size, 1) == 1;
      const float value{y.data()[e]};
      check(std::isnan(value) || is_positive == (value > 0), "decode_keeping_signs keeps signs");
    }
    Bytes written;
    append_values(written, y);
    return written;
  });
  return values;
}

template <class T>
void sign_magnitude(Input& input) {
  const Layout layout = random_layout(input);
  const Rounding rounding = random_rounding(input);
  const Decoding decoding = random_decoding(input, rounding);
  Generator generator = input.generator();
  const std::int64_t numel = layout.numel();
  const std::vector<T> y = random_values<T>(input, static_cast<std::size_t>(numel));
  const std::vector<T> dy = random_values<T>(input, static_cast<std::size_t>(numel));
  Planes planes;
  const Bytes packed = check_same("encode", generator, [&](const Way& way) {
    const Fenced<T> from = way.copy_of(y);
    Fenced<std::uint32_t> signs = way.buffer<std::uint32_t>(layout.with_bits(1).num_words());
    Fenced<std::uint32_t> magnitudes = way.buffer<std::uint32_t>(layout.num_words());
    Fenced<SignMagnitudeParams> params = way.buffer<SignMagnitudeParams>(layout.num_groups());
    const SignMagnitudeView view{layout, signs.data(), magnitudes.data(), params.data()};
    if (layout.row_size == 0) {
      way.with_loop([&](auto loop) { encode(from.span(), view, rounding, loop); });
    } else {
      way.for_each_chunk(numel, layout.row_size,
                         [&](std::int64_t first, std::int64_t count, auto loop) {
                           encode(from.span().subspan(static_cast<std::size_t>(first),
                                                      static_cast<std::size_t>(count)),
                                  view, rounding, first / layout.row_size, loop);
                         });
    }
    Bytes written;
    append(written, signs);
    append(written, magnitudes);
    append(written, params);
    planes = {signs.values(), magnitudes.values(), params.values()};
    return written;
  });
  const SignMagnitudeValues<T> values = check_decode(layout, planes, decoding, dy, generator, true);
  if (numel <= most_for_reference) {
    const reference::Shape shape = shape_of(layout, {});
    const auto want = reference::encode_sign_magnitude(floats(y), shape, reference_of(rounding));
    Bytes want_packed, whole, relu, gradient;
    append(want_packed, want.sign_words);
    append(want_packed, want.magnitude_words);
    append(want_packed, want.params);
    check_reference("encode", packed, want_packed);
    const reference::Decoding how = reference_of(decoding);
    append_stored<T>(whole, decode_sign_magnitude(want, shape, reference::Consumer::whole, how));
    append_stored<T>(relu, decode_sign_magnitude(want, shape, reference::Consumer::relu, how));
    check_reference("decode", values.whole, whole);
    check_reference("decode_relu", values.relu, relu);
    if constexpr (std::is_same_v<T, float>) {
      append_stored<T>(gradient, reference::relu_backward(dy, want, shape));
      check_reference("relu_backward", values.gradient, gradient);
    }
  }
  for (auto* plane : {&planes.signs, &planes.magnitudes}) {
    for (std::uint32_t& word : *plane) word = static_cast<std::uint32_t>(generator.bits());
  }
  for (SignMagnitudeParams& group : planes.params) {
    group = {from_bits<bfloat16>(static_cast<std::uint32_t>(generator.bits())),
             from_bits<bfloat16>(static_cast<std::uint32_t>(generator.bits()))};
  }
  check_decode(layout, planes, decoding, dy, generator, false);
}

// ---- Masks --------------------------------------------------------------------------------------

template <class T>
void masks(Input& input) {
  constexpr double probabilities[] = {0.5, 0.0, 0.1, 0x1p-40, 0.999};
  const std::int64_t numel = input.one_in(64) ? input.between(8000, 18'000) : input.between(0, 700);
  const double p = input.flag() ? input.pick(probabilities) : input.between(0, 65'000) / 65'536.0;
  const auto seed = input.number<std::uint64_t>();
  const Rounding rounding = Rounding::stochastic(seed, input.number<std::uint64_t>());
  // No tensor has more than 2^48 elements.
  const std::int64_t start =
      32 * input.between<std::int64_t>(0, input.flag() ? 1000 : (std::int64_t{1} << 43) - 1000);
  Generator generator = input.generator();
  const std::vector<T> x = random_values<T>(input, static_cast<std::size_t>(numel));
  std::vector<std::uint32_t> mask;
  // Runs call(x, y, mask, first, loop) in chunks, in place or not.
  const auto written_by = [&](const char* verb, const auto& call) {
    return check_same(verb, generator, [&](const Way& way) {
      Fenced<T> from = way.copy_of(x);
      Fenced<T> to = way.buffer<T>(numel);
      Fenced<std::uint32_t> words = way.buffer<std::uint32_t>(words_for(numel, 1));
      if (!mask.empty()) std::ranges::copy(mask, words.data());
      const bool is_in_place = way.seed % 2 == 1;
      way.for_each_chunk(numel, 32, [&](std::int64_t first, std::int64_t count, auto loop) {
        const auto chunk = [&](auto span) {
          return span.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
        };
        call(std::span<const T>(chunk(from.span())), chunk(is_in_place ? from.span() : to.span()),
             words.span().subspan(static_cast<std::size_t>(first / 32),
                                  static_cast<std::size_t>(words_for(count, 1))),
             first, loop);
      });
      Bytes written;
      append(written, is_in_place ? from : to);
      append(written, words);
      return written;
    });
  };
  const auto kept = [&](const Bytes& bytes) {
    mask.resize(static_cast<std::size_t>(words_for(numel, 1)));
    if (!mask.empty())
      std::memcpy(mask.data(), bytes.data() + bytes.size() - 4 * mask.size(), 4 * mask.size());
    if (numel % 32 != 0) check(mask.back() >> numel % 32 == 0, "unused bits of a mask are 0");
  };
  kept(written_by("relu", [&](auto from, auto to, auto words, std::int64_t, auto loop) {
    relu(from, to, words, loop);
  }));
  for (std::int64_t e = 0; e < numel; ++e) {
    check((extract(mask.data(), e, 1) == 1) == (float{x[static_cast<std::size_t>(e)]} > 0),
          "relu keeps what is above 0");
  }
  written_by("relu_backward", [&](auto from, auto to, auto words, std::int64_t, auto loop) {
    relu_backward(from, words, to, loop);
  });
  kept(written_by("dropout", [&](auto from, auto to, auto words, std::int64_t first, auto loop) {
    dropout(from, to, words, p, rounding, start + first, loop);
  }));
  written_by("dropout_backward", [&](auto from, auto to, auto words, std::int64_t, auto loop) {
    dropout_backward(from, words, to, p, loop);
  });
  written_by("make_mask", [&](auto from, auto to, auto words, std::int64_t, auto loop) {
    make_mask(
        from, words, [](T value) { return float{value} > 0.25F; }, loop);
    std::ranges::fill(to, T(0.0F));
  });
}

// ---- Small integers -----------------------------------------------------------------------------

void pack_codes(Input& input) {
  const int bits = input.pick(widths);
  const std::int64_t numel = input.one_in(64) ? input.between(8000, 18'000) : input.between(0, 700);
  Generator generator = input.generator();
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(numel));
  for (std::uint8_t& code : codes)
    code = static_cast<std::uint8_t>(generator.bits() & max_code(bits));
  std::vector<std::uint32_t> words;
  check_same("pack", generator, [&](const Way& way) {
    const Fenced<std::uint8_t> from = way.copy_of(codes);
    Fenced<std::uint32_t> to = way.buffer<std::uint32_t>(words_for(numel, bits));
    way.with_loop([&](auto loop) { pack(from.span(), bits, to.span(), loop); });
    words = to.values();
    Bytes written;
    append(written, to);
    return written;
  });
  const Bytes unpacked = check_same("unpack", generator, [&](const Way& way) {
    const Fenced<std::uint32_t> from = way.copy_of(words);
    Bytes written;
    way.for_each_chunk(numel, 1, [&](std::int64_t first, std::int64_t count, auto loop) {
      Fenced<std::uint8_t> to = way.buffer<std::uint8_t>(count);
      unpack(from.span(), bits, first, to.span(), loop);
      append(written, to);
    });
    return written;
  });
  check(unpacked == codes, "unpack gives what pack was given");
  if (codes.empty() || bits == 8) return;
  codes[generator.below(static_cast<std::uint32_t>(numel))] |= static_cast<std::uint8_t>(1 << bits);
  const std::vector<std::uint32_t> before = words;
  check(refuses([&] { pack(codes, bits, words); }) && words == before,
        "a code that is too large is refused before anything is written");
}

// ---- Batch norm ---------------------------------------------------------------------------------

template <class T>
void normalise(Input& input) {
  batch_norm::Channels channels{};
  channels.count = input.between(1, 9);
  channels.inner = input.between(1, input.flag() ? 3 : 80);
  const std::int64_t images = input.one_in(32) ? 8192 / channels.period() + 2 : input.between(1, 4);
  const std::int64_t numel = images * channels.period();
  Layout layout;
  layout.row_size = numel;
  layout.bits = input.pick(widths);
  const bool has_relu = input.flag();
  const auto saved =
      has_relu || input.flag() ? batch_norm::SavedValue::output : batch_norm::SavedValue::input;
  const Rounding rounding = random_rounding(input);
  const Decoding decoding = random_decoding(input, rounding);
  const bool has_statistics_of_x = input.flag();
  Generator generator = input.generator();
  const auto count = static_cast<std::size_t>(channels.count);
  const std::vector<float> mean = support::gaussian(count, generator.bits());
  const std::vector<float> variance = support::uniform(count, generator.bits(), 0, 3);
  const std::vector<float> gamma = support::gaussian(count, generator.bits());
  const std::vector<float> beta = support::gaussian(count, generator.bits());
  const std::vector<T> x = random_values<T>(input, static_cast<std::size_t>(numel));
  const std::vector<T> dz = random_values<T>(input, static_cast<std::size_t>(numel));
  check_same("batch_norm", generator, [&](const Way& way) {
    Fenced<batch_norm::Channel> by_channel(channels.count);
    const batch_norm::Operation operation{.channels = channels,
                                          .saved = saved,
                                          .epsilon = 1e-5F,
                                          .smallest_gamma = 0.125F,
                                          .mean = mean.data(),
                                          .variance = variance.data(),
                                          .gamma = gamma.data(),
                                          .beta = beta.data(),
                                          .by_channel = by_channel.data()};
    Fenced<T> from = way.copy_of(x);
    Fenced<T> y = way.buffer<T>(numel);
    Fenced<T> dx = way.copy_of(dz);
    Fenced<std::uint32_t> words = way.buffer<std::uint32_t>(layout.num_words());
    Fenced<std::uint32_t> signs = way.buffer<std::uint32_t>(layout.with_bits(1).num_words());
    Fenced<GroupParams> params = way.buffer<GroupParams>(layout.num_groups());
    Fenced<SignMagnitudeParams> scales = way.buffer<SignMagnitudeParams>(layout.num_groups());
    Fenced<float> gamma_gradient(channels.count), beta_gradient(channels.count);
    const std::int64_t elements = has_statistics_of_x ? numel / channels.count : 0;
    const PackedView affine_view{layout, words.data(), params.data()};
    const SignMagnitudeView sign_view{layout, signs.data(), words.data(), scales.data()};
    way.with_loop([&](auto loop) {
      const auto both = [&](const auto& view, const auto& saved_tensor) {
        batch_norm::forward(operation, from.view(), view, rounding, y.span(), loop);
        batch_norm::backward(operation, dx.view(), saved_tensor, elements, gamma_gradient.data(),
                             beta_gradient.data(), dx.span(), loop);
      };
      if (has_relu) {
        both(sign_view, batch_norm::SavedSigns{sign_view, decoding});
      } else {
        both(affine_view, batch_norm::SavedCodes{affine_view, decoding});
      }
    });
    Bytes written;
    append_values(written, y);
    append_values(written, dx);
    append_values(written, gamma_gradient);
    append_values(written, beta_gradient);
    append(written, words);
    return written;
  });
}

template <class T>
void run_verbs(Input& input) {
  switch (input.between(0, 7)) {
    case 0:
    case 1:
    case 2: return affine<T>(input);
    case 3:
    case 4: return sign_magnitude<T>(input);
    case 5: return masks<T>(input);
    case 6: return normalise<T>(input);
    default: return pack_codes(input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  switch (input.between(0, 2)) {
    case 0: run_verbs<float>(input); break;
    case 1: run_verbs<bfloat16>(input); break;
    default: run_verbs<float16>(input);
  }
  return 0;
}
