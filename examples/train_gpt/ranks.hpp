// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The processes of data-parallel training. ranks_mpi.cpp connects them where there is MPI;
// ranks_single.cpp stands in for it where there is none, with one.
#pragma once

#include <span>

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

}  // namespace gpt
