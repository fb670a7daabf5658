// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A shared library that says which instruction set its host verbs use.
#include <actpack/instruction_set.hpp>

extern "C" __attribute__((visibility("default"))) int instruction_set_of_plugin() {
  return static_cast<int>(actpack::instruction_set());
}
