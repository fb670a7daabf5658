// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: the trainers either refuse a command line with OptionError, or take numbers of it that
// are within the ranges that --help states; and a number's text reads back as that number.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <actpack/codes.hpp>

#include "common/flags.hpp"
#include "fuzz.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_gpt/options.hpp"

namespace {

using namespace fuzz;

// Any text of up to 20 bytes, or one that is nearly a number.
std::string random_text(Input& input) {
  constexpr const char* texts[] = {"",
                                   "0",
                                   "1",
                                   "2",
                                   "4",
                                   "8",
                                   "32",
                                   "64",
                                   "-1",
                                   "nan",
                                   "-nan",
                                   "inf",
                                   "-inf",
                                   "1e300",
                                   "1e-400",
                                   "0x10",
                                   "9223372036854775807",
                                   "9223372036854775808",
                                   "18446744073709551615",
                                   "18446744073709551616",
                                   "1.5",
                                   "0.003",
                                   "+1",
                                   " 1",
                                   "1 ",
                                   "none",
                                   "plain",
                                   "subtractive",
                                   "stochastic",
                                   "nearest",
                                   "group",
                                   "tensor",
                                   "affine",
                                   "sign-magnitude",
                                   "derivative",
                                   "gelu=4",
                                   "query=32,key=1",
                                   "1,2,3",
                                   "a.svg",
                                   "--bits"};
  switch (input.between(0, 3)) {
    case 0: {
      const auto bytes = input.take(input.between<std::size_t>(0, 20));
      std::string text(bytes.begin(), bytes.end());
      std::erase(text, '\0');  // which ends an argument
      return text;
    }
    case 1: return std::to_string(hostile_integer(input));
    case 2: return std::string(input.pick(texts)) + (input.one_in(8) ? input.pick(texts) : "");
    default: return input.pick(texts);
  }
}

template <class T>
void numbers(Input& input) {
  const std::string text = random_text(input);
  T least = static_cast<T>(input.between(-3, 3));
  if (std::is_unsigned_v<T>) least = 0;
  const T most = static_cast<T>(least + static_cast<T>(input.between(0, 1000)));
  constexpr T untouched = 77;
  T number = untouched;
  if (!trainer::parse_number<T>(text, least, most, number)) {
    check(number == untouched, "a number that is refused is not set");
    return;
  }
  check(number >= least && number <= most, "a number is within its range");
  T again = untouched;
  check(trainer::parse_number<T>(trainer::text_of(number), least, most, again) && again == number,
        "a number's text reads back as that number");
}

// A command line of known flags, mostly, and any values.
std::vector<std::string> random_arguments(Input& input, const std::vector<trainer::Flag>& flags) {
  std::vector<std::string> arguments;
  for (int count = input.between(0, 6); count > 0; --count) {
    arguments.push_back(input.one_in(12) ? random_text(input) : input.pick(flags).name);
    if (!input.one_in(12)) arguments.push_back(random_text(input));
  }
  return arguments;
}

// Calls parse(arguments). Returns whether it did not refuse them.
template <class Parse>
bool is_taken(const std::vector<std::string>& arguments, const Parse& parse) {
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  try {
    parse(std::span<const char* const>(pointers));
  } catch (const trainer::OptionError& error) {
    check(error.what()[0] != '\0', "a refusal says why");
    return false;
  }
  return true;
}

// Each flag that tells its value sets it, in options that nothing was set in yet.
void check_values(const std::vector<trainer::Flag>& flags,
                  const std::vector<trainer::Flag>& fresh) {
  for (std::size_t i = 0; i < flags.size(); ++i) {
    if (!flags[i].value) continue;
    const std::string value = flags[i].value();
    if (value == "of the comparison" || value == "0" || value.empty()) continue;  // it was not set
    check(fresh[i].set(value) && fresh[i].value() == value, flags[i].name, " is set to its value ",
          value);
  }
}

bool is_width_or_32(int bits) { return bits == 32 || actpack::is_width(bits); }

void fashion_mnist(Input& input) {
  trainer::Options known;
  const auto arguments = random_arguments(input, training_flags(known));
  trainer::Options options;
  if (!is_taken(arguments, [&](auto pointers) { options = trainer::parse_options(pointers); }))
    return;
  if (options.wants_help) {
    check(trainer::help().size() > 500, "help helps");
    return;
  }
  check(options.threads >= 1 && options.threads <= 1024 && options.train_limit >= 1 &&
            options.epochs >= 0 && options.depth >= 0 && options.depth <= 1000 &&
            is_width_or_32(options.codec.bits) && options.codec.group_size >= 32 &&
            options.codec.group_size % 32 == 0 && !options.json.empty(),
        "options are within their ranges");
  const double average = options.codec.average_bits;
  check(average == 0 || (average >= 1 && average <= 8), "--average-bits is from 1 to 8");
}

void gpt_options(Input& input) {
  gpt::Options known;
  const auto arguments = random_arguments(input, training_flags(known));
  gpt::Options options;
  if (!is_taken(arguments, [&](auto pointers) { options = gpt::parse_options(pointers); })) return;
  if (options.wants_help) {
    check(gpt::help().size() > 500, "help helps");
    return;
  }
  const gpt::ModelShape& shape = options.shape;
  constexpr std::int64_t most = std::int64_t{1} << 32;
  const auto is_count = [](std::int64_t count) { return count >= 1 && count <= most; };
  check(is_count(shape.layers) && is_count(shape.channels) && is_count(shape.heads) &&
            is_count(shape.context) && shape.channels % shape.heads == 0 &&
            is_count(options.training.batch) && is_count(options.validation_windows) &&
            options.training.steps >= 0 && options.threads >= 1 && options.threads <= 1024 &&
            !options.seeds.empty(),
        "options are within their ranges");
  check(options.training.learning_rate >= 0 && options.training.learning_rate < 1e6,
        "--learning-rate is a rate");
  check(options.bits == 0 || is_width_or_32(options.bits), "--bits is a width");
  check(options.average_bits == 0 || (options.average_bits >= 1 && options.average_bits <= 8),
        "--average-bits is from 1 to 8");
  for (const auto& [kind, width] : options.exceptions)
    check(is_width_or_32(width), "--keep gives widths");
  gpt::Options fresh;
  check_values(training_flags(options), training_flags(fresh));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  switch (input.between(0, 7)) {
    case 0: numbers<int>(input); break;
    case 1: numbers<std::int64_t>(input); break;
    case 2: numbers<std::uint64_t>(input); break;
    case 3: numbers<double>(input); break;
    case 4:
    case 5: fashion_mnist(input); break;
    default: gpt_options(input);
  }
  return 0;
}
