// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Small integers on the device, max-pool indices among them: bit_pack.hpp with device pointers and
// a stream. The rules of cuda/quantize.hpp apply.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace actpack {

/// Packs the low `bits` bits of each of `codes` [device, numel] into `words` [device,
/// words_for(numel, bits)]; writes every word.
void pack(const std::uint8_t* codes, std::int64_t numel, int bits, std::uint32_t* words,
          cudaStream_t stream);

/// Unpacks codes [first, first + count) of `words` [device] into `codes` [device, count].
void unpack(const std::uint32_t* words, int bits, std::int64_t first, std::int64_t count,
            std::uint8_t* codes, cudaStream_t stream);

}  // namespace actpack
