// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Hands the work of a verb to a pool of std::thread, and gets the words that one thread makes.
//
//   g++ -std=c++20 -O2 -pthread -I include examples/threads.cpp
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "actpack/actpack.hpp"

namespace {

/// Threads that wait for loops, as a trainer has them: they spin, because a verb's work is done in
/// less time than waking a thread takes.
class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) {
      threads_.emplace_back([this] { help(); });
    }
  }
  ~Pool() {
    stop_ = true;
    ++loops_;
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  /// Calls body(0), …, body(count − 1), each once, and returns when all are done.
  template <class Body>
  void operator()(std::int64_t count, const Body& body) {
    call_ = [](const void* context, std::int64_t i) { (*static_cast<const Body*>(context))(i); };
    context_ = &body;
    count_ = count;
    next_ = 0;
    working_ = static_cast<int>(threads_.size());
    ++loops_;  // starts the helpers
    take_turns();
    while (working_ != 0) {
      std::this_thread::yield();
    }
  }

 private:
  void take_turns() {
    for (std::int64_t i = next_++; i < count_; i = next_++) {
      call_(context_, i);
    }
  }
  void help() {
    for (int done = 0;; ++done) {
      while (loops_ == done) {
        std::this_thread::yield();
      }
      if (stop_) {
        return;
      }
      take_turns();
      --working_;
    }
  }

  void (*call_)(const void*, std::int64_t) = nullptr;
  const void* context_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_ = 0;
  std::atomic<int> working_ = 0;
  std::atomic<int> loops_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

int main() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(1 << 20);
  std::ranges::generate(x, [&] { return normal(generator); });

  const actpack::Layout layout{.row_size = 1 << 20, .bits = 2};
  actpack::PackedBuffer alone(layout);
  actpack::PackedBuffer shared(layout);
  const auto rounding = actpack::Rounding::stochastic(/*seed=*/1);

  Pool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())) - 1);
  actpack::quantize(x, alone.view(), rounding);
  actpack::quantize(x, shared.view(), rounding, pool);
  std::vector<float> y(x.size());
  actpack::dequantize(shared.view(), y, actpack::Decoding::subtractive(rounding), pool);

  const bool same =
      std::equal(alone.view().words, alone.view().words + layout.num_words(), shared.view().words);
  std::printf("%s\n", same ? "the words of one thread" : "other words");
  return same ? 0 : 1;
}
