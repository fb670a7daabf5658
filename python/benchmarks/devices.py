# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Measures bytes and seconds on the device that trains."""
import gc
import time

import torch


class Cuda:
    """Counts bytes by PyTorch's allocator, and seconds by events on the stream."""

    has_bytes = True
    full_precision = "float32 with TF32 products"

    def __init__(self):
        self.device = torch.device("cuda")
        self.name = torch.cuda.get_device_name()
        self.total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.set_float32_matmul_precision("high")  # TF32, which convolutions have by default
        self.find_fastest_convolutions(True)

    def find_fastest_convolutions(self, is_on):
        torch.backends.cudnn.benchmark = is_on

    def allocated(self):
        return torch.cuda.memory_allocated()

    def reset_peak(self):
        torch.cuda.reset_peak_memory_stats()

    def peak(self):
        return torch.cuda.max_memory_allocated()

    def limit(self, budget_bytes):
        """Limits what the allocator holds, its unused blocks included."""
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget_bytes / self.total_bytes))

    def unlimit(self):
        torch.cuda.set_per_process_memory_fraction(1.0)

    def seconds(self, step, count):
        """The seconds of each of `count` steps in a row; the host does not wait between them."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
        return [1e-3 * begin.elapsed_time(end) for begin, end in zip(events, events[1:])]

    def release(self):
        """Frees all that is unreferenced: cycles, and the allocator's unused blocks."""
        gc.collect()
        torch.cuda.empty_cache()


class Cpu:
    """Counts no bytes, since PyTorch's CPU allocator does not; enough to try the script."""

    has_bytes = False
    full_precision = "float32"

    def __init__(self):
        self.device = torch.device("cpu")
        self.name = f"CPU, {torch.get_num_threads()} threads"

    def seconds(self, step, count):
        times = [time.perf_counter()]
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        return [end - begin for begin, end in zip(times, times[1:])]

    def release(self):
        gc.collect()


def is_out_of_memory(error):
    """Whether `error` says that memory ran out: in the allocator, or in a library of its own."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "ALLOC_FAILED")))
