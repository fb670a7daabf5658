// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The bytes that the allocator holds: memory.cpp replaces operator new and delete and counts them.
#pragma once

#include <cstdint>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace trainer::memory {

std::int64_t live_bytes();  // allocated and not yet freed
std::int64_t peak_bytes();  // the most live bytes since the last restart_peak()
void restart_peak();        // the peak starts again from what is live now

// Leaves freed memory in the process, as the frameworks' caching allocators do. Without it every
// step would spend its time on page faults. This function alone needs no memory.cpp.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace trainer::memory
