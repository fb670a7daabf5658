// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Hands the work of every host verb to loops that a caller might bring, in other orders and from
// other threads, and compares with the calling thread's own: the same bytes, each piece once, and
// no loop for nothing. ThreadSanitizer sees that pieces do not touch each other's words.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/mask.hpp>
#include <actpack/parallel.hpp>
#include <actpack/quantize.hpp>
#include <actpack/sign_magnitude.hpp>

#include "support/compare.hpp"
#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/guarded_buffer.hpp"
#include "support/guarded_tensor.hpp"

namespace {

using actpack::bfloat16;
using actpack::Decoding;
using actpack::float16;
using actpack::GroupParams;
using actpack::Layout;
using actpack::PackedView;
using actpack::Rounding;
using actpack::SignMagnitudeParams;
using actpack::SignMagnitudeView;
using support::GuardedBuffer;
using support::GuardedPacked;
using support::GuardedSignMagnitude;

// ---- Loops ------------------------------------------------------------------------------------

using Body = std::function<void(std::int64_t)>;  // as a thread pool would take it

// From the last piece to the first. Cannot be copied: verbs use the caller's own.
class Backwards {
 public:
  Backwards() = default;
  Backwards(const Backwards&) = delete;
  Backwards& operator=(const Backwards&) = delete;

  void operator()(std::int64_t count, const Body& body) {
    ++calls;
    pieces += count;
    most_pieces = std::max(most_pieces, count);
    for (std::int64_t i = count - 1; i >= 0; --i) body(i);
  }

  int calls = 0;
  std::int64_t pieces = 0;
  std::int64_t most_pieces = 0;
};

// Three threads, each of which takes the next free piece.
struct Threads {
  void operator()(std::int64_t count, const Body& body) const {
    std::atomic<std::int64_t> next = 0;
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&] {
        for (std::int64_t i = next++; i < count; i = next++) body(i);
      });
    }
  }
};

// Pieces 0, 2, 4, … and then 1, 3, 5, …: no two neighbours after each other.
struct EveryOther {
  void operator()(std::int64_t count, const Body& body) const {
    for (std::int64_t start = 0; start < 2; ++start) {
      for (std::int64_t i = start; i < count; i += 2) body(i);
    }
  }
};

// ---- Comparison -------------------------------------------------------------------------------

// The bytes that a verb wrote, array after array.
class Outcome {
 public:
  template <class T>
  void add(const GuardedBuffer<T>& array) {
    const std::span<const T> elements = array.span();
    const std::size_t end = bytes_.size();
    bytes_.resize(end + elements.size_bytes());
    if (!elements.empty()) std::memcpy(bytes_.data() + end, elements.data(), elements.size_bytes());
  }
  bool operator==(const Outcome&) const = default;

 private:
  std::vector<std::uint8_t> bytes_;
};

// verb(parallel) returns an Outcome, which must not depend on the loop. A call of the verb works on
// `elements`.
template <class Verb>
void check_loops(std::int64_t elements, Verb verb) {
  const Outcome expected = verb(actpack::Serial{});
  Backwards backwards;
  const bool same_backwards = verb(backwards) == expected;
  CHECK(same_backwards);
  const bool same_from_threads = verb(Threads{}) == expected;
  CHECK(same_from_threads);
  const EveryOther every_other;
  const bool same_every_other = verb(every_other) == expected;
  CHECK(same_every_other);
  const bool same_from_lambda = verb([](std::int64_t count, auto body) {
                                  for (std::int64_t i = 0; i < count; ++i) body(i);
                                }) == expected;
  CHECK(same_from_lambda);
  if (elements <= 1024) CHECK(backwards.most_pieces <= 1);
}

// One call of a verb shares out a large tensor in one loop.
template <class Verb>
void check_shares(Verb verb) {
  Backwards backwards;
  verb(backwards);
  CHECK(backwards.calls == 1);
  CHECK(backwards.pieces >= 4);
}

// Runs one piece and leaves out the others.
struct OnlyPiece {
  void operator()(std::int64_t count, const Body& body) {
    pieces = count;
    if (piece < count) body(piece);
  }
  std::int64_t piece;
  std::int64_t pieces = 0;
};

