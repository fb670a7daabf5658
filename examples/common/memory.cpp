// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Replaces operator new and delete by forms that count live and peak bytes.

#include "common/memory.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace trainer::memory {
namespace {

std::atomic<std::int64_t> live{0};
std::atomic<std::int64_t> peak{0};

void count(std::int64_t bytes) {
  const std::int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::int64_t highest = peak.load(std::memory_order_relaxed);
  while (now > highest && !peak.compare_exchange_weak(highest, now, std::memory_order_relaxed)) {
  }
}

// The requested size lies in front of the block, in room that preserves its alignment.
std::size_t room_in_front(std::size_t alignment) {
  return std::max(alignment, alignof(std::max_align_t));
}

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  const std::size_t room = room_in_front(alignment);
  const std::size_t padded = (size + 2 * room - 1) / room * room;  // aligned_alloc wants multiples
  void* block = padded < size ? nullptr : std::aligned_alloc(room, padded);
  if (block == nullptr) return nullptr;
  *static_cast<std::size_t*>(block) = size;
  count(static_cast<std::int64_t>(size));
  return static_cast<std::byte*>(block) + room;
}

void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  void* data = allocate(size, alignment);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void release(void* data, std::size_t alignment) noexcept {
  if (data == nullptr) return;
  void* block = static_cast<std::byte*>(data) - room_in_front(alignment);
  count(-static_cast<std::int64_t>(*static_cast<std::size_t*>(block)));
  std::free(block);
}

}  // namespace

std::int64_t live_bytes() { return live.load(std::memory_order_relaxed); }
std::int64_t peak_bytes() { return peak.load(std::memory_order_relaxed); }
void restart_peak() { peak.store(live_bytes(), std::memory_order_relaxed); }

}  // namespace trainer::memory

// Every form is replaced: the sanitizers' own array and nothrow forms would not forward to these.
using std::align_val_t;
using std::nothrow_t;
using std::size_t;
using trainer::memory::allocate;
using trainer::memory::allocate_or_throw;
using trainer::memory::release;

void* operator new(size_t size) { return allocate_or_throw(size, 1); }
void* operator new[](size_t size) { return allocate_or_throw(size, 1); }
void* operator new(size_t size, const nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new[](size_t size, const nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new(size_t size, align_val_t line) { return allocate_or_throw(size, size_t(line)); }
void* operator new[](size_t size, align_val_t line) {
  return allocate_or_throw(size, size_t(line));
}
void operator delete(void* data) noexcept { release(data, 1); }
void operator delete[](void* data) noexcept { release(data, 1); }
void operator delete(void* data, size_t) noexcept { release(data, 1); }
void operator delete[](void* data, size_t) noexcept { release(data, 1); }
void operator delete(void* data, align_val_t line) noexcept { release(data, size_t(line)); }
void operator delete[](void* data, align_val_t line) noexcept { release(data, size_t(line)); }
void operator delete(void* data, size_t, align_val_t line) noexcept { release(data, size_t(line)); }
void operator delete[](void* data, size_t, align_val_t line) noexcept {
  release(data, size_t(line));
}
