// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims about the life of an AutoPrecision: widths are within limits and budget after every call;
// a call that throws has changed nothing, whichever of its allocations failed; the same calls give
// the same state; a saved state is restored, and a damaged one refused.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <actpack/auto_precision.hpp>
#include <actpack/detail/checksum.hpp>

#include "allocations.hpp"
#include "fuzz.hpp"

namespace {

using namespace actpack;
using namespace fuzz;

struct Nonsense : std::exception {};  // what an all_reduce may throw

// What the trainer's all_reduce does next.
enum class Reduce { nothing, doubles, nonsense, throws };
Reduce next_reduce = Reduce::nothing;
double nonsense = 0;
std::size_t nonsense_at = 0;

void all_reduce(std::span<double> sums) {
  switch (next_reduce) {
    case Reduce::nothing: break;
    case Reduce::doubles:
      for (double& sum : sums) sum *= 2;
      break;
    case Reduce::nonsense: sums[nonsense_at % sums.size()] = nonsense; break;
    case Reduce::throws: throw Nonsense();
  }
}

struct Setting {
  AutoPrecisionOptions options;
  std::vector<std::pair<Layout, PrecisionPer>> tensors;
};

Setting random_setting(Input& input) {
  Setting setting;
  AutoPrecisionOptions& o = setting.options;
  o.min_bits = input.pick(widths);
  o.max_bits = input.pick(widths);
  if (o.min_bits > o.max_bits) std::swap(o.min_bits, o.max_bits);
  o.average_bits = o.min_bits + (8 - o.min_bits) * (input.number<std::uint8_t>() / 255.0);
  if (input.one_in(3)) o.byte_budget = input.between(1, 6000);
  o.decay = input.number<std::uint8_t>() / 256.0;
  o.solve_interval = input.between(1, 3);
  if (input.one_in(3)) o.all_reduce = all_reduce;
  for (int tensors = input.between(0, 3); tensors >= 0; --tensors) {
    Layout layout;
    layout.rows = input.between(1, 6);
    layout.row_size = input.between(1, 300);
    layout.group_size = 32 * input.between(1, 8);
    if (input.flag()) layout.last_row_size = input.between<std::int64_t>(1, layout.row_size);
    setting.tensors.emplace_back(layout, input.flag() ? PrecisionPer::row : PrecisionPer::tensor);
  }
  return setting;
}

double observation(Input& input) {
  return input.one_in(8)
             ? hostile_double(input)
             : std::abs(std::ldexp(input.number<std::uint8_t>() + 1.0, input.between(-20, 20)));
}

// ---- Claims -------------------------------------------------------------------------------------

struct State {
  std::vector<std::byte> saved;
  std::vector<std::uint8_t> row_bits;

  explicit State(const AutoPrecision& precision) : saved(precision.save()) {
    for (std::size_t t = 0; t < precision.num_tensors(); ++t) {
      std::ranges::copy(precision.row_bits(t), std::back_inserter(row_bits));
    }
  }
  bool operator==(const State&) const = default;
};

// Bits of the codes and bytes of everything, at these widths.
void check_widths(const AutoPrecision& precision, const Setting& setting) {
  const AutoPrecisionOptions& o = setting.options;
  std::int64_t numel = 0, bits = 0, bytes = 0;
  for (std::size_t t = 0; t < precision.num_tensors(); ++t) {
    const auto& [layout, per] = setting.tensors[t];
    const std::span<const std::uint8_t> row_bits = precision.row_bits(t);
    check(static_cast<std::int64_t>(row_bits.size()) == layout.rows, "each row has a width");
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      const int width = row_bits[static_cast<std::size_t>(row)];
      check(is_width(width) && width >= o.min_bits && width <= o.max_bits, "a width of ", width,
            " is in [", o.min_bits, ", ", o.max_bits, "]");
      check(per == PrecisionPer::row || width == row_bits[0],
            "a tensor's width is one for all rows");
      bits += layout.size_of_row(row) * width;
      bytes += 4 * words_for(layout.size_of_row(row), width);
    }
    numel += layout.numel();
    bytes += 4 * layout.num_groups() + (per == PrecisionPer::row ? layout.rows : 1);
  }
  if (o.byte_budget > 0) {
    check(bytes <= o.byte_budget, bytes, " bytes are within ", o.byte_budget);
  } else {
    check(static_cast<double>(bits) <= o.average_bits * static_cast<double>(numel), bits,
          " bits of ", numel, " values are ", o.average_bits, " each");
  }
}

// Calls call(precision) and checks that a call which throws has changed nothing. Now and then, lets
// each of its allocations fail in turn, in copies of `precision`. Returns whether the call threw.
template <class Call>
bool check_call(Input& input, AutoPrecision& precision, const Setting& setting, const Call& call) {
  const State before(precision);
  // Returns whether the call was refused, or cut short by an all_reduce that throws.
  const auto throws = [&](AutoPrecision& target) {
    try {
      return refuses([&] { call(target); });
    } catch (const Nonsense&) {
      return true;
    }
  };
  AutoPrecision expected = precision;
  const bool is_refused = throws(expected);
  check(!is_refused || State(expected) == before, "a refusal changes nothing");
  for (std::int64_t fatal = input.one_in(4) ? 0 : std::numeric_limits<std::int64_t>::max();;
       ++fatal) {
    AutoPrecision copy = precision;
    bool throws_now = false;
    const bool is_cut_short = fails_at(fatal, [&] { throws_now = throws(copy); });
    if (!is_cut_short) {
      check(throws_now == is_refused && State(copy) == State(expected),
            "the same calls give the same state");
      break;
    }
    check(copy.num_tensors() == precision.num_tensors(), "a failed allocation adds no tensor");
    check(State(copy) == before, "a failed allocation changes nothing");
    check(throws(copy) == is_refused && State(copy) == State(expected), "it can be called again");
  }
  precision = expected;
  check_widths(precision, setting);
  return is_refused;
}

