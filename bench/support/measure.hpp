// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// How every row is measured: in rounds that take turns with what the row is compared with.
//
// Clocks, caches and neighbours of a machine change from second to second. So no figure stands
// alone: in every round the subject is timed right after and right before its references (a copy of
// the same bytes, a sort), and a ratio is that of neighbours in time. Reported are medians over
// rounds, and the quartiles beside them.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#ifdef __unix__
#include <sys/resource.h>
#endif

namespace bench {

/// Rounds of a row, the command line changes it; fewer, if they take long.
inline int& rounds() {
  static int count = 31;
  return count;
}
inline constexpr std::size_t enough_rounds = 7;
inline constexpr double long_row_seconds = 5;

struct Quartiles {
  double low = 0;
  double median = 0;
  double high = 0;
};

inline Quartiles quartiles(std::vector<double> values) {
  std::ranges::sort(values);
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const std::size_t below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], place - static_cast<double>(below));
  };
  return {at(0.25), at(0.5), at(0.75)};
}

/// A reference of a row. Counter vs_`name` says how many times as long it takes.
struct Reference {
  std::string name;
  std::function<void()> call;
};

/// Calls that are timed together, for so long that the clock's own time does not count.
class Batch {
 public:
  explicit Batch(std::function<void()> call) : call_(std::move(call)) {
    call_();  // page faults and first decisions
    double seconds = time(1);
    for (int tries = 1; tries < 5 && seconds < long_batch_seconds; ++tries) {
      seconds = std::min(seconds, time(1));  // an interruption is not what a call takes
    }
    seconds = std::max(seconds, 1e-9);
    calls_ = static_cast<int>(std::clamp(std::ceil(batch_seconds / seconds), 1.0, 1e4));
  }

  /// Tries again, a few times, where the processor was taken away in between; returns the try with
  /// the fewest interruptions.
  double seconds_per_call() {
    double seconds = 0;
    std::int64_t fewest = std::numeric_limits<std::int64_t>::max();
    for (int tries = 0; tries < 4 && fewest > 0 && seconds < long_batch_seconds; ++tries) {
      if (calls_ > 1) {
        call_();  // brings back what others threw out of the caches
      }
      const std::int64_t before = interruptions();
      const double elapsed = time(calls_);
      const std::int64_t count = interruptions() - before;
      if (count < fewest) {
        fewest = count;
        seconds = elapsed;
      }
    }
    return seconds / calls_;
  }

 private:
  static constexpr double batch_seconds = 1e-3;
  static constexpr double long_batch_seconds = 2e-2;  // a busy machine never lets them in peace

  static std::int64_t interruptions() {
#ifdef __unix__
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
#else
    return 0;
#endif
  }

  double time(int calls) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      call_();
      benchmark::ClobberMemory();
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count();
  }

  std::function<void()> call_;
  int calls_ = 1;
};

/// How many processors worked for somebody else, on average since its construction, by /proc/stat
/// and with the time that a hypervisor took. Do not believe a row with much of it.
class Neighbours {
 public:
  std::optional<double> processors() const {
    const std::optional<double> busy = busy_seconds();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    if (!busy || !busy_ || elapsed.count() < 0.1) {  // the kernel counts hundredths of seconds
      return std::nullopt;
    }
    const double own = own_seconds() - own_;
    return std::max((*busy - *busy_ - own) / elapsed.count(), 0.0);
  }

 private:
  static std::optional<double> busy_seconds() {
    constexpr double ticks_per_second = 100;  // USER_HZ, the same on every Linux machine
    std::ifstream file("/proc/stat");
    std::string cpu;
    double user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, soft_irq = 0, steal = 0;
    if (!(file >> cpu >> user >> nice >> system >> idle >> waiting >> irq >> soft_irq >> steal)) {
      return std::nullopt;
    }
    return (user + nice + system + irq + soft_irq + steal) / ticks_per_second;
  }
  static double own_seconds() {
    return static_cast<double>(std::clock()) / static_cast<double>(CLOCKS_PER_SEC);
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::optional<double> busy_ = busy_seconds();
  double own_ = own_seconds();
};

/// Measures `subject`, the whole of a row registered by rows.hpp. The row's time is the median of a
/// call. Counters: `rounds`; `spread`, the interquartile range of that time over the median; for
/// every reference vs_name (above 1: the subject is faster), the quartiles vs_name_low and
/// vs_name_high, and name_seconds; `neighbours`, other people's busy processors. Returns the
/// median.
inline double measure(benchmark::State& state, std::function<void()> subject,
                      const std::vector<Reference>& references) {
  Batch own(std::move(subject));
  std::vector<Batch> others;
  for (const Reference& reference : references) {
    others.emplace_back(reference.call);
  }
  const Neighbours neighbours;
  std::vector<double> seconds;
  std::vector<std::vector<double>> other_seconds(others.size());
  std::vector<std::vector<double>> ratios(others.size());
  double median = 0;
  for (auto _ : state) {  // once
    const auto time_others = [&] {
      for (std::size_t i = 0; i < others.size(); ++i) {
        other_seconds[i].push_back(others[i].seconds_per_call());
      }
    };
    const auto start = std::chrono::steady_clock::now();
    const auto is_long = [&] {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      return seconds.size() >= enough_rounds && elapsed.count() > long_row_seconds;
    };
    time_others();
    for (int round = 0; round < rounds() && !is_long(); ++round) {
      seconds.push_back(own.seconds_per_call());
      time_others();
      for (std::size_t i = 0; i < others.size(); ++i) {
        const double before = other_seconds[i][other_seconds[i].size() - 2];
        const double after = other_seconds[i].back();
        ratios[i].push_back((before + after) / 2 / seconds.back());
      }
    }
    const Quartiles times = quartiles(seconds);
    median = times.median;
    state.SetIterationTime(times.median);
    state.counters["rounds"] = static_cast<double>(seconds.size());
    state.counters["spread"] = (times.high - times.low) / times.median;
  }
  for (std::size_t i = 0; i < others.size(); ++i) {
    const Quartiles ratio = quartiles(ratios[i]);
    const std::string& name = references[i].name;
    state.counters["vs_" + name] = ratio.median;
    state.counters["vs_" + name + "_low"] = ratio.low;
    state.counters["vs_" + name + "_high"] = ratio.high;
    state.counters[name + "_seconds"] = quartiles(other_seconds[i]).median;
  }
  if (const std::optional<double> processors = neighbours.processors()) {
    state.counters["neighbours"] = *processors;
  }
  return median;
}

}  // namespace bench
