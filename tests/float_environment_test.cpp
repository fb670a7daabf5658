// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shows that no host verb depends on its caller's floating-point environment, and that none changes
// it: flushed subnormals, every rounding mode, exceptions that trap or have been raised.
#include <doctest/doctest.h>

#include <array>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <actpack/actpack.hpp>

#if defined(__SSE2_MATH__)
#include <xmmintrin.h>
#endif

#include "support/config_grid.hpp"
#include "support/data.hpp"
#include "support/effort.hpp"
#include "support/same_everywhere.hpp"

namespace {

using actpack::bfloat16;
using actpack::Decoding;
using actpack::float16;
using actpack::Layout;
using actpack::Rounding;
using same_everywhere::Array;
using same_everywhere::Outcome;

// The bits that flush subnormal operands and results to zero; 0 where there are none.
#if defined(__SSE2_MATH__)
std::uint64_t control() { return _mm_getcsr(); }
void set_control(std::uint64_t bits) { _mm_setcsr(static_cast<unsigned>(bits)); }
constexpr std::uint64_t flush_to_zero = 0x8040;
#elif defined(__aarch64__)
std::uint64_t control() {
  std::uint64_t bits;
  __asm__ volatile("mrs %0, fpcr" : "=r"(bits));
  return bits;
}
void set_control(std::uint64_t bits) { __asm__ volatile("msr fpcr, %0" : : "r"(bits)); }
constexpr std::uint64_t flush_to_zero = std::uint64_t{1} << 24;
#else
std::uint64_t control() { return 0; }
void set_control(std::uint64_t) {}
constexpr std::uint64_t flush_to_zero = 0;
#endif

struct Environment {
  const char* name;
  int rounding_mode;
  bool flushes;
  int traps;
  int raised;
};
constexpr int trapped = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
constexpr std::array environments{
    Environment{"flush to zero", FE_TONEAREST, true, 0, 0},
    Environment{"upward", FE_UPWARD, false, 0, 0},
    Environment{"downward", FE_DOWNWARD, false, 0, FE_INEXACT},
    Environment{"toward zero", FE_TOWARDZERO, true, 0, FE_DIVBYZERO | FE_OVERFLOW},
    Environment{"traps", FE_TONEAREST, false, trapped, 0},
};

// Gives the thread a hostile environment until it is destroyed.
class Hostile {
 public:
  explicit Hostile(const Environment& environment) {
    std::fegetenv(&before_);
    std::feclearexcept(FE_ALL_EXCEPT);
    std::fesetround(environment.rounding_mode);
    std::feraiseexcept(environment.raised);
    if (environment.flushes) set_control(control() | flush_to_zero);
#if defined(__GLIBC__)
    feenableexcept(environment.traps);
#endif
    control_ = control();
    raised_ = std::fetestexcept(FE_ALL_EXCEPT);
  }
  ~Hostile() { std::fesetenv(&before_); }
  Hostile(const Hostile&) = delete;
  Hostile& operator=(const Hostile&) = delete;

  bool is_unchanged() const {
    return control() == control_ && std::fetestexcept(FE_ALL_EXCEPT) == raised_;
  }

