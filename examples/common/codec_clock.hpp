// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The time that a trainer spends in the library.
#pragma once

#include <omp.h>

#include <chrono>
#include <cstddef>
#include <vector>

namespace trainer {

// Wall-clock time spent in the codec: with two threads at work, a second of one counts half.
class CodecClock {
 public:
  template <class Call>
  void time(const Call& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    threads_[static_cast<std::size_t>(omp_get_thread_num())].seconds +=
        elapsed.count() / omp_get_num_threads();
  }

  double seconds() const {
    double total = 0;
    for (const Thread& thread : threads_) {
      total += thread.seconds;
    }
    return total;
  }

 private:
  struct alignas(64) Thread {  // a cache line each
    double seconds = 0;
  };
  std::vector<Thread> threads_{static_cast<std::size_t>(omp_get_max_threads())};
};

}  // namespace trainer