// The pieces' outputs are disjoint and together everything: `write(parallel, buffer)` fills a
// buffer, and each of its bytes is written by exactly one piece, as all of them write it.
template <class T, class Write>
void check_pieces_are_disjoint(std::int64_t size, Write write) {
  GuardedBuffer<T> whole(size);
  write(actpack::Serial{}, whole.span());
  std::vector<int> writers(whole.span().size());
  std::int64_t pieces = 1;
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    GuardedBuffer<T> part(size);
    const std::vector<T> untouched = part.values();
    OnlyPiece only{piece};
    write(only, part.span());
    pieces = only.pieces;
    for (std::size_t i = 0; i < writers.size(); ++i) {
      if (std::memcmp(part.data() + i, &untouched[i], sizeof(T)) == 0) continue;
      ++writers[i];
      if (std::memcmp(part.data() + i, whole.data() + i, sizeof(T)) != 0) writers[i] = 1 << 20;
    }
  }
  CHECK(pieces > 1);
  const auto wrong = std::find_if(writers.begin(), writers.end(), [](int n) { return n != 1; });
  const auto element = wrong - writers.begin();
  CAPTURE(element);
  CHECK(wrong == writers.end());
}

// ---- Data -------------------------------------------------------------------------------------

template <class T>
std::vector<T> gaussian(std::int64_t size, std::uint64_t seed) {
  std::vector<T> x;
  for (const float value : support::gaussian(static_cast<std::size_t>(size), seed)) {
    x.push_back(T(value));
  }
  return x;
}

// From nothing to several pieces, around the start of the second one, and ragged.
std::vector<Layout> layouts(int bits) {
  std::vector<Layout> all;
  for (const std::int64_t size : {0, 1, 31, 1000, 8191, 8192, 8193, 16384, 40000, 100003}) {
    for (const std::int32_t group_size : {32, 256, 96, 1 << 20}) {
      all.push_back({1, size, group_size, bits});
    }
  }
  for (const std::int64_t last : {0, 1, 300}) {
    all.push_back({97, 1001, 256, bits, last});
    all.push_back({700, 301, 32, bits, std::min<std::int64_t>(last, 301)});
    all.push_back({3, 30001, 1024, bits, last});
  }
  all.push_back({30000, 1, 32, bits});
  all.push_back({5000, 7, 256, bits, 3});
  return all;
}

struct Range {
  std::int64_t first;
  std::int64_t count;
};

std::vector<Range> ranges_of(std::int64_t size) {
  return {{0, size / 2}, {size / 3, size - size / 3}, {size / 5 + size % 2, size / 2}, {size, 0}};
}

template <class Test>
void for_each_layout(Test test) {
  std::uint64_t seed = 0;
  for (const int bits : support::all_widths) {
    for (const Layout& layout : layouts(bits)) {
      if (support::is_left_out(++seed)) continue;
      CAPTURE(bits);
      CAPTURE(layout.rows);
      CAPTURE(layout.row_size);
      CAPTURE(layout.last_row_size);
      CAPTURE(layout.group_size);
      test(layout, seed, seed % 4 == 0 ? Rounding::nearest() : Rounding::stochastic(seed, 3));
    }
  }
}

Outcome outcome_of(const GuardedPacked& packed) {
  Outcome outcome;
  outcome.add(packed.words);
  outcome.add(packed.params);
  return outcome;
}
Outcome outcome_of(const GuardedSignMagnitude& context) {
  Outcome outcome;
  outcome.add(context.sign_words);
  outcome.add(context.magnitude_words);
  outcome.add(context.params);
  return outcome;
}