// ---- Calls --------------------------------------------------------------------------------------

void observe(Input& input, AutoPrecision& precision, const Setting& setting) {
  const auto tensor = input.between<std::size_t>(0, precision.num_tensors());  // one too many
  const std::size_t rows = tensor < precision.num_tensors()
                               ? static_cast<std::size_t>(setting.tensors[tensor].first.rows)
                               : 1;
  const std::size_t size = input.one_in(16) ? rows + 1 : rows;
  std::vector<double> numbers(size);
  for (double& number : numbers) number = observation(input);
  std::vector<std::array<double, 4>> noise(size);
  for (auto& by_width : noise) {
    for (double& number : by_width) number = observation(input);
  }
  std::vector<std::uint8_t> bits(size, 0xEE);
  const auto is_within_limits = [&] {
    return std::ranges::all_of(bits, [&](int b) {
      return is_width(b) && b >= setting.options.min_bits && b <= setting.options.max_bits;
    });
  };
  switch (input.between(0, 5)) {
    case 0:
      check_call(input, precision, setting, [&](auto& p) { p.observe_ranges(tensor, numbers); });
      break;
    case 1:
      check_call(input, precision, setting, [&](auto& p) { p.observe_noise(tensor, noise); });
      break;
    case 2:
      check_call(input, precision, setting, [&](auto& p) { p.observe_gains(tensor, numbers); });
      break;
    case 3:
      check_call(input, precision, setting,
                 [&](auto& p) { p.observe_perturbation(tensor, numbers[0]); });
      break;
    case 4:
      if (refuses([&] { precision.allocate_rows(tensor, numbers, bits); })) {
        check(std::ranges::count(bits, 0xEE) == std::ssize(bits),
              "nothing is written before a refusal");
      } else {
        check(is_within_limits(), "rows get widths within the limits");
      }
      break;
    default:
      if (!refuses([&] { precision.allocate_rows(tensor, noise, bits); })) {
        check(is_within_limits(), "rows get widths within the limits");
      }
  }
}

AutoPrecision with_tensors(const Setting& setting, std::size_t count) {
  AutoPrecision precision(setting.options);
  for (std::size_t t = 0; t < count; ++t)
    precision.add_tensor(setting.tensors[t].first, setting.tensors[t].second);
  return precision;
}

void restore(Input& input, AutoPrecision& precision, const Setting& setting) {
  std::vector<std::byte> state = precision.save();
  const State before(precision);
  AutoPrecision fresh = with_tensors(setting, precision.num_tensors());
  check_call(input, fresh, setting, [&](auto& p) { p.restore(state); });
  check(State(fresh) == before, "a saved state is restored");
  const std::vector<std::byte> whole = state;
  const auto at = [&] {
    return input.between<std::size_t>(0, state.empty() ? 0 : state.size() - 1);
  };
  for (int damages = input.between(1, 3); damages > 0 && !state.empty(); --damages) {
    switch (input.between(0, 4)) {
      case 0: state.resize(at()); break;
      case 1:
        state.resize(state.size() + input.between<std::size_t>(1, 64), input.number<std::byte>());
        break;
      case 2: state[at()] ^= std::byte{1} << input.between(0, 7); break;
      case 3: state[at()] = input.number<std::byte>(); break;
      default: {
        const std::uint64_t number = input.flag()
                                         ? static_cast<std::uint64_t>(hostile_integer(input))
                                         : std::bit_cast<std::uint64_t>(hostile_double(input));
        const std::size_t first = at() / 8 * 8;
        for (std::size_t i = 0; i < 8 && first + i < state.size(); ++i) {
          state[first + i] = static_cast<std::byte>(number >> (8 * i));
        }
      }
    }
  }
  if (state == whole) return;
  const bool is_repaired = input.flag() && state.size() > 8;
  if (is_repaired) {
    const std::uint64_t sum = detail::checksum(std::span(state).first(state.size() - 8));
    for (std::size_t i = 0; i < 8; ++i)
      state[state.size() - 8 + i] = static_cast<std::byte>(sum >> (8 * i));
  }
  check_call(input, fresh, setting, [&](auto& p) { p.restore(state); });
  if (State(fresh) == before) return;
  check(is_repaired, "a damaged state is refused");
  check(fresh.save() == state, "a state that is accepted is the one that is saved");
  precision = fresh;  // which goes on from there
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  const Setting setting = random_setting(input);
  next_reduce = Reduce::nothing;
  AutoPrecision precision(setting.options);
  for (const auto& [layout, per] : setting.tensors) {
    const bool is_refused =
        check_call(input, precision, setting,
                   [&, l = layout, p = per](auto& target) { target.add_tensor(l, p); });
    check(!is_refused || setting.options.byte_budget > 0, "only a byte budget has no room");
    if (is_refused) return 0;
  }
  for (int calls = 0; calls < 24 && input.left() > 0; ++calls) {
    switch (input.between(0, 7)) {
      case 0:
        next_reduce = static_cast<Reduce>(input.between(0, 3));
        nonsense = hostile_double(input);
        nonsense_at = input.number<std::uint16_t>();
        check_call(input, precision, setting, [](auto& p) { p.step(); });
        break;
      case 1:
        next_reduce = Reduce::nothing;
        check(!check_call(input, precision, setting, [](auto& p) { p.step(); }), "a step is made");
        break;
      case 2: restore(input, precision, setting); break;
      default: observe(input, precision, setting);
    }
  }
  return 0;
}
