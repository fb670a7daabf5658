// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Shared by the tests of research programs: exact contexts, numbers of threads, searches in texts.
#pragma once

#include <omp.h>

#include <cstddef>
#include <string>

#include <doctest/doctest.h>

#include "train_fashion_mnist/contexts.hpp"

namespace support {

inline trainer::Contexts exact_contexts() { return {trainer::Codec::full_precision(), 0}; }

// Calls test() with one thread and with more, and leaves one.
template <class Test>
void for_each_thread_count(const Test& test) {
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    omp_set_num_threads(threads);
    test();
  }
  omp_set_num_threads(1);
}

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

}  // namespace support
