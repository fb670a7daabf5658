// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// torch's CPU allocator with a count of live bytes. The memory of every tensor goes through it,
// that of packed ones too.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace actpack_torch {

class CountingAllocator final : public c10::Allocator {
 public:
  // The only instance. It serves every tensor made from the first call on.
  static CountingAllocator& instance() {
    static CountingAllocator allocator;
    static const bool is_installed =
        (c10::SetAllocator(c10::DeviceType::CPU, &allocator, /*priority=*/255), true);
    static_cast<void>(is_installed);
    return allocator;
  }

  std::int64_t live_bytes() const { return live_; }
  std::int64_t peak_bytes() const { return peak_; }  // since the last restart_peak()
  void restart_peak() { peak_ = live_.load(); }

  // The size precedes the memory, in room that keeps the alignment.
  c10::DataPtr allocate(std::size_t size) const override {
    if (size == 0) {
      return {nullptr, c10::Device(c10::DeviceType::CPU)};
    }
    std::byte* const block = static_cast<std::byte*>(c10::alloc_cpu(room + size));
    *reinterpret_cast<std::size_t*>(block) = size;
    instance().count(static_cast<std::int64_t>(size));
    return {block + room, block + room, &release, c10::Device(c10::DeviceType::CPU)};
  }

  // oneDNN allocates through raw pointers.
  c10::DeleterFnPtr raw_deleter() const override { return &release; }

 private:
  static constexpr std::size_t room = c10::gAlignment;

  static void release(void* data) {
    if (data == nullptr) {
      return;
    }
    std::byte* const block = static_cast<std::byte*>(data) - room;
    instance().count(-static_cast<std::int64_t>(*reinterpret_cast<std::size_t*>(block)));
    c10::free_cpu(block);
  }

  void count(std::int64_t bytes) {
    const std::int64_t now = live_ += bytes;
    std::int64_t highest = peak_;
    while (now > highest && !peak_.compare_exchange_weak(highest, now)) {
    }
  }

  std::atomic<std::int64_t> live_ = 0;
  std::atomic<std::int64_t> peak_ = 0;
};

}  // namespace actpack_torch
