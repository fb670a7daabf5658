// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The flags of a command line: how each is declared, described and set.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace trainer {

class OptionError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One flag: its line in --help, the values it expects, and how it takes one. A setter that returns
// false refuses the value. Flags that a training run's numbers depend on tell the value that is
// set, in words that would set it.
struct Flag {
  std::string name;
  std::string values;
  std::string help;
  std::string expected;
  std::function<bool(std::string_view)> set;
  std::function<std::string()> value = {};
};

// In digits that read back as the same number.
template <class T>
std::string text_of(T number);

// Sets `target` if `text` is a number from `least` to `most` and nothing else.
template <class T>
bool parse_number(std::string_view text, std::type_identity_t<T> least,
                  std::type_identity_t<T> most, T& target);

// Defined for int, std::int32_t, std::int64_t, std::uint64_t and double, as the two above are.
template <class T>
Flag number_flag(const std::string& name, const std::string& values, const std::string& help,
                 T& target, std::type_identity_t<T> least, std::type_identity_t<T> most);

// Sets `target` to whether the value is `yes`, which is one of the two.
Flag choice_flag(const std::string& name, const std::string& first, const std::string& second,
                 const std::string& help, bool& target, const std::string& yes);

// A file or a folder.
Flag path_flag(const std::string& name, const std::string& values, const std::string& help,
               const std::string& expected, std::string& target);

// The flags that several programs have.
Flag fashion_mnist_flag(std::string& folder);
Flag threads_flag(const std::string& help, int& threads);
Flag seed_flag(std::uint64_t& seed);
Flag epochs_flag(std::int64_t least, std::int64_t& epochs);
Flag train_limit_flag(std::int64_t& images);
Flag depth_flag(std::int64_t& depth);
Flag decode_flag(bool& is_subtractive);
Flag rounding_flag(bool& is_stochastic);

// The largest of --train-limit: all images.
inline constexpr std::int64_t all_images = std::int64_t{1} << 32;

// Sets `width` if `text` is one of actpack's widths or 32, which stands for full precision.
bool parse_width(std::string_view text, int& width);

// The lines of --help.
std::string describe(const std::vector<Flag>& flags);

// Sets the fields that the arguments name; returns false, having set no more, where help is asked
// for. Throws OptionError, in one line with flag and value, for an argument it does not know.
bool set_flags(const std::vector<Flag>& known, std::span<const char* const> arguments);

}  // namespace trainer
