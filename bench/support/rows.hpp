// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Names and registers rows, verb/variant/type/bits:b/numel:n, and runs those that the command line
// asks for.
//
//   x_bench [--rounds=N] [--quick] [--instruction_set=portable|avx2|avx512]
//           [option of Google Benchmark...]
//
// --quick: the least of every kind, once, to see that all of it works.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actpack/float16.hpp"
#include "actpack/instruction_set.hpp"
#include "support/measure.hpp"
#include "support/memory_speed.hpp"

#ifndef ACTPACK_BENCH_FLAGS
#define ACTPACK_BENCH_FLAGS "unknown"
#endif

namespace bench {

template <class T>
std::string type_name();
template <>
inline std::string type_name<float>() {
  return "float";
}
template <>
inline std::string type_name<actpack::bfloat16>() {
  return "bfloat16";
}
template <>
inline std::string type_name<actpack::float16>() {
  return "float16";
}
template <>
inline std::string type_name<std::uint8_t>() {
  return "uint8";
}

inline constexpr std::initializer_list<int> every_width{1, 2, 4, 8};

/// A row that measures once, in rounds of its own.
inline void add_row(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// Rows of `run`(state, numel) for tensors of T at every size.
template <class T>
void add(const std::string& verb, const std::function<void(benchmark::State&, std::int64_t)>& run) {
  for (const std::int64_t bytes : sizes_in_bytes) {
    const std::int64_t numel = bytes / static_cast<std::int64_t>(sizeof(T));
    add_row(verb + "/" + type_name<T>() + "/numel:" + std::to_string(numel),
            [=](benchmark::State& state) { run(state, numel); });
  }
}

/// Rows of `run`(state, numel, bits) at every size and the widths that are named.
template <class T>
void add(const std::string& verb, std::initializer_list<int> widths,
         const std::function<void(benchmark::State&, std::int64_t, int)>& run) {
  for (const int bits : widths) {
    for (const std::int64_t bytes : sizes_in_bytes) {
      const std::int64_t numel = bytes / static_cast<std::int64_t>(sizeof(T));
      add_row(verb + "/" + type_name<T>() + "/bits:" + std::to_string(bits) +
                  "/numel:" + std::to_string(numel),
              [=](benchmark::State& state) { run(state, numel, bits); });
    }
  }
}

inline constexpr std::array<const char*, 3> instruction_set_names{"portable", "avx2", "avx512"};

inline void choose_instruction_set(std::string_view name) {
  const auto found = std::ranges::find(instruction_set_names, name);
  if (found == instruction_set_names.end()) {
    throw std::invalid_argument("--instruction_set=" + std::string(name) +
                                ": expected portable, avx2 or avx512");
  }
  actpack::use_instruction_set(
      static_cast<actpack::InstructionSet>(found - instruction_set_names.begin()));
}

inline std::string chosen_instruction_set() {
  return instruction_set_names[static_cast<std::size_t>(actpack::instruction_set())];
}

/// The sizes of --quick: tensors of 64 KiB, 128 items, a step and its last activations.
inline constexpr const char* quick_rows =
    "--benchmark_filter=numel:(16384|32768|65536)/|items:128/|training_step|_3_";

/// Acts on one of our options; returns whether it is one. Sets `is_quick` at --quick.
inline bool apply_option(std::string_view option, bool& is_quick) {
  constexpr std::string_view rounds_option = "--rounds=";
  constexpr std::string_view set_option = "--instruction_set=";
  if (option == "--quick") {
    is_quick = true;
    rounds() = 1;
    return true;
  }
  if (option.starts_with(set_option)) {
    choose_instruction_set(option.substr(set_option.size()));
    return true;
  }
  if (option.starts_with(rounds_option)) {
    const std::string_view number = option.substr(rounds_option.size());
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), rounds());
    if (error != std::errc() || end != number.data() + number.size() || rounds() < 1) {
      throw std::invalid_argument(std::string(option) + ": expected a whole number from 1");
    }
    return true;
  }
  return false;
}

inline std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

/// Cycles per nanosecond: what a chain of additions, one a cycle, takes. The best of several, as a
/// clock cannot be too fast.
inline double clock_ghz() {
  double best = 0;
#ifdef __GNUC__
  for (int round = 0; round < 10; ++round) {
    constexpr int chains = 100'000;
    std::uint64_t x = 0;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < chains; ++i) {
      for (int j = 0; j < 16; ++j) {
        x += 1;
        asm volatile("" : "+r"(x));  // no sixteen at once
      }
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(x) / elapsed.count() / 1e9);
  }
#endif
  return best;
}

/// The name of the program and its options, without paths: where it lies and writes is nobody's
/// business.
inline std::string command_of(int argc, char** argv) {
  std::string command = argv[0];
  command.erase(0, command.rfind('/') + 1);
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (!option.starts_with("--benchmark_out")) {
      command += " " + option;
    }
  }
  return command;
}

/// The body of main(): `add_rows` registers every row.
inline int run(int argc, char** argv, const std::function<void()>& add_rows) {
  try {
    benchmark::AddCustomContext("command", command_of(argc, argv));
    std::vector<char*> arguments;
    bool is_quick = false;
    for (char* argument : std::vector<char*>(argv, argv + argc)) {
      if (!apply_option(argument, is_quick)) {
        arguments.push_back(argument);
      }
    }
    std::string filter = quick_rows;
    if (is_quick) {
      arguments.insert(arguments.begin() + 1, filter.data());  // a filter of the user's comes later
    }
    int count = static_cast<int>(arguments.size());
    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) {
      return 1;
    }
    benchmark::AddCustomContext("instruction_set", chosen_instruction_set());
    benchmark::AddCustomContext("rounds", std::to_string(rounds()));
    benchmark::AddCustomContext("measured_clock_ghz", std::to_string(clock_ghz()));
    benchmark::AddCustomContext("compiler", compiler());
    benchmark::AddCustomContext("flags", ACTPACK_BENCH_FLAGS);
    add_rows();
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace bench