template <class T>
void check_affine(const Layout& layout, std::uint64_t seed, const Rounding& rounding,
                  const std::vector<std::uint8_t>& row_bits = {}) {
  const std::vector<T> x = gaussian<T>(layout.numel(), seed);
  GuardedPacked packed(layout, row_bits);
  const PackedView view = packed.view();
  actpack::quantize(x, view, rounding);

  const auto quantized = [&](auto call) {
    return [&, call](auto&& parallel) {
      GuardedPacked mine(layout, row_bits);
      call(mine.view(), parallel);
      return outcome_of(mine);
    };
  };
  check_loops(layout.numel(), quantized([&](const PackedView& out, auto& parallel) {
                actpack::quantize(x, out, rounding, parallel);
              }));
  const std::int64_t first_row = layout.rows / 3;
  const auto rest = std::span(x).subspan(static_cast<std::size_t>(first_row * layout.row_size));
  check_loops(static_cast<std::int64_t>(rest.size()),
              quantized([&](const PackedView& out, auto& parallel) {
                actpack::quantize(rest, out, rounding, first_row, parallel);
              }));
  for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding, 0.7F)}) {
    check_loops(layout.numel(), [&](auto&& parallel) {
      GuardedBuffer<T> decoded(layout.numel());
      actpack::dequantize(view, decoded.span(), decoding, parallel);
      Outcome outcome;
      outcome.add(decoded);
      return outcome;
    });
    for (const Range& range : ranges_of(layout.numel())) {
      check_loops(range.count, [&](auto&& parallel) {
        GuardedBuffer<T> decoded(range.count);
        actpack::dequantize(view, range.first, decoded.span(), decoding, parallel);
        Outcome outcome;
        outcome.add(decoded);
        return outcome;
      });
    }
  }
}

template <class T, class Decode>
auto decoded(std::int64_t size, Decode decode) {
  return [size, decode](auto&& parallel) {
    GuardedBuffer<T> values(size);
    decode(values.span(), parallel);
    Outcome outcome;
    outcome.add(values);
    return outcome;
  };
}

template <class T>
void check_sign_magnitude(const Layout& layout, std::uint64_t seed, const Rounding& rounding) {
  const std::vector<T> values = gaussian<T>(layout.numel(), seed);
  const std::span<const T> y = values;
  GuardedSignMagnitude context(layout);
  actpack::encode(y, context.view(), rounding);
  check_loops(layout.numel(), [&](auto&& parallel) {
    GuardedSignMagnitude mine(layout);
    actpack::encode(y, mine.view(), rounding, parallel);
    return outcome_of(mine);
  });
  const std::int64_t first_row = layout.rows / 3;
  const std::span<const T> rest = y.subspan(static_cast<std::size_t>(first_row * layout.row_size));
  check_loops(static_cast<std::int64_t>(rest.size()), [&](auto&& parallel) {
    GuardedSignMagnitude mine(layout);
    actpack::encode(rest, mine.view(), rounding, first_row, parallel);
    return outcome_of(mine);
  });

  const SignMagnitudeView view = context.view();
  const Decoding decoding = Decoding::subtractive(rounding);
  const std::int64_t numel = layout.numel();
  check_loops(numel, decoded<T>(numel, [&](std::span<T> out, auto& parallel) {
                actpack::decode(view, out, decoding, parallel);
              }));
  check_loops(numel, decoded<T>(numel, [&](std::span<T> out, auto& parallel) {
                actpack::decode_relu(view, out, decoding, parallel);
              }));
  check_loops(numel, decoded<T>(numel, [&](std::span<T> out, auto& parallel) {
                actpack::relu_backward(y, view, out, parallel);
              }));
  for (const Range& range : ranges_of(numel)) {
    check_loops(range.count, decoded<T>(range.count, [&](std::span<T> out, auto& parallel) {
                  actpack::decode(view, range.first, out, decoding, parallel);
                }));
    check_loops(range.count, decoded<T>(range.count, [&](std::span<T> out, auto& parallel) {
                  actpack::decode_relu(view, range.first, out, decoding, parallel);
                }));
    const std::span<const T> dy = y.first(static_cast<std::size_t>(range.count));
    check_loops(range.count, decoded<T>(range.count, [&](std::span<T> out, auto& parallel) {
                  actpack::relu_backward(dy, view, range.first, out, parallel);
                }));
  }
}

