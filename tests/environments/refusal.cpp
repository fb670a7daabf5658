// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A program without exceptions that makes a mistake: it prints the sentence and aborts.
#include <actpack/auto_precision.hpp>

#include <csignal>
#include <cstdlib>

int main() {
  std::signal(SIGABRT, [](int) { std::_Exit(0); });
  const actpack::AutoPrecision precision({.average_bits = 0.9999999999});
  return 1;
}
