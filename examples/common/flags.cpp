// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Reads command lines and writes their help.

#include "common/flags.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <system_error>

#include "actpack/bit_pack.hpp"
#include "common/json.hpp"

namespace trainer {
namespace {

template <class T>
std::string range_text(T least, T most) {
  return (std::is_integral_v<T> ? "a whole number from " : "a number from ") + text_of(least) +
         " to " +
         (std::is_same_v<T, std::uint64_t> && most == std::numeric_limits<T>::max()
              ? "2^64 - 1"
              : text_of(most));
}

}  // namespace

template <class T>
std::string text_of(T number) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

template <class T>
bool parse_number(std::string_view text, std::type_identity_t<T> least,
                  std::type_identity_t<T> most, T& target) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() ||
      !(number >= least && number <= most)) {
    return false;
  }
  target = number;
  return true;
}

template <class T>
Flag number_flag(const std::string& name, const std::string& values, const std::string& help,
                 T& target, std::type_identity_t<T> least, std::type_identity_t<T> most) {
  return {name,
          values,
          help,
          range_text<T>(least, most),
          [&target, least, most](auto text) { return parse_number(text, least, most, target); },
          [&target] { return text_of(target); }};
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define ACTPACK_DEFINE_FOR(T)                             \
  template std::string text_of(T);                        \
  template bool parse_number(std::string_view, T, T, T&); \
  template Flag number_flag(const std::string&, const std::string&, const std::string&, T&, T, T);
ACTPACK_DEFINE_FOR(int)
ACTPACK_DEFINE_FOR(std::int64_t)
ACTPACK_DEFINE_FOR(std::uint64_t)
ACTPACK_DEFINE_FOR(double)
#undef ACTPACK_DEFINE_FOR
// NOLINTEND(bugprone-macro-parentheses)

Flag choice_flag(const std::string& name, const std::string& first, const std::string& second,
                 const std::string& help, bool& target, const std::string& yes) {
  return {name,
          first + "|" + second,
          help,
          first + " or " + second,
          [&target, first, second, yes](std::string_view text) {
            target = text == yes;
            return text == first || text == second;
          },
          [&target, first, second, yes] { return target == (first == yes) ? first : second; }};
}

Flag path_flag(const std::string& name, const std::string& values, const std::string& help,
               const std::string& expected, std::string& target) {
  return {name, values, help, expected, [&target](std::string_view text) {
            target = text;
            return !text.empty();
          }};
}

Flag fashion_mnist_flag(std::string& folder) {
  return path_flag("--data", "DIR", "folder with Fashion-MNIST; none: a small generated data set",
                   "a folder, or none", folder);
}

Flag threads_flag(const std::string& help, int& threads) {
  Flag flag = number_flag("--threads", "T", help, threads, 1, 1024);
  flag.value = nullptr;  // no number depends on it
  return flag;
}

Flag seed_flag(std::uint64_t& seed) {
  return number_flag("--seed", "S", "of weights, order and rounding (0)", seed, 0,
                     ~std::uint64_t{0});
}

Flag epochs_flag(std::int64_t least, std::int64_t& epochs) {
  return number_flag("--epochs", "N", "passes over the training set (2)", epochs, least, 100'000);
}

Flag train_limit_flag(std::int64_t& images) {
  return number_flag("--train-limit", "N", "train on the first N images only", images, 1,
                     all_images);
}

Flag depth_flag(std::int64_t& depth) {
  return number_flag("--depth", "D", "further convolutions after the first block (0)", depth, 0,
                     1000);
}

Flag decode_flag(bool& is_subtractive) {
  return choice_flag("--decode", "plain", "subtractive",
                     "subtractive takes the dither out again (subtractive)", is_subtractive,
                     "subtractive");
}

Flag rounding_flag(bool& is_stochastic) {
  return choice_flag("--rounding", "stochastic", "nearest", "how values become codes (stochastic)",
                     is_stochastic, "stochastic");
}

bool parse_width(std::string_view text, int& width) {
  return parse_number(text, 1, 32, width) && (width == 32 || actpack::is_width(width));
}

std::string describe(const std::vector<Flag>& flags) {
  std::string text;
  for (const Flag& flag : flags) {
    std::string left = format("  %s %s", flag.name.c_str(), flag.values.c_str());
    left.resize(std::max<std::size_t>(left.size() + 2, 36), ' ');
    text += left + flag.help + "\n";
  }
  return text;
}

bool set_flags(const std::vector<Flag>& known, std::span<const char* const> arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string name = arguments[i];
    if (name == "--help" || name == "-h") {
      return false;
    }
    const auto flag = std::ranges::find(known, name, &Flag::name);
    if (flag == known.end()) {
      throw OptionError(name + ": unknown flag (--help lists them)");
    }
    if (++i == arguments.size()) {
      throw OptionError(name + ": needs a value: " + flag->expected);
    }
    if (!flag->set(arguments[i])) {
      throw OptionError(name + " " + arguments[i] + ": expected " + flag->expected);
    }
  }
  return true;
}

}  // namespace trainer
