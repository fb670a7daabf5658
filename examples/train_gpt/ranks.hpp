// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The processes of data-parallel training. ranks_mpi.cpp connects them where there is MPI;
// ranks_single.cpp stands in for it where there is none, with one.
#pragma once

#include <cstdlib>
#include <iostream>
#include <span>

#include "common/program.hpp"

namespace gpt {

// One object for as long as the program communicates; all ranks make the same calls in the same
// order.
class Ranks {
 public:
  Ranks(int* argument_count, char*** arguments);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // The sum over all ranks, in place.
  void sum(std::span<double> values) const;

  // The mean over all ranks, in place.
  void average(std::span<float> values) const;

  // Ends all ranks: one that throws would leave the others waiting.
  [[noreturn]] void abort() const;

 private:
  int rank_ = 0;
  int size_ = 1;
};

// As trainer::run_program, on every rank, with body(arguments, ranks). One rank speaks for all, and
// one that fails ends all.
template <class Body>
int run_on_ranks(const char* name, int count, char** arguments, const Body& body) {
  const Ranks ranks(&count, &arguments);
  if (ranks.rank() != 0) {
    std::cout.setstate(std::ios::failbit);
  }
  const int status = trainer::run_program(
      name, count, arguments, [&](auto own_arguments) { return body(own_arguments, ranks); });
  if (status != EXIT_SUCCESS) {
    ranks.abort();
  }
  return status;
}

}  // namespace gpt
