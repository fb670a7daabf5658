// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How a run keeps its activations, as the command line says it, and the time that takes.
#pragma once

#include <omp.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trainer {

struct Codec {
  enum class Form {
    full_precision,  // every tensor that an autograd framework keeps, in float
    lean,            // the least that full precision can do with: one float copy per block
    sign_magnitude,  // actpack's one context for batch norm, ReLU and the next layer
    affine,          // ActNN's way: two affine copies and a ReLU mask
  };

  Form form = Form::sign_magnitude;
  int bits = 2;
  double average_bits = 0;  // if not 0, instead: widths by tensor, found as the run goes
  bool is_subtractive = true;
  bool is_stochastic = true;
  bool has_tensor_range = false;  // one range for the whole tensor, not one per group
  std::int32_t group_size = 256;
};

// Time spent in the codec as a share of the clock on the wall: where two threads run, a second of
// one of them counts half.
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
