// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Ranks by MPI. A program started without mpirun is one of one.

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <span>

#include "train_gpt/ranks.hpp"

namespace gpt {
namespace {

// MPI counts in int. The pieces are so small that any larger model takes several.
template <class T>
void sum_in_pieces(std::span<T> values, MPI_Datatype type) {
  constexpr std::size_t most = 1 << 20;
  while (!values.empty()) {
    const std::span<T> piece = values.first(std::min(values.size(), most));
    MPI_Allreduce(MPI_IN_PLACE, piece.data(), static_cast<int>(piece.size()), type, MPI_SUM,
                  MPI_COMM_WORLD);
    values = values.subspan(piece.size());
  }
}

}  // namespace

Ranks::Ranks(int* argument_count, char*** arguments) {
  int provided = 0;
  MPI_Init_thread(argument_count, arguments, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

Ranks::~Ranks() { MPI_Finalize(); }

void Ranks::sum(std::span<double> values) const { sum_in_pieces(values, MPI_DOUBLE); }

void Ranks::average(std::span<float> values) const {
  sum_in_pieces(values, MPI_FLOAT);
  const float share = 1 / static_cast<float>(size_);
  for (float& value : values) {
    value *= share;
  }
}

void Ranks::abort() const {
  if (size_ > 1) {
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  }
  MPI_Finalize();
  std::exit(EXIT_FAILURE);
}

}  // namespace gpt
