// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Whole tensors on the device: quantize.hpp with device pointers and a stream.
//
// Every verb only enqueues kernels on `stream`: it allocates nothing, synchronises with nothing,
// and may be captured in a graph. Words and parameters equal those of the host's verb, bit for bit,
// whatever the grid, the stream or the chunks. Pointers name device memory, aligned to their type.
// A tensor of one width without gaps between groups of 256, aligned to 16 bytes, takes the fastest
// path. Wrong arguments throw std::invalid_argument before anything is enqueued. A launch that the
// CUDA runtime refuses throws cuda_error (cuda/error.hpp).
#pragma once

#include <cstdint>

#include "actpack/cuda/element.hpp"
#include "actpack/packed.hpp"
#include "actpack/rounding.hpp"

namespace actpack {

/// Quantizes rows [first_row, first_row + num_rows) of a tensor, which `x` [device, row-major]
/// holds, into `out` [device]: writes every word of those rows and the parameters of every group.
/// With widths by row, `out.row_bits` and `out.row_offsets` [device] must be those that
/// `row_offsets` (cuda/layout.hpp) takes and writes: they are read when the kernel runs and cannot
/// be checked. NaN, infinities and everything else as on the host.
template <DeviceElement T>
void quantize(const T* x, PackedView out, Rounding rounding, std::int64_t first_row,
              std::int64_t num_rows, cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void quantize(const T* x, PackedView out, Rounding rounding, cudaStream_t stream) {
  quantize(x, out, rounding, 0, out.layout.rows, stream);
}

/// Decodes elements [first, first + count) of `in` [device] into `x` [device, count]. Finite values
/// beyond T's range become its largest finite value; poisoned groups give NaN, of any payload.
template <DeviceElement T>
void dequantize(ConstPackedView in, std::int64_t first, std::int64_t count, T* x, Decoding decoding,
                cudaStream_t stream);

/// The same for the whole tensor.
template <DeviceElement T>
void dequantize(ConstPackedView in, T* x, Decoding decoding, cudaStream_t stream) {
  in.layout.validate();
  dequantize(in, 0, in.layout.numel(), x, decoding, stream);
}

/// The same, plainly.
template <DeviceElement T>
void dequantize(ConstPackedView in, T* x, cudaStream_t stream) {
  dequantize(in, x, Decoding::plain(), stream);
}

/// The operation that decoding applies to every value x of element e before it stores it: 0 where
/// bit e of `mask` is 0, else x · scale[c] + shift[c] in float, rounded once, with the channel c =
/// ⌊e / inner⌋ mod channels. Elements count from the tensor's first, wherever decoding starts.
struct DecodingEpilogue {
  const float* scale = nullptr;  // [device, channels]; null: 1
  const float* shift = nullptr;  // [device, channels]; null: 0
  std::int64_t channels = 1;
  std::int64_t inner = 1;               // elements that follow each other in one channel
  const std::uint32_t* mask = nullptr;  // [device, words_for(numel, 1)] as in mask.hpp; null: all 1
};

/// Decodes elements [first, first + count) and applies `epilogue` to them in the same pass.
template <DeviceElement T>
void dequantize(ConstPackedView in, std::int64_t first, std::int64_t count, T* x, Decoding decoding,
                const DecodingEpilogue& epilogue, cudaStream_t stream);

}  // namespace actpack
