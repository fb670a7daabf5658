// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Launches of batch_norm_kernels.hpp and packed_values_kernels.hpp.
#include "device_kernels.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>

#include "actpack/cuda/error.hpp"
#include "batch_norm_kernels.hpp"
#include "packed_values_kernels.hpp"

namespace packed_values {

namespace {

void check_launch(const char* kernel) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw actpack::cuda_error(error, kernel);
  }
}

void check_groups(const actpack::Layout& layout) {
  if (layout.group_size != group_size) {
    throw std::invalid_argument("packed_values: group_size = " + std::to_string(layout.group_size) +
                                " is not 256");
  }
}

bool are_aligned(const void* a, const void* b) {
  return (reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % 16 == 0;
}

}  // namespace

template <class T>
void decode_keeping_signs(const actpack::SignMagnitudeView& in, T* out, cudaStream_t stream) {
  check_groups(in.layout);
  const std::int64_t blocks = (in.layout.num_groups() + teams_per_block - 1) / teams_per_block;
  if (blocks == 0) {
    return;
  }
  const Context<actpack::SignMagnitudeView, actpack::NearestNoise> context{in, {}, 0};
  decode_groups_keeping_signs<T><<<static_cast<unsigned>(blocks), block_threads, 0, stream>>>(
      context, in.layout.numel(), in.layout.bits, out, are_aligned(out, out));
  check_launch("decode_groups_keeping_signs");
}

template void decode_keeping_signs<float>(const actpack::SignMagnitudeView&, float*, cudaStream_t);
template void decode_keeping_signs<actpack::float16>(const actpack::SignMagnitudeView&,
                                                     actpack::float16*, cudaStream_t);
template void decode_keeping_signs<actpack::bfloat16>(const actpack::SignMagnitudeView&,
                                                      actpack::bfloat16*, cudaStream_t);

}  // namespace packed_values

namespace packed_batch_norm {

namespace {

Deal deal_of(const actpack::Layout& layout, Channels channels) {
  check_groups(layout);
  if (layout.numel() == 0) {
    throw std::invalid_argument("packed_batch_norm: the tensor has no elements");
  }
  return Deal::of(layout, channels);
}

// Runs call(noise) with the noise that decoding takes out, or with none.
template <class Call>
void with_noise(const actpack::Decoding& decoding, const Call& call) {
  if (decoding.is_subtractive()) {
    call(actpack::SeededNoise(decoding.rounding.seed, decoding.rounding.offset));
  } else {
    call(actpack::NearestNoise{});
  }
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + block_threads - 1) / block_threads);
}

constexpr std::int64_t floats_per_channel = sizeof(InputGradient) / sizeof(float);

}  // namespace

template <class T, class View>
void forward(const Operation& operation, const T* x, const View& out,
             const actpack::Rounding& rounding, T* y, cudaStream_t stream) {
  const Channels channels = operation.channels;
  const Deal deal = deal_of(out.layout, channels);
  if (!rounding.is_stochastic) {
    throw std::invalid_argument("packed_batch_norm: rounding to nearest would bias gradients");
  }
  make_channels<<<blocks_for(channels.count), block_threads, 0, stream>>>(operation);
  check_launch("make_channels");
  const Context<View, actpack::SeededNoise> context{
      out, actpack::SeededNoise(rounding.seed, rounding.offset), 0};
  const auto launch = [&](auto kernel) {
    kernel<<<deal.blocks(), block_threads, 0, stream>>>(x, context, deal, channels,
                                                        operation.by_channel, y, are_aligned(x, y));
    check_launch("normalize_and_pack");
  };
  if constexpr (!rectifies<View>) {
    if (operation.kept == Kept::input) {
      launch(&normalize_and_pack<Kept::input, T, View, actpack::SeededNoise>);
      return;
    }
  }
  launch(&normalize_and_pack<Kept::output, T, View, actpack::SeededNoise>);
}

std::int64_t workspace_numel(const Operation& operation, const actpack::Layout& layout) {
  return floats_per_channel * operation.channels.count +
         2 * deal_of(layout, operation.channels).positions();
}

template <class T, class View>
void backward(const Operation& operation, const T* dz, const View& in,
              const actpack::Decoding& decoding, std::int64_t elements, float* workspace,
              float* gamma_gradient, float* beta_gradient, T* dx, cudaStream_t stream) {
  const Channels channels = operation.channels;
  const Deal deal = deal_of(in.layout, channels);
  InputGradient* const input_gradients = reinterpret_cast<InputGradient*>(workspace);
  float* const sums = workspace + floats_per_channel * channels.count;
  with_noise(decoding, [&](const auto& noise) {
    const Context<View, std::decay_t<decltype(noise)>> context{in, noise, decoding.alpha};
    add_gradients<<<deal.blocks(), block_threads, 0, stream>>>(dz, context, deal, sums,
                                                               are_aligned(dz, dz));
    check_launch("add_gradients");
    finish_channels<<<static_cast<unsigned>(channels.count), block_threads, 0, stream>>>(
        sums, deal, channels, operation.by_channel, operation.kept, elements, gamma_gradient,
        beta_gradient, input_gradients);
    check_launch("finish_channels");
    if (dx != nullptr) {
      write_input_gradient<<<deal.blocks(), block_threads, 0, stream>>>(
          dz, context, deal, channels, input_gradients, dx, are_aligned(dz, dx));
      check_launch("write_input_gradient");
    }
  });
}

#define ACTPACK_INSTANTIATE(T, View)                                                              \
  template void forward<T>(const Operation&, const T*, const View&, const actpack::Rounding&, T*, \
                           cudaStream_t);                                                         \
  template void backward<T>(const Operation&, const T*, const View&, const actpack::Decoding&,    \
                            std::int64_t, float*, float*, float*, T*, cudaStream_t);
ACTPACK_INSTANTIATE(float, actpack::PackedView)
ACTPACK_INSTANTIATE(float, actpack::SignMagnitudeView)
ACTPACK_INSTANTIATE(actpack::float16, actpack::PackedView)
ACTPACK_INSTANTIATE(actpack::float16, actpack::SignMagnitudeView)
ACTPACK_INSTANTIATE(actpack::bfloat16, actpack::PackedView)
ACTPACK_INSTANTIATE(actpack::bfloat16, actpack::SignMagnitudeView)

}  // namespace packed_batch_norm