template <class T>
void check_masks(std::int64_t size) {
  const std::vector<T> x = gaussian<T>(size, static_cast<std::uint64_t>(size));
  const Rounding rounding = Rounding::stochastic(5, 6);
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(actpack::words_for(size, 1)));
  actpack::make_mask(x, mask, [](T value) { return value > T(0.5F); });

  // Calls verb(y, mask of its own, parallel).
  const auto with_mask = [&](auto verb) {
    return [&, verb](auto&& parallel) {
      GuardedBuffer<T> y(size);
      GuardedBuffer<std::uint32_t> my_mask(mask.size());
      verb(y.span(), my_mask.span(), parallel);
      Outcome outcome;
      outcome.add(y);
      outcome.add(my_mask);
      return outcome;
    };
  };
  check_loops(size, with_mask([&](std::span<T>, std::span<std::uint32_t> out, auto& parallel) {
                actpack::make_mask(
                    x, out, [](T value) { return value > T(0.5F); }, parallel);
              }));
  check_loops(size, with_mask([&](std::span<T> y, std::span<std::uint32_t> out, auto& parallel) {
                actpack::relu(x, y, out, parallel);
              }));
  for (const std::int64_t first : {0, 96}) {
    check_loops(size, with_mask([&](std::span<T> y, std::span<std::uint32_t> out, auto& parallel) {
                  actpack::dropout(x, y, out, 0.3, rounding, first, parallel);
                }));
  }
  check_loops(size, decoded<T>(size, [&](std::span<T> dx, auto& parallel) {
                actpack::relu_backward(x, mask, dx, parallel);
              }));
  check_loops(size, decoded<T>(size, [&](std::span<T> dx, auto& parallel) {
                actpack::dropout_backward(x, mask, dx, 0.3, parallel);
              }));
  // In place.
  check_loops(size, [&](auto&& parallel) {
    GuardedBuffer<T> values(x);
    actpack::relu_backward(std::as_const(values).span(), mask, values.span(), parallel);
    Outcome outcome;
    outcome.add(values);
    return outcome;
  });
}

void check_pack(std::int64_t size, int bits) {
  support::Generator generator(static_cast<std::uint64_t>(size));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(size));
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(generator.below(1U << bits));
  const std::int64_t words_size = actpack::words_for(size, bits);
  std::vector<std::uint32_t> words(static_cast<std::size_t>(words_size));
  actpack::pack(codes, bits, words);
  check_loops(size, decoded<std::uint32_t>(words_size, [&](auto out, auto& parallel) {
                actpack::pack(codes, bits, out, parallel);
              }));
  check_loops(size, decoded<std::uint8_t>(size, [&](auto out, auto& parallel) {
                actpack::unpack(words, bits, out, parallel);
              }));
  for (const Range& range : ranges_of(size)) {
    check_loops(range.count, decoded<std::uint8_t>(range.count, [&](auto out, auto& parallel) {
                  actpack::unpack(words, bits, range.first, out, parallel);
                }));
  }
}

constexpr std::array<std::int64_t, 10> mask_sizes{0,    1,    32,    1000,  8191,
                                                  8192, 8193, 20000, 65536, 100003};

// A call that throws std::invalid_argument without having called the loop.
template <class Call>
void check_refused_early(Call call) {
  Backwards backwards;
  CHECK_THROWS_AS(call(backwards), std::invalid_argument);
  CHECK(backwards.calls == 0);
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE_TEMPLATE("quantize, dequantize: any loop gives the same", T, float, bfloat16, float16) {
  for_each_layout([](const Layout& layout, std::uint64_t seed, const Rounding& rounding) {
    if (!std::is_same_v<T, float> && seed % 3 != 0) return;
    check_affine<T>(layout, seed, rounding);
  });
}

TEST_CASE_TEMPLATE("quantize, dequantize: any loop gives the same, widths by row", T, float,
                   bfloat16, float16) {
  support::Generator generator(4);
  for (const Layout& layout : {Layout{97, 1001, 256, 8, 17}, Layout{5000, 7, 32, 8},
                               Layout{3, 30000, 96, 8, 1}, Layout{4, 100, 32, 8}}) {
    std::vector<std::uint8_t> row_bits;
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      row_bits.push_back(static_cast<std::uint8_t>(1 << generator.below(4)));
    }
    CAPTURE(layout.rows);
    check_affine<T>(layout, 11, Rounding::stochastic(8), row_bits);
  }
}

TEST_CASE_TEMPLATE("encode, decode, decode_relu, relu_backward: any loop gives the same", T, float,
                   bfloat16, float16) {
  for_each_layout([](const Layout& layout, std::uint64_t seed, const Rounding& rounding) {
    if (!std::is_same_v<T, float> && seed % 3 != 0) return;
    check_sign_magnitude<T>(layout, seed, rounding);
  });
}

