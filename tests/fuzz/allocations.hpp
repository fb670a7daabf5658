// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Replaces operator new, for the one file of a program that includes this: a target can let one of
// its allocations fail, or bound the size of each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <utility>

#include "fuzz.hpp"

namespace fuzz {

struct Allocations {
  std::int64_t until_failure = -1;  // this many succeed, then one fails; negative: none does
  std::size_t largest = std::numeric_limits<std::size_t>::max();  // bytes of one
};
inline Allocations allocations;

// Calls call() and lets its allocation number `fatal` fail. Returns whether it got that far.
template <class Call>
bool fails_at(std::int64_t fatal, const Call& call) {
  allocations.until_failure = fatal;
  try {
    call();
  } catch (const std::bad_alloc&) {
    allocations.until_failure = -1;
    return true;
  } catch (...) {
    allocations.until_failure = -1;
    throw;
  }
  allocations.until_failure = -1;
  return false;
}

// Large blocks, such as a solver's workspace, come from here: to map and unmap their pages would
// take most of a target's time. Poisoned while they are free.
struct LargeBlock {
  static constexpr std::size_t least = 1 << 20, most = 1 << 23;
  alignas(64) std::byte bytes[most];
  std::size_t size;  // 0: it is free
};
inline LargeBlock large_blocks[4];

inline void* allocate(std::size_t size) {
  if (allocations.until_failure >= 0 && allocations.until_failure-- == 0) return nullptr;
  if (size > allocations.largest) {
    const std::size_t largest =
        std::exchange(allocations.largest, std::numeric_limits<std::size_t>::max());
    check(false, "an allocation of ", size, " bytes is at most ", largest);
  }
  for (LargeBlock& block : large_blocks) {
    if (size < LargeBlock::least || size > LargeBlock::most || block.size != 0) continue;
    block.size = size;
    ASAN_UNPOISON_MEMORY_REGION(block.bytes, size);
    ASAN_POISON_MEMORY_REGION(block.bytes + size,
                              std::min<std::size_t>(LargeBlock::most - size, 4096));
    return block.bytes;
  }
  return std::malloc(size == 0 ? 1 : size);
}

inline void release(void* memory) {
  for (LargeBlock& block : large_blocks) {
    if (memory != block.bytes) continue;
    ASAN_POISON_MEMORY_REGION(block.bytes, block.size);
    block.size = 0;
    return;
  }
  std::free(memory);
}

}  // namespace fuzz

void* operator new(std::size_t size) {
  void* const memory = fuzz::allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return fuzz::allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return fuzz::allocate(size);
}
void operator delete(void* memory) noexcept { fuzz::release(memory); }
void operator delete[](void* memory) noexcept { fuzz::release(memory); }
void operator delete(void* memory, std::size_t) noexcept { fuzz::release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { fuzz::release(memory); }
