// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the counting allocator.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "common/memory.hpp"

namespace {

using namespace trainer;

// Compilers may leave out a pair of new and delete unless somebody sees the memory.
const void* volatile seen = nullptr;

TEST_CASE(
    "memory: every form of new counts what was asked for, every form of delete gives it back") {
  struct alignas(256) Aligned {
    char bytes[512];
  };
  const std::int64_t before = memory::live_bytes();
  {
    const std::unique_ptr<char[]> bytes(new char[1000]);
    seen = bytes.get();
    CHECK(memory::live_bytes() == before + 1000);
    const auto aligned = std::make_unique<Aligned>();
    seen = aligned.get();
    CHECK(reinterpret_cast<std::uintptr_t>(aligned.get()) % 256 == 0);
    CHECK(memory::live_bytes() == before + 1512);
    const std::unique_ptr<Aligned[]> several(new Aligned[2]);
    seen = several.get();
    CHECK(memory::live_bytes() == before + 2536);
    const std::unique_ptr<int> quiet(new (std::nothrow) int(1));
    seen = quiet.get();
    CHECK(memory::live_bytes() == before + 2540);
  }
  CHECK(memory::live_bytes() == before);
}

TEST_CASE("memory: the peak is the most that was live since it was restarted") {
  memory::restart_peak();
  const std::int64_t before = memory::live_bytes();
  CHECK(memory::peak_bytes() == before);
  for (const std::size_t size : {3000U, 2000U}) {
    const std::vector<char> values(size);
    seen = values.data();
  }
  CHECK(memory::peak_bytes() == before + 3000);
  memory::restart_peak();
  CHECK(memory::peak_bytes() == before);
}

}  // namespace
