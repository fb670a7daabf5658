// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// One line on a terminal: progress, rate and remaining time. Silent elsewhere.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

namespace trainer {

class Progress {
 public:
  // `first` of them were done before.
  Progress(std::string name, std::int64_t total, std::string unit, std::int64_t first = 0)
      : name_(std::move(name)), total_(total), unit_(std::move(unit)), first_(first) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (is_terminal_) {
      std::fputs("\r\033[K", stderr);  // leaves the line empty
    }
  }

  void operator()(std::int64_t done) {
    const Clock::time_point now = Clock::now();
    if (!is_terminal_ || now - shown_ < std::chrono::milliseconds(200)) {
      return;
    }
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double rate = static_cast<double>(done - first_) / seconds;
    const long left = std::lround(static_cast<double>(total_ - done) / rate);
    std::fprintf(stderr, "\r\033[K%s: %3.0f %%, %.0f %s/s, %ld:%02ld left", name_.c_str(),
                 100.0 * static_cast<double>(done) / static_cast<double>(total_), rate,
                 unit_.c_str(), left / 60, left % 60);
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string name_;
  std::int64_t total_;
  std::string unit_;
  std::int64_t first_;
  bool is_terminal_ = isatty(STDERR_FILENO) != 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
};

}  // namespace trainer
