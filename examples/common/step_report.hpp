// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results of a step and of a training run: loss, memory and time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/memory.hpp"

namespace trainer {

// The allocator's bytes beyond those at the beginning of a step: parameters, the optimizer's state,
// the threads' scratch and the data are there before and not counted. They are the same however
// activations are saved.
class StepMemory {
 public:
  StepMemory() { memory::restart_peak(); }

  std::int64_t live_bytes() const { return memory::live_bytes() - before_; }
  std::int64_t peak_bytes() const { return memory::peak_bytes() - before_; }

 private:
  std::int64_t before_ = memory::live_bytes();
};

struct StepReport {
  double loss = 0;
  std::int64_t saved_bytes = 0;  // between the forward and the backward pass
  std::int64_t peak_bytes = 0;   // the most at any moment of the step
};

struct TrainingReport {
  std::vector<double> losses;  // of every step
  std::int64_t saved_bytes = 0;
  std::int64_t peak_bytes = 0;
  double seconds = 0;
  double codec_seconds = 0;

  void add(const StepReport& step) {
    losses.push_back(step.loss);
    saved_bytes = std::max(saved_bytes, step.saved_bytes);
    peak_bytes = std::max(peak_bytes, step.peak_bytes);
  }
  void visit(Checkpoint& checkpoint) {
    checkpoint.visit("losses", losses);
    checkpoint.visit("saved bytes", saved_bytes);
    checkpoint.visit("peak bytes", peak_bytes);
    checkpoint.visit("seconds", seconds);
    checkpoint.visit("codec seconds", codec_seconds);
  }
};

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace trainer
