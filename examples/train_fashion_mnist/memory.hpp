// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the allocator holds: memory.cpp replaces operator new and delete and counts every byte.
#pragma once

#include <cstdint>

namespace trainer::memory {

std::int64_t live_bytes();  // asked of operator new and not yet given back
std::int64_t peak_bytes();  // the most live bytes since the last restart_peak()
void restart_peak();        // the peak starts again from what is live now

// Keeps freed memory in the process, as the caching allocators of the frameworks do: without it
// every step would spend its time on page faults.
void keep_freed_memory();

}  // namespace trainer::memory
