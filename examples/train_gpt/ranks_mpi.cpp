// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Ranks by MPI. A program started without mpirun is one of one.

#include <mpi.h>

#include <cstdlib>
#include <span>

#include "train_gpt/ranks.hpp"

namespace gpt {

Ranks::Ranks(int* argument_count, char*** arguments) {
  int provided = 0;
  MPI_Init_thread(argument_count, arguments, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

Ranks::~Ranks() { MPI_Finalize(); }

void Ranks::sum(std::span<double> values) const {
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM,
                MPI_COMM_WORLD);
}

void Ranks::average(std::span<float> values) const {
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_FLOAT, MPI_SUM,
                MPI_COMM_WORLD);
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