TEST_CASE_TEMPLATE("masks: any loop gives the same", T, float, bfloat16, float16) {
  for (const std::int64_t size : mask_sizes) {
    CAPTURE(size);
    check_masks<T>(size);
  }
}

TEST_CASE("pack, unpack: any loop gives the same") {
  for (const int bits : support::all_widths) {
    for (const std::int64_t size : mask_sizes) {
      CAPTURE(bits);
      CAPTURE(size);
      check_pack(size, bits);
    }
  }
}

TEST_CASE("all verbs: one loop of several pieces for a large tensor") {
  const Layout layout{40, 3001, 256, 2};
  const std::int64_t numel = layout.numel();
  const Rounding rounding = Rounding::stochastic(1);
  const std::vector<float> x = gaussian<float>(numel, 1);
  std::vector<float> y(x.size());
  actpack::PackedBuffer packed(layout);
  GuardedSignMagnitude sides(layout);
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(actpack::words_for(numel, 1)));
  std::vector<std::uint8_t> codes(x.size());
  std::vector<std::uint32_t> words(static_cast<std::size_t>(actpack::words_for(numel, 4)));
  const Decoding plain = Decoding::plain();
  check_shares([&](auto& p) { actpack::quantize(x, packed.view(), rounding, p); });
  check_shares([&](auto& p) { actpack::quantize(x, packed.view(), rounding, 0, p); });
  check_shares([&](auto& p) { actpack::dequantize(packed.view(), y, plain, p); });
  check_shares([&](auto& p) { actpack::dequantize(packed.view(), 0, y, plain, p); });
  check_shares([&](auto& p) { actpack::encode(x, sides.view(), rounding, p); });
  check_shares([&](auto& p) { actpack::encode(x, sides.view(), rounding, 0, p); });
  check_shares([&](auto& p) { actpack::decode(sides.view(), y, plain, p); });
  check_shares([&](auto& p) { actpack::decode_relu(sides.view(), y, plain, p); });
  check_shares([&](auto& p) { actpack::relu_backward(x, sides.view(), y, p); });
  check_shares([&](auto& p) { actpack::relu_backward(x, sides.view(), 0, y, p); });
  check_shares([&](auto& p) {
    actpack::make_mask(
        x, mask, [](float value) { return value > 0; }, p);
  });
  check_shares([&](auto& p) { actpack::relu(x, y, mask, p); });
  check_shares([&](auto& p) { actpack::relu_backward(x, mask, y, p); });
  check_shares([&](auto& p) { actpack::dropout(x, y, mask, 0.5, rounding, 0, p); });
  check_shares([&](auto& p) { actpack::dropout_backward(x, mask, y, 0.5, p); });
  check_shares([&](auto& p) { actpack::pack(codes, 4, words, p); });
  check_shares([&](auto& p) { actpack::unpack(words, 4, codes, p); });
  check_shares([&](auto& p) { actpack::unpack(words, 4, 0, codes, p); });
}