 private:
  std::fenv_t before_;
  std::uint64_t control_;
  int raised_;
};

// Elements of every size, subnormal ones of float and of T among them. Every fourth group is of
// float16's subnormals, or of the same numbers in T.
template <class T>
std::vector<T> elements(std::int64_t numel) {
  support::Generator generator(5);
  return same_everywhere::generate<T>(numel, [&](std::int64_t i) {
    const std::int64_t group = i / 64;
    if (group % 4 == 0) return T(static_cast<float>(generator.below(1024)) * 0x1p-24F);
    if (group % 4 == 1) return T(static_cast<float>(generator.normal()));
    const float sign = generator.below(2) == 0 ? 1 : -1;
    return T(sign * std::ldexp(1.0F + static_cast<float>(generator.below(128)) * 0x1p-7F,
                               static_cast<int>(generator.below(group % 4 == 2 ? 250 : 40)) - 149));
  });
}

struct Sizes {
  std::vector<double> sensitivity;
  std::vector<std::int64_t> numel;
};
Sizes items() {
  Sizes sizes;
  support::Generator generator(9);
  for (int i = 0; i < 300; ++i) {
    sizes.sensitivity.push_back(std::ldexp(generator.uniform(0, 1), i % 40));
    sizes.numel.push_back(1 + generator.below(50));
  }
  return sizes;
}

template <class T>
void keep(Outcome& outcome, const char* name, const T* from, std::int64_t size, double detail = 0) {
  outcome.add(name, Array<T>(std::vector<T>(from, from + size), 0), detail);
}

template <class T>
void add_packed_tensors(std::span<const T> x, Outcome& outcome) {
  const auto numel = static_cast<std::int64_t>(x.size());
  Array<T> y(numel, 0);
  for (const Rounding& rounding : {Rounding::nearest(), Rounding::stochastic(3, 4)}) {
    for (const int bits : support::all_widths) {
      const Layout layout{.row_size = numel, .group_size = 64, .bits = bits};
      const Decoding decoding = Decoding::subtractive(rounding, 0.75F);
      actpack::PackedBuffer packed(layout);
      actpack::quantize(x, packed.view(), rounding);
      keep(outcome, "words", packed.view().words, layout.num_words(), bits);
      keep(outcome, "params", packed.view().params, layout.num_groups(), bits);
      actpack::dequantize(packed.view(), y.span(), decoding);
      outcome.add("dequantize", y, bits);
      actpack::SignMagnitudeBuffer sides(layout);
      actpack::encode(x, sides.view(), rounding);
      keep(outcome, "signs", sides.view().sign_words, layout.with_bits(1).num_words(), bits);
      keep(outcome, "magnitudes", sides.view().magnitude_words, layout.num_words(), bits);
      keep(outcome, "sides", sides.view().params, layout.num_groups(), bits);
      actpack::decode(sides.view(), y.span(), decoding);
      outcome.add("decode", y, bits);
      actpack::decode_relu(sides.view(), y.span(), decoding);
      outcome.add("decode_relu", y, bits);
      actpack::relu_backward(x, sides.view(), y.span());
      outcome.add("relu_backward by signs", y, bits);
      actpack::decode_keeping_signs(sides.view(), y.span());
      outcome.add("decode_keeping_signs", y, bits);
    }
  }
}

template <class T>
void add_masks(std::span<const T> x, Outcome& outcome) {
  const auto numel = static_cast<std::int64_t>(x.size());
  Array<T> y(numel, 0);
  Array<std::uint32_t> mask(actpack::words_for(numel, 1), 0);
  actpack::make_mask(x, mask.span(), [](float value) { return value * 4 > 0x1p-20F; });
  outcome.add("make_mask", mask);
  actpack::relu(x, y.span(), mask.span());
  outcome.add("relu", y);
  outcome.add("relu's mask", mask);
  actpack::relu_backward(x, std::as_const(mask).span(), y.span());
  outcome.add("relu_backward", y);
  for (const double p : {0.1, 0.7, 1 - 1e-9}) {
    actpack::dropout(x, y.span(), mask.span(), p, Rounding::stochastic(7));
    outcome.add("dropout", y, p);
    outcome.add("dropout's mask", mask, p);
    actpack::dropout_backward(x, std::as_const(mask).span(), y.span(), p);
    outcome.add("dropout_backward", y, p);
  }
}

template <class T>
void add_batch_norm(std::span<const T> x, Outcome& outcome) {
  const auto numel = static_cast<std::int64_t>(x.size());
  const std::array<float, 3> means{0.1F, -3, 0x1p-130F}, variances{1, 0.3F, 7};
  const std::array<float, 3> gammas{1, 0.7F, -2}, betas{0.3F, 0, 1};
  std::array<actpack::batch_norm::Channel, 3> channels{};
  const actpack::batch_norm::Operation operation{.channels = {3, 5},
                                                 .saved = actpack::batch_norm::SavedValue::output,
                                                 .epsilon = 1e-5F,
                                                 .mean = means.data(),
                                                 .variance = variances.data(),
                                                 .gamma = gammas.data(),
                                                 .beta = betas.data(),
                                                 .by_channel = channels.data()};
  const Rounding rounding = Rounding::stochastic(8);
  actpack::SignMagnitudeBuffer sides(Layout{.row_size = numel, .group_size = 64});
  Array<T> y(numel, 0);
  actpack::batch_norm::forward(operation, x, sides.view(), rounding, y.span());
  outcome.add("batch_norm::forward", y);
  std::array<float, 3> gamma_gradient{}, beta_gradient{};
  actpack::batch_norm::backward(
      operation, x, actpack::batch_norm::SavedSigns{sides.view(), Decoding::subtractive(rounding)},
      numel / 3, gamma_gradient.data(), beta_gradient.data(), y.span());
  outcome.add("batch_norm::backward", y);
  keep(outcome, "gamma's gradient", gamma_gradient.data(), 3);
  keep(outcome, "beta's gradient", beta_gradient.data(), 3);
}

void add_controller(const Sizes& sizes, Outcome& outcome) {
  actpack::AutoPrecision controller({.average_bits = 2.3, .decay = 0.7, .solve_interval = 1});
  const auto rows = static_cast<std::int64_t>(sizes.sensitivity.size());
  controller.add_tensor(Layout{.rows = rows, .row_size = 100});
  controller.add_tensor(Layout{.rows = rows, .row_size = 30}, actpack::PrecisionPer::tensor);
  for (int step = 0; step < 3; ++step) {
    controller.observe_ranges(0, sizes.sensitivity);
    controller.observe_gains(0, sizes.sensitivity);
    controller.observe_ranges(1, sizes.sensitivity);
    controller.observe_perturbation(1, 0.1);
    controller.step();
  }
  std::vector<std::uint8_t> bits(sizes.sensitivity.size());
  controller.allocate_rows(0, sizes.sensitivity, bits);
  keep(outcome, "allocate_rows", bits.data(), rows);
  const std::vector<std::byte> state = controller.save();
  std::vector<std::uint8_t> bytes(state.size());
  std::memcpy(bytes.data(), state.data(), state.size());
  keep(outcome, "AutoPrecision", bytes.data(), static_cast<std::int64_t>(bytes.size()));
}

template <class T>
Outcome all_verbs(std::span<const T> x, const Sizes& sizes) {
  Outcome outcome;
  add_packed_tensors(x, outcome);
  add_masks(x, outcome);
  add_batch_norm(x, outcome);
  const actpack::RoundingNoise noise = actpack::measure_rounding_noise(x, 64);
  keep(outcome, "measure_rounding_noise", noise.plain.data(), 4);
  const actpack::RoundingNoise of_sides = actpack::measure_sign_magnitude_noise(x, 64).whole;
  keep(outcome, "measure_sign_magnitude_noise", of_sides.plain.data(), 4);
  const actpack::Allocation allocation = actpack::allocate_bits(
      {.sensitivity = sizes.sensitivity, .numel = sizes.numel, .bit_budget = 20000});
  keep(outcome, "allocate_bits", allocation.bits.data(), 300);
  keep(outcome, "allocate_bits' variance", &allocation.variance, 1);
  keep(outcome, "allocate_bits' bound", &allocation.lower_bound, 1);
  add_controller(sizes, outcome);
  return outcome;
}

}  // namespace

