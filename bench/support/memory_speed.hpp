// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The limits of memory: copying, reading and writing as many bytes as a tensor has.
//
// A codec that keeps a tensor in a sixteenth of its bytes hardly writes when it compresses and
// hardly reads when it decompresses. Out of cache a copy is not its limit: reading or writing
// alone is.
#pragma once

#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "support/buffer.hpp"
#include "support/measure.hpp"

namespace bench {

/// 64 KiB, 1 MiB: in cache. 64 MiB: out of most.
inline constexpr std::array<std::int64_t, 3> sizes_in_bytes{1 << 16, 1 << 20, 1 << 26};
inline constexpr std::int64_t out_of_cache_bytes = 1 << 26;

/// Reads every byte and does as little as can be done with it. Not inlined, so that all
/// programs measure the same loop.
[[gnu::noinline]] inline std::uint64_t sum(std::span<const std::uint64_t> words) {
  std::array<std::uint64_t, 16> sums{};  // enough that no addition waits for another
  for (; words.size() >= sums.size(); words = words.subspan(sums.size())) {
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sums[i] += words[i];
    }
  }
  std::uint64_t total = 0;
  for (const std::uint64_t part : sums) {
    total += part;
  }
  for (const std::uint64_t word : words) {
    total += word;
  }
  return total;
}

/// The memory that references work in; the same for all rows of a process.
class MemorySpeed {
 public:
  static MemorySpeed& instance() {
    static MemorySpeed memory;
    return memory;
  }

  Reference copy(std::int64_t bytes) {
    return {"copy", [this, bytes] {
              std::memcpy(to_.data(), from_.data(), static_cast<std::size_t>(bytes));
              benchmark::DoNotOptimize(to_.data());
            }};
  }
  Reference read(std::int64_t bytes) {
    return {"read", [this, bytes] { benchmark::DoNotOptimize(sum(from_.first(bytes / 8))); }};
  }
  Reference write(std::int64_t bytes) {
    return {"write", [this, bytes] {
              std::memset(to_.data(), 0x3F, static_cast<std::size_t>(bytes));
              benchmark::DoNotOptimize(to_.data());
            }};
  }

 private:
  Buffer<std::uint64_t> from_{out_of_cache_bytes / 8};
  Buffer<std::uint64_t> to_{out_of_cache_bytes / 8};
};

/// Which side of a codec holds the tensor: what a verb mostly does to memory.
enum class Access { reads, writes, both };

/// Measures `subject`, which handles a tensor of so many bytes once, against a copy of them, and
/// out of cache against the access alone. GB/s are of the tensor's bytes.
inline void measure_tensor(benchmark::State& state, std::int64_t bytes, Access access,
                           std::function<void()> subject) {
  MemorySpeed& memory = MemorySpeed::instance();
  std::vector<Reference> references{memory.copy(bytes)};
  if (bytes >= out_of_cache_bytes && access == Access::reads) {
    references.push_back(memory.read(bytes));
  }
  if (bytes >= out_of_cache_bytes && access == Access::writes) {
    references.push_back(memory.write(bytes));
  }
  measure(state, std::move(subject), references);
  state.SetBytesProcessed(bytes);
}

}  // namespace bench
