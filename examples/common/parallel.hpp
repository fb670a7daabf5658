// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Spreads the images of a batch over threads so that no result depends on their number.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/tensor.hpp"

namespace trainer {

// Consecutive images. Sums are formed per chunk and added in the order of the chunks: whichever
// thread takes a chunk, the result is the same to the last bit.
struct Chunk {
  static constexpr std::int64_t size = 8;

  std::int64_t index = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;  // one past the end
  std::size_t thread = 0;
};

inline std::int64_t chunks_for(std::int64_t images) {
  return (images + Chunk::size - 1) / Chunk::size;
}

// Calls body(chunk) for every chunk of `images` images, several at a time.
template <class Body>
void for_each_chunk(std::int64_t images, const Body& body) {
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t index = 0; index < chunks_for(images); ++index) {
    const std::int64_t first = index * Chunk::size;
    const std::int64_t last = std::min(first + Chunk::size, images);
    body(Chunk{index, first, last, static_cast<std::size_t>(omp_get_thread_num())});
  }
}

// The sum of the chunks' rows, in their order.
template <class T>
std::vector<T> sum_chunks(const Tensor<T>& rows) {
  std::vector<T> total(static_cast<std::size_t>(rows.row_size()));
  for (std::int64_t chunk = 0; chunk < rows.images(); ++chunk) {
    const std::span<const T> row = rows.image(chunk);
    std::ranges::transform(total, row, total.begin(), std::plus<T>());
  }
  return total;
}

}  // namespace trainer