TYPE_TO_STRING(actpack::bfloat16);
TYPE_TO_STRING(actpack::float16);

TEST_CASE_TEMPLATE("host verbs: the caller's floating-point environment changes nothing", T, float,
                   bfloat16, float16) {
  const std::vector<T> input = elements<T>(support::runs_slowly ? 64 * 20 + 37 : 64 * 400 + 37);
  const std::span<const T> x = input;
  const Sizes sizes = items();
  for (const actpack::InstructionSet set : support::all_instruction_sets) {
    if (!support::is_available(set)) continue;
    const support::UsingInstructionSet use(set);
    const Outcome expected = all_verbs<T>(x, sizes);
    for (const Environment& environment : environments) {
      CAPTURE(std::string(support::name_of(set)));
      CAPTURE(std::string(environment.name));
      Outcome outcome;
      bool is_unchanged = false;
      {
        const Hostile hostile(environment);
        outcome = all_verbs<T>(x, sizes);
        is_unchanged = hostile.is_unchanged();
      }
      outcome.check_equals(expected);
      CHECK(is_unchanged);
    }
  }
}

// Converting is no verb: it has no environment of its own, and needs none.
TEST_CASE("float16: a program that flushes subnormals converts all values exactly") {
  std::vector<float> expected;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    expected.push_back(float16::from_bits(static_cast<std::uint16_t>(bits)));
  }
  int different = 0;
  {
    const Hostile hostile(environments[0]);
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const float16 value = float16::from_bits(static_cast<std::uint16_t>(bits));
      different += actpack::detail::bits_of(value) != actpack::detail::bits_of(expected[bits]);
      different += !actpack::detail::is_nan(value) && float16(float{value}).bits != bits;
    }
  }
  CHECK(different == 0);
}
