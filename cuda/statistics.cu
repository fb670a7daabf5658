// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Sums over rows on the device.
#include "actpack/cuda/statistics.hpp"

#include <cmath>

#include "launch.cuh"
#include "statistics_kernels.hpp"

namespace actpack {

template <DeviceElement T>
void row_statistics(const T* x, const Layout& layout, RowStatistics* statistics,
                    cudaStream_t stream) {
  layout.validate();
  detail::require_memory(x, layout.numel(), "x");
  detail::require_memory(statistics, layout.rows, "statistics");
  using Body = detail::SumRow<detail::Storage<T>>;
  detail::enqueue(&detail::thread_block_kernel<Body, detail::statistics_threads>,
                  Body{detail::as_storage(x), layout, layout.groups_per_row(), statistics},
                  layout.rows, detail::statistics_threads, "row_statistics", stream);
}

void row_sensitivities(const RowStatistics* x, const RowStatistics* dy, double gain,
                       const Layout& layout, double* sensitivity, cudaStream_t stream) {
  layout.validate();
  detail::refuse_unless(gain >= 0 && std::isfinite(gain), "gain = ", gain,
                        " is negative or not finite");
  detail::require_memory(x, layout.rows, "x");
  detail::require_memory(sensitivity, layout.rows, "sensitivity");
  detail::enqueue(detail::WeighRanges{x, dy, gain, static_cast<double>(layout.group_size),
                                      sensitivity, layout.rows},
                  layout.rows, "row_sensitivities", stream);
}

template void row_statistics<float>(const float*, const Layout&, RowStatistics*, cudaStream_t);
template void row_statistics<__half>(const __half*, const Layout&, RowStatistics*, cudaStream_t);
template void row_statistics<__nv_bfloat16>(const __nv_bfloat16*, const Layout&, RowStatistics*,
                                            cudaStream_t);

}  // namespace actpack
