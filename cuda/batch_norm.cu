// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Batch normalisation on the device.
#include "actpack/cuda/batch_norm.hpp"

#include <limits>
#include <type_traits>

#include "batch_norm_kernels.hpp"
#include "group_launch.cuh"

namespace actpack {

namespace detail {

inline void require_channels(const Channels& channels) {
  constexpr std::int64_t most = (std::numeric_limits<std::int32_t>::max)();
  refuse_unless(channels.count > 0 && channels.count <= most, "channels.count = ", channels.count,
                " is not in [1, 2^31)");
  refuse_unless(channels.inner > 0 && channels.inner <= most, "channels.inner = ", channels.inner,
                " is not in [1, 2^31)");
}

/// How the groups of a context are dealt out, if the kernels can take it.
template <class View>
Deal require_deal(const View& view, const Channels& channels) {
  require_arrays(view);
  require_channels(channels);
  const Layout& layout = view.layout;
  refuse_unless(layout.group_size == flat_group_size, "layout.group_size = ", layout.group_size,
                " is not ", flat_group_size);
  refuse_unless(layout.numel() > 0, "the tensor has no elements");
  refuse_unless(layout.rows == 1 || layout.row_size % flat_group_size == 0,
                "layout.row_size = ", layout.row_size, " is no multiple of ", flat_group_size);
  refuse_unless(!is_mixed(view), "rows have widths of their own, but one width is needed");
  return Deal::of(layout, channels);
}

bool are_aligned(const void* a, const void* b) {
  return is_vector_aligned(a) && is_vector_aligned(b);
}

constexpr std::int64_t floats_per_channel = sizeof(InputGradient) / sizeof(float);

template <class T, class View>
void normalize_and_pack(const batch_norm::Operation& operation, const T* x, const View& out,
                        const Rounding& rounding, T* y, cudaStream_t stream) {
  const Deal deal = require_deal(out, operation.channels);
  refuse_unless(rounding.is_stochastic, "rounding is to nearest, which would bias gradients");
  refuse_unless(rounding.device_seed_and_offset == nullptr,
                "rounding reads its seed from device memory, which batch norm cannot");
  require_memory(x, deal.numel, "x");
  require_memory(y, deal.numel, "y");
  require_memory(operation.mean, operation.channels.count, "mean");
  require_memory(operation.variance, operation.channels.count, "variance");
  require_memory(operation.by_channel, operation.channels.count, "by_channel");
  refuse_unless(!rectifies<View> || operation.saved == SavedValue::output,
                "operation.saved is the input, but a sign-magnitude context holds the output");
  enqueue(MakeChannels{operation}, operation.channels.count, "batch_norm::forward", stream);
  const auto pack = [&](auto saved) {
    enqueue(
        NormalizeAndPack<decltype(saved)::value, T, View, SeededNoise>{
            x, out, SeededNoise(rounding.seed, rounding.offset), deal, operation.channels,
            operation.by_channel, y, are_aligned(x, y)},
        deal.tiles, "batch_norm::forward", stream);
  };
  if constexpr (!rectifies<View>) {
    if (operation.saved == SavedValue::input) {
      pack(std::integral_constant<SavedValue, SavedValue::input>{});
      return;
    }
  }
  pack(std::integral_constant<SavedValue, SavedValue::output>{});
}

template <class T, class View>
void write_gradients(const batch_norm::Operation& operation, const T* dz, const View& in,
                     const Decoding& decoding, std::int64_t count, float* workspace,
                     float* gamma_gradient, float* beta_gradient, T* dx, cudaStream_t stream) {
  const char* const verb = "batch_norm::backward";
  const Channels channels = operation.channels;
  const Deal deal = require_deal(in, channels);
  refuse_unless(decoding.rounding.device_seed_and_offset == nullptr,
                "rounding reads its seed from device memory, which batch norm cannot");
  require_memory(dz, deal.numel, "dz");
  require_memory(operation.by_channel, channels.count, "by_channel");
  require_memory(gamma_gradient, channels.count, "gamma_gradient");
  require_memory(beta_gradient, channels.count, "beta_gradient");
  require_memory(workspace, floats_per_channel * channels.count + 2 * deal.positions(),
                 "workspace");
  refuse_unless(is_vector_aligned(workspace), "workspace is not aligned to 16 bytes");
  InputGradient* const input_gradients = reinterpret_cast<InputGradient*>(workspace);
  float* const sums = workspace + floats_per_channel * channels.count;
  const DecodeOptions options = {decoding.alpha, NegativeSide::kept};
  const auto run = [&](const auto& noise) {
    using Noise = std::decay_t<decltype(noise)>;
    enqueue(AddGradients<T, View, Noise>{{dz, in, noise, options, deal, are_aligned(dz, dz)}, sums},
            deal.tiles, verb, stream);
    enqueue(&finish_channels,
            ChannelSums{sums, deal, channels, operation.by_channel, operation.saved, count,
                        gamma_gradient, beta_gradient, input_gradients},
            channels.count, block_threads, verb, stream);
    if (dx != nullptr) {
      enqueue(
          WriteInputGradient<T, View, Noise>{
              {dz, in, noise, options, deal, are_aligned(dz, dx)}, channels, input_gradients, dx},
          deal.tiles, verb, stream);
    }
  };
  if (decoding.is_subtractive()) {
    run(SeededNoise(decoding.rounding.seed, decoding.rounding.offset));
  } else {
    run(NearestNoise{});
  }
}

}  // namespace detail

namespace batch_norm {

template <DeviceElement T>
void forward(const Operation& operation, const T* x, const PackedView& out,
             const Rounding& rounding, T* y, cudaStream_t stream) {
  detail::normalize_and_pack(operation, detail::as_storage(x), out, rounding, detail::as_storage(y),
                             stream);
}

template <DeviceElement T>
void forward(const Operation& operation, const T* x, const SignMagnitudeView& out,
             const Rounding& rounding, T* y, cudaStream_t stream) {
  detail::normalize_and_pack(operation, detail::as_storage(x), out, rounding, detail::as_storage(y),
                             stream);
}

std::int64_t workspace_numel(const Operation& operation, const Layout& layout) {
  layout.validate();
  detail::require_channels(operation.channels);
  return detail::floats_per_channel * operation.channels.count +
         2 * detail::Deal::of(layout, operation.channels).positions();
}

template <DeviceElement T>
void backward(const Operation& operation, const T* dz, const ConstPackedView& in,
              const Decoding& decoding, std::int64_t count, float* workspace, float* gamma_gradient,
              float* beta_gradient, T* dx, cudaStream_t stream) {
  detail::write_gradients(operation, detail::as_storage(dz), in, decoding, count, workspace,
                          gamma_gradient, beta_gradient, detail::as_storage(dx), stream);
}

template <DeviceElement T>
void backward(const Operation& operation, const T* dz, const ConstSignMagnitudeView& in,
              const Decoding& decoding, std::int64_t count, float* workspace, float* gamma_gradient,
              float* beta_gradient, T* dx, cudaStream_t stream) {
  detail::write_gradients(operation, detail::as_storage(dz), in, decoding, count, workspace,
                          gamma_gradient, beta_gradient, detail::as_storage(dx), stream);
}

#define ACTPACK_INSTANTIATE(T)                                                                    \
  template void forward<T>(const Operation&, const T*, const PackedView&, const Rounding&, T*,    \
                           cudaStream_t);                                                         \
  template void forward<T>(const Operation&, const T*, const SignMagnitudeView&, const Rounding&, \
                           T*, cudaStream_t);                                                     \
  template void backward<T>(const Operation&, const T*, const ConstPackedView&, const Decoding&,  \
                            std::int64_t, float*, float*, float*, T*, cudaStream_t);              \
  template void backward<T>(const Operation&, const T*, const ConstSignMagnitudeView&,            \
                            const Decoding&, std::int64_t, float*, float*, float*, T*,            \
                            cudaStream_t);
ACTPACK_INSTANTIATE(float)
ACTPACK_INSTANTIATE(__half)
ACTPACK_INSTANTIATE(__nv_bfloat16)

}  // namespace batch_norm
}  // namespace actpack
