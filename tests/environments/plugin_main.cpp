// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A program that chooses portable loops, and prints whether its shared library follows.
#include <actpack/instruction_set.hpp>

#include <cstdio>

extern "C" int instruction_set_of_plugin();

int main() {
  using actpack::InstructionSet;
  if (actpack::best_instruction_set() == InstructionSet::portable) {
    return 77;  // there is nothing to choose
  }
  actpack::use_instruction_set(InstructionSet::portable);
  const bool follows = instruction_set_of_plugin() == static_cast<int>(InstructionSet::portable);
  std::puts(follows ? "one choice" : "a choice of its own");
  return 0;
}
