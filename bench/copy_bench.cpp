// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of memory on one thread: what every other row is compared with, as rows of their own.
#include "support/memory_speed.hpp"
#include "support/rows.hpp"

namespace {

using namespace bench;

void add_rows() {
  const auto add_access = [](const std::string& name, auto reference_of) {
    add<float>(name, [=](benchmark::State& state, std::int64_t numel) {
      const std::int64_t bytes = 4 * numel;
      measure_tensor(state, bytes, Access::both, reference_of(bytes).call);
    });
  };
  add_access("memcpy", [](std::int64_t bytes) { return MemorySpeed::instance().copy(bytes); });
  add_access("read_only", [](std::int64_t bytes) { return MemorySpeed::instance().read(bytes); });
  add_access("write_only", [](std::int64_t bytes) { return MemorySpeed::instance().write(bytes); });
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
