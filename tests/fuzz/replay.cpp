// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs a fuzz target without libFuzzer, so that any compiler and processor can: over the files of a
// corpus, and over inputs of its own.
//
//   fuzz_NAME [--inputs N] [--seed S] [--only I] [FILE | FOLDER]...
//
// The inputs are random bytes, numbered from 0, each a function of the seed and its number alone.
// --only runs one of them. Whatever ends the program says how to see it again.

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz.hpp"

// AddressSanitizer and its relatives end the program without a signal, but call this back.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

constexpr std::size_t largest_input = 512;

const char* program = "";
std::string running;  // the arguments that repeat the input under test

void say_how_to_repeat() {
  if (!running.empty()) std::cerr << "repeat: " << program << " " << running << std::endl;
  running.clear();
}

void on_signal(int signal) {
  say_how_to_repeat();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const std::string& arguments, const std::vector<std::uint8_t>& input) {
  running = arguments;
  // A copy of the exact size, so that AddressSanitizer sees who reads beyond it.
  const std::vector<std::uint8_t> exact(input);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  running.clear();
}

std::vector<std::uint8_t> random_input(std::uint64_t seed, std::uint64_t number) {
  support::Generator generator(seed + 0x9E3779B97F4A7C15 * number);
  // Of all sizes alike, on a logarithmic scale.
  const std::size_t limit = std::size_t{1}
                            << (1 + generator.below(std::bit_width(largest_input) - 1));
  std::vector<std::uint8_t> input(generator.below(static_cast<std::uint32_t>(limit + 1)));
  std::ranges::generate(input, [&] { return static_cast<std::uint8_t>(generator.bits() >> 56); });
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  program = argv[0];
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL})
    std::signal(signal, on_signal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(say_how_to_repeat);

  std::uint64_t seed = 0, first = 0, inputs = 0, files = 0;
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::strtoull(argv[++i], nullptr, 10) : 0; };
    if (argument == "--inputs") {
      inputs = value();
    } else if (argument == "--seed") {
      seed = value();
    } else if (argument == "--only") {
      first = value();
      inputs = 1;
    } else if (std::filesystem::is_directory(argument)) {
      std::ranges::copy(std::filesystem::directory_iterator(argument), std::back_inserter(paths));
    } else {
      paths.emplace_back(argument);
    }
  }
  std::ranges::sort(paths);
  for (const std::filesystem::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::cerr << path.string() << ": cannot be read" << std::endl;
      return EXIT_FAILURE;
    }
    run(path.string(), {std::istreambuf_iterator<char>(file), {}});
    ++files;
  }
  for (std::uint64_t number = first; number < first + inputs; ++number) {
    run("--seed " + std::to_string(seed) + " --only " + std::to_string(number),
        random_input(seed, number));
  }
  std::cout << files << " files and " << inputs << " random inputs" << std::endl;
  return EXIT_SUCCESS;
}
