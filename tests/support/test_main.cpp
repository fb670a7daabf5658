// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// doctest's own code and main(), for every test: compiled once, because it takes longer than most
// tests do. The environment variable ACTPACK_INSTRUCTION_SET names what the host verbs shall use;
// a test is skipped (status 77) where the processor lacks it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>
#include <string_view>

#include <actpack/instruction_set.hpp>

#include "support/instruction_sets.hpp"

namespace {

constexpr int failed = 1;
constexpr int skipped = 77;

// Returns the exit status that ends the program at once, or 0.
int choose_instruction_set(std::string_view name) {
  for (const actpack::InstructionSet set : support::all_instruction_sets) {
    if (name != support::name_of(set)) continue;
    if (!support::is_available(set)) {
      std::cout << "skipped: this processor lacks " << name << '\n';
      return skipped;
    }
    actpack::use_instruction_set(set);
    return 0;
  }
  std::cerr << "ACTPACK_INSTRUCTION_SET=" << name << " is none of portable, avx2 and avx512\n";
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* const name = std::getenv("ACTPACK_INSTRUCTION_SET")) {
    if (const int status = choose_instruction_set(name); status != 0) return status;
  }
  return doctest::Context(argc, argv).run();
}
