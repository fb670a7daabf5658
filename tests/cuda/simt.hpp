// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs kernels on the CPU, from the source that nvcc compiles: each of their threads is a thread of
// the operating system. Include it before the kernels.
//
// It is stricter than a device. A shuffle must name its caller and the lane whose value it takes.
// If a thread misses a shuffle or a barrier that it owes the others, the launch ends with an
// exception as soon as no thread can go on, not with a hang. ThreadSanitizer sees no order between
// the threads of a block but that of __syncthreads: CUDA promises none for shuffles. Blocks run one
// after another, so races between them stay unseen. Newer ThreadSanitizers (clang 14, GCC 13) tell
// 255 threads apart and miss races in larger blocks.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#define ACTPACK_SIMT  // shows the device's classes and kernels to the host's compiler
#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // shared by the threads of the one block that runs

struct SimtIndex {
  unsigned x = 0, y = 0, z = 0;
};
inline thread_local SimtIndex threadIdx, blockIdx;
inline thread_local SimtIndex blockDim{1, 1, 1}, gridDim{1, 1, 1};

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ACTPACK_SIMT_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define ACTPACK_SIMT_TSAN
#endif
#if defined(ACTPACK_SIMT_TSAN)
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
}
#endif

namespace simt {

// While one lives, ThreadSanitizer neither sees what its thread accesses nor lets it order
// anything.
class Unseen {
 public:
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
#if defined(ACTPACK_SIMT_TSAN)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
  ~Unseen() {}
#endif
};

// Waits and notifies as std::atomic does, but orders threads by the value alone: libstdc++ keeps
// waiting threads in tables that all atomics share.
template <class T>
T wait_while(const std::atomic<T>& value, T old) {
  {
    const Unseen unseen;
    value.wait(old);
  }
  return value.load();
}
template <class T>
void notify(std::atomic<T>& value) {
  const Unseen unseen;
  value.notify_all();
}

// The running block: where its threads meet.
class Block {
 public:
  Block(unsigned number, unsigned threads)
      : number_(number), threads_(threads), running_(threads), staying_(threads) {}

  // One thread's life, from the kernel's first instruction to its last.
  template <class Kernel>
  void run(const Kernel& kernel) {
    try {
      kernel();
      leave();
    } catch (const Stopped&) {
      // Another thread, or this one, has said why.
    }
  }

  void synchronize() {
    meet(barrier_, threads_, [](unsigned) {});
  }

  // The value of the lane whose number differs by the bits `lane_mask`.
  std::uint32_t exchange(std::uint32_t mask, std::uint32_t value, int lane_mask) {
    const Unseen unseen;
    const unsigned lane = threadIdx.x % 32;
    const unsigned from = (lane ^ static_cast<unsigned>(lane_mask)) % 32;
    if ((mask >> lane & 1) == 0) {
      fail(shuffle_name(mask) + ": lane " + std::to_string(lane) + " is not in its own mask");
    }
    if ((mask >> from & 1) == 0) {
      fail(shuffle_name(mask) + ": lane " + std::to_string(from) + " gives no value");
    }
    Shuffle& shuffle = shuffle_of(threadIdx.x / 32, mask);
    const unsigned round = meet(shuffle.meeting, static_cast<unsigned>(std::popcount(mask)),
                                [&](unsigned r) { shuffle.values[r % 2][lane] = value; });
    return shuffle.values[round % 2][from];
  }

  // After all threads have ended.
  void throw_error() const {
    if (!error_.empty()) throw std::runtime_error(error_);
  }

 private:
  struct Stopped {};

  // Of the threads that wait for one another, in rounds.
  struct Meeting {
    std::mutex mutex;
    unsigned arrived = 0;
    std::atomic<unsigned> round{0};

    void next_round() {
      ++round;
      notify(round);
    }
  };

  // Of the lanes of a mask. The values of one round may still be read while the next one gathers.
  struct Shuffle {
    Meeting meeting;
    std::array<std::array<std::uint32_t, 32>, 2> values{};
  };

  // Comes to a meeting of `size` threads and calls arrive(round) before the others can go on.
  template <class Arrive>
  unsigned meet(Meeting& meeting, unsigned size, Arrive arrive) {
    std::unique_lock lock(meeting.mutex);
    if (has_failed()) throw Stopped{};
    const unsigned round = meeting.round;
    arrive(round);
    if (++meeting.arrived == size) {
      meeting.arrived = 0;
      add_running(size - 1);
      meeting.next_round();
      return round;
    }
    const bool is_stuck = is_last_to_stop();
    lock.unlock();
    if (is_stuck) fail_stuck();
    wait_while(meeting.round, round);
    if (has_failed()) throw Stopped{};
    return round;
  }

