// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Work in two processes that talk to each other over a socket.
#pragma once

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <span>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

namespace support {

inline void send_all(int socket, const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, next, size, MSG_NOSIGNAL);
    if (sent <= 0) throw std::runtime_error("nothing could be sent");
    next += sent;
    size -= static_cast<std::size_t>(sent);
  }
}

inline void receive_all(int socket, void* data, std::size_t size) {
  char* next = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t received = ::recv(socket, next, size, 0);
    if (received <= 0) throw std::runtime_error("nothing came");
    next += received;
    size -= static_cast<std::size_t>(received);
  }
}

inline void set_timeout(int socket, int seconds) {
  const timeval time{.tv_sec = seconds, .tv_usec = 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

// Sums over two ranks: each sends its own, one first and the other then, as large arrays would
// block both.
inline std::function<void(std::span<double>)> all_reduce_over(int socket, int rank) {
  return [socket, rank](std::span<double> values) {
    const std::uint64_t own_size = values.size();
    std::uint64_t other_size = 0;
    std::vector<double> other(values.size());
    for (const int sender : {0, 1}) {
      if (sender == rank) {
        send_all(socket, &own_size, sizeof(own_size));
        send_all(socket, values.data(), values.size_bytes());
      } else {
        receive_all(socket, &other_size, sizeof(other_size));
        if (other_size != own_size) throw std::runtime_error("arrays of two sizes");
        receive_all(socket, other.data(), values.size_bytes());
      }
    }
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  };
}

struct RankReport {
  int exit_code = -1;  // -1: killed
  std::vector<std::uint8_t> bytes;
};

// Runs work(rank, socket to the other rank) in two processes and returns what each gave back. One
// that fails or hangs ends both: by its exit code, an end of file, a time-out or, last, an alarm.
template <class Work>
inline std::array<RankReport, 2> run_two_ranks(const Work& work) {
  std::array<int, 2> link{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, link.data()) == 0);
  std::array<std::array<int, 2>, 2> reports{};
  for (auto& report : reports) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, report.data()) == 0);
  }
  std::fflush(nullptr);
  std::array<pid_t, 2> children{};
  for (const int rank : {0, 1}) {
    const auto self = static_cast<std::size_t>(rank);
    children[self] = ::fork();
    if (children[self] != 0) continue;
    int code = 1;
    try {
      ::alarm(60);
      ::close(link[1 - self]);
      ::close(reports[1 - self][1]);
      set_timeout(link[self], 20);
      const std::vector<std::uint8_t> bytes = work(rank, link[self]);
      send_all(reports[self][1], bytes.data(), bytes.size());
      code = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    }
    ::_exit(code);  // not this process's tests, buffers and leaks
  }
  for (const std::size_t rank : {0U, 1U}) {
    ::close(link[rank]);
    ::close(reports[rank][1]);
  }
  std::array<RankReport, 2> results;
  for (const std::size_t rank : {0U, 1U}) {
    REQUIRE(children[rank] > 0);
    set_timeout(reports[rank][0], 70);
    std::array<std::uint8_t, 4096> chunk{};
    for (ssize_t size = 1; size > 0;) {
      size = ::recv(reports[rank][0], chunk.data(), chunk.size(), 0);
      results[rank].bytes.insert(results[rank].bytes.end(), chunk.begin(),
                                 chunk.begin() + std::max<ssize_t>(size, 0));
    }
    ::close(reports[rank][0]);
    int status = 0;
    REQUIRE(::waitpid(children[rank], &status, 0) == children[rank]);
    if (WIFEXITED(status)) results[rank].exit_code = WEXITSTATUS(status);
  }
  return results;
}

}  // namespace support