TEST_CASE("all verbs: each element is one piece's") {
  const Layout layout{40, 3001, 256, 2, 44};
  const std::int64_t numel = layout.numel();
  const Rounding rounding = Rounding::stochastic(1);
  const std::vector<float> x = gaussian<float>(numel, 1);
  actpack::PackedBuffer packed(layout);
  actpack::quantize(x, packed.view(), rounding);
  GuardedSignMagnitude sides(layout);
  actpack::encode(x, sides.view(), rounding);
  std::vector<GroupParams> params(static_cast<std::size_t>(layout.num_groups()));
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(actpack::words_for(numel, 1)));
  actpack::make_mask(x, mask, [](float value) { return value > 0; });

  check_pieces_are_disjoint<std::uint32_t>(layout.num_words(), [&](auto&& p, auto out) {
    actpack::quantize(x, PackedView{layout, out.data(), params.data()}, rounding, p);
  });
  check_pieces_are_disjoint<std::uint32_t>(layout.with_bits(1).num_words(),
                                           [&](auto&& p, auto out) {
                                             SignMagnitudeView view = sides.view();
                                             view.sign_words = out.data();
                                             actpack::encode(x, view, rounding, p);
                                           });
  check_pieces_are_disjoint<float>(numel, [&](auto&& p, auto out) {
    actpack::dequantize(packed.view(), out, Decoding::plain(), p);
  });
  check_pieces_are_disjoint<float>(numel - 777, [&](auto&& p, auto out) {
    actpack::dequantize(packed.view(), 301, out, Decoding::plain(), p);
  });
  check_pieces_are_disjoint<float>(numel - 777, [&](auto&& p, auto out) {
    actpack::decode(sides.view(), 301, out, Decoding::plain(), p);
  });
  check_pieces_are_disjoint<float>(numel - 777, [&](auto&& p, auto out) {
    actpack::decode_relu(sides.view(), 301, out, Decoding::plain(), p);
  });
  check_pieces_are_disjoint<float>(
      numel, [&](auto&& p, auto out) { actpack::relu_backward(x, sides.view(), out, p); });
  check_pieces_are_disjoint<float>(
      numel, [&](auto&& p, auto out) { actpack::relu_backward(x, mask, out, p); });
  check_pieces_are_disjoint<float>(
      numel, [&](auto&& p, auto out) { actpack::dropout_backward(x, mask, out, 0.5, p); });
  check_pieces_are_disjoint<std::uint32_t>(actpack::words_for(numel, 1), [&](auto&& p, auto out) {
    actpack::make_mask(
        x, out, [](float value) { return value > 0; }, p);
  });
}

TEST_CASE("all verbs: wrong arguments are refused before the loop is called") {
  const Layout layout{40, 3001, 256, 2};
  const std::int64_t numel = layout.numel();
  const Rounding rounding = Rounding::stochastic(1);
  const Decoding plain = Decoding::plain();
  const std::vector<float> x = gaussian<float>(numel, 1);
  std::vector<float> longer(x.size() + 1);
  actpack::PackedBuffer packed(layout);
  GuardedSignMagnitude sides(layout);
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(actpack::words_for(numel, 1)));
  const std::span<std::uint32_t> short_mask = std::span(mask).first(mask.size() - 1);
  std::vector<std::uint8_t> codes(x.size());
  std::vector<std::uint32_t> words(static_cast<std::size_t>(actpack::words_for(numel, 4)));
  check_refused_early([&](auto& p) { actpack::quantize(longer, packed.view(), rounding, p); });
  check_refused_early([&](auto& p) { actpack::quantize(x, packed.view(), rounding, 1, p); });
  check_refused_early([&](auto& p) { actpack::dequantize(packed.view(), longer, plain, p); });
  check_refused_early([&](auto& p) { actpack::dequantize(packed.view(), 1, longer, plain, p); });
  check_refused_early([&](auto& p) { actpack::encode(longer, sides.view(), rounding, p); });
  check_refused_early([&](auto& p) { actpack::encode(x, sides.view(), rounding, 1, p); });
  check_refused_early([&](auto& p) { actpack::decode(sides.view(), longer, plain, p); });
  check_refused_early([&](auto& p) { actpack::decode(sides.view(), 1, longer, plain, p); });
  check_refused_early([&](auto& p) { actpack::decode_relu(sides.view(), longer, plain, p); });
  check_refused_early([&](auto& p) { actpack::relu_backward(x, sides.view(), longer, p); });
  check_refused_early([&](auto& p) {
    actpack::make_mask(
        x, short_mask, [](float value) { return value > 0; }, p);
  });
  check_refused_early([&](auto& p) { actpack::relu(x, longer, mask, p); });
  check_refused_early([&](auto& p) { actpack::relu_backward(x, mask, longer, p); });
  check_refused_early([&](auto& p) { actpack::dropout(x, longer, mask, 0.5, rounding, 0, p); });
  check_refused_early([&](auto& p) {
    std::vector<float> y(x.size());
    actpack::dropout(x, y, mask, 1.0, rounding, 0, p);
  });
  check_refused_early([&](auto& p) { actpack::dropout_backward(x, mask, longer, 0.5, p); });
  check_refused_early([&](auto& p) { actpack::pack(codes, 3, words, p); });
  check_refused_early([&](auto& p) {
    codes.back() = 16;  // a code that does not fit, in the last piece
    actpack::pack(codes, 4, words, p);
  });
  check_refused_early([&](auto& p) { actpack::unpack(words, 4, numel, codes, p); });
}
