// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Enqueues bit allocation on a stream.
#include "actpack/cuda/bit_allocation.hpp"

#include <algorithm>
#include <cub/device/device_scan.cuh>

#include "actpack/cuda/layout.hpp"
#include "allocation_kernels.hpp"
#include "launch.cuh"

namespace actpack {

namespace detail {

/// The queue of enqueue_allocation on a stream.
class StreamQueue {
 public:
  StreamQueue(const char* verb, std::span<std::byte> scan_memory, cudaStream_t stream)
      : verb_(verb), scan_memory_(scan_memory), stream_(stream) {}

  void zero(void* memory, std::size_t bytes) const {
    check(cudaMemsetAsync(memory, 0, bytes, stream_), verb_, "cudaMemsetAsync");
  }

  template <class Body>
  void run(const Body& body, std::int64_t blocks) const {
    enqueue(&thread_block_kernel<Body>, body, blocks, thread_block_size, verb_, stream_);
  }

  void sum_before(std::int64_t* values, std::int64_t count) const {
    std::size_t bytes = scan_memory_.size();
    check(scan(scan_memory_.data(), bytes, values, count, stream_), verb_, "cub::DeviceScan");
  }

  static cudaError_t scan(void* memory, std::size_t& bytes, std::int64_t* values,
                          std::int64_t count, cudaStream_t stream) {
    return cub::DeviceScan::ExclusiveSum(memory, bytes, values, values, count, stream);
  }

 private:
  const char* verb_;
  std::span<std::byte> scan_memory_;
  cudaStream_t stream_;
};

/// The bytes that a scan needs over `items` items, or over the offsets of as many rows.
std::size_t scan_bytes(std::int64_t items) {
  std::size_t bytes = 0;
  check(StreamQueue::scan(nullptr, bytes, nullptr, items, nullptr), "device_allocation_workspace",
        "cub::DeviceScan");
  return (std::max)(bytes, row_offsets_workspace(Layout{.rows = items}));
}

template <class Items>
void allocate(const char* verb, const Items& items, std::span<std::uint8_t> bits,
              AllocationTotals* totals, std::span<std::byte> workspace, cudaStream_t stream) {
  const std::int64_t count = static_cast<std::int64_t>(items.size());
  refuse_unless(bits.size() == items.size(), "bits.size() = ", bits.size(), " but there are ",
                count, " items");
  require_memory(items.numel, count, "numel");
  require_memory(bits.data(), count, "bits");
  const std::size_t needed = device_allocation_workspace(count);
  refuse_unless(workspace.data() != nullptr && workspace.size() >= needed,
                "workspace.size() = ", workspace.size(), " but ", needed, " bytes are needed");
  Workspace pieces(workspace);
  const DeviceAllocationMemory memory(pieces, items.size());
  const StreamQueue queue(verb, pieces.take<std::byte>(scan_bytes(count)), stream);
  enqueue_allocation(queue, items, memory, bits.data(), totals);
}

}  // namespace detail

std::size_t device_allocation_workspace(std::int64_t items) {
  detail::refuse_unless(items >= 0, "items = ", items, " is negative");
  detail::refuse_unless(items <= detail::max_items, "items = ", items, " exceeds 2^32 - 1");
  detail::Workspace pieces;
  const detail::DeviceAllocationMemory memory(pieces, static_cast<std::size_t>(items));
  pieces.take<std::byte>(detail::scan_bytes(items));
  return pieces.size();
}

void allocate_bits(const AllocationProblem& problem, std::span<std::uint8_t> bits,
                   AllocationTotals* totals, std::span<std::byte> workspace, cudaStream_t stream) {
  detail::require_memory(problem.sensitivity, "sensitivity");
  detail::allocate("allocate_bits", detail::items_of(problem), bits, totals, workspace, stream);
}

void allocate_measured_bits(const MeasuredAllocationProblem& problem, std::span<std::uint8_t> bits,
                            AllocationTotals* totals, std::span<std::byte> workspace,
                            cudaStream_t stream) {
  detail::require_memory(problem.variance, "variance");
  detail::allocate("allocate_measured_bits", detail::items_of(problem), bits, totals, workspace,
                   stream);
}

void allocate_row_bits(const AllocationProblem& problem, const Layout& layout,
                       std::span<std::uint8_t> row_bits, std::span<std::int64_t> row_offsets,
                       AllocationTotals* totals, std::span<std::byte> workspace,
                       cudaStream_t stream) {
  layout.validate();
  const std::size_t rows = static_cast<std::size_t>(layout.rows);
  detail::refuse_unless(problem.sensitivity.size() == rows,
                        "sensitivity.size() = ", problem.sensitivity.size(), " but the layout has ",
                        rows, " rows");
  detail::refuse_unless(row_offsets.size() == rows + 1, "row_offsets.size() = ", row_offsets.size(),
                        " instead of ", rows + 1, ", one more than rows");
  detail::refuse_unless(layout.bits == 8 || !problem.max_bits.empty(),
                        "layout.bits = ", layout.bits, " but without max_bits a row may get 8");
  detail::require_memory(problem.sensitivity, "sensitivity");
  detail::require_memory(row_offsets.data(), layout.rows + 1, "row_offsets");
  detail::allocate("allocate_row_bits", detail::items_of(problem), row_bits, totals, workspace,
                   stream);
  actpack::row_offsets(layout, row_bits.data(), row_offsets.data(), workspace, stream);
}

}  // namespace actpack