  Shuffle& shuffle_of(unsigned warp, std::uint32_t mask) {
    const std::lock_guard lock(shuffles_mutex_);
    return shuffles_[{warp, mask}];
  }

  static std::string shuffle_name(std::uint32_t mask) {
    std::array<char, 40> name{};
    std::snprintf(name.data(), name.size(), "__shfl_xor_sync with mask 0x%08x", mask);
    return name.data();
  }

  // A waiting thread is not running; it runs again from the moment its meeting is complete. When no
  // thread runs, nobody will come to the incomplete meetings.
  void add_running(unsigned threads) {
    const Unseen unseen;
    running_ += threads;
  }
  bool is_last_to_stop() {
    const Unseen unseen;
    return --running_ == 0;
  }
  void leave() {
    const Unseen unseen;
    --staying_;
    if (is_last_to_stop() && staying_ != 0) fail_stuck();
  }

  [[noreturn]] void fail_stuck() {
    const Unseen unseen;
    std::string what = "no thread can go on";
    const auto add = [&](const std::string& name, Meeting& meeting, unsigned size) {
      const std::lock_guard lock(meeting.mutex);
      if (meeting.arrived != 0) {
        what += "; " + std::to_string(meeting.arrived) + " of " + std::to_string(size) +
                " came to " + name;
      }
    };
    add("__syncthreads", barrier_, threads_);
    for (auto& [key, shuffle] : shuffles_) {
      add(shuffle_name(key.second) + " in warp " + std::to_string(key.first), shuffle.meeting,
          static_cast<unsigned>(std::popcount(key.second)));
    }
    fail(what);
  }

  bool has_failed() const {
    const Unseen unseen;
    return failed_;
  }

  // Ends all threads of the block.
  [[noreturn]] void fail(const std::string& what) {
    const Unseen unseen;
    const std::lock_guard lock(shuffles_mutex_);
    if (error_.empty()) {
      error_ = "simt: block " + std::to_string(number_) + ", thread " +
               std::to_string(threadIdx.x) + ": " + what;
    }
    failed_ = true;
    const auto wake = [](Meeting& meeting) {
      const std::lock_guard lock_of_meeting(meeting.mutex);
      meeting.next_round();
    };
    wake(barrier_);
    for (auto& [key, shuffle] : shuffles_) wake(shuffle.meeting);
    throw Stopped{};
  }

  unsigned number_, threads_;
  std::atomic<unsigned> running_, staying_;
  std::atomic<bool> failed_{false};
  std::string error_;
  Meeting barrier_;
  std::mutex shuffles_mutex_;
  std::map<std::pair<unsigned, std::uint32_t>, Shuffle> shuffles_;  // by warp and mask
};

inline thread_local Block* current_block = nullptr;

// A thread that serves many launches: sanitizers are slow to make one. Each answers to its launcher
// alone, so that they do not order one another.
class Worker {
 public:
  Worker() : thread_([this] { serve(); }) {}
  ~Worker() {
    change_to(State::leaving);
    thread_.join();
  }
  void start(std::function<void()> work) {
    work_ = std::move(work);
    change_to(State::working);
  }
  void finish() { wait_while(state_, State::working); }

 private:
  enum class State { idle, working, leaving };

  void change_to(State state) {
    state_ = state;
    notify(state_);
  }
  void serve() {
    while (wait_while(state_, State::idle) == State::working) {
      work_();
      change_to(State::idle);
    }
  }

  std::atomic<State> state_{State::idle};
  std::function<void()> work_;
  std::thread thread_;  // the last member: it uses the others
};
inline std::deque<Worker> workers;

// Runs a grid. Throws std::runtime_error if its threads do something that a device does not define.
template <class... P>
void launch(unsigned blocks, unsigned threads, void (*kernel)(P...),
            const std::type_identity_t<P>&... arguments) {
  if (workers.size() < threads) workers.resize(threads);
  for (unsigned b = 0; b < blocks; ++b) {
    Block block(b, threads);
    for (unsigned t = 0; t < threads; ++t) {
      workers[t].start([&, t] {
        threadIdx = {t, 0, 0};
        blockIdx = {b, 0, 0};
        blockDim = {threads, 1, 1};
        gridDim = {blocks, 1, 1};
        current_block = &block;
        block.run([&] { kernel(arguments...); });
      });
    }
    for (unsigned t = 0; t < threads; ++t) workers[t].finish();
    block.throw_error();
  }
}

}  // namespace simt

inline void __syncthreads() { simt::current_block->synchronize(); }

inline unsigned long long atomicAdd(unsigned long long* sum, unsigned long long value) {
  return std::atomic_ref(*sum).fetch_add(value, std::memory_order_relaxed);
}

inline std::uint32_t __shfl_xor_sync(std::uint32_t mask, std::uint32_t value, int lane_mask) {
  return simt::current_block->exchange(mask, value, lane_mask);
}
