// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A peer without loss: c-blosc, bits shuffled and then LZ4, on one thread.
#pragma once

#include <blosc.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "support/buffer.hpp"

namespace bench {

class BloscCodec {
 public:
  explicit BloscCodec(std::int64_t numel) : bytes_(4 * numel + BLOSC_MAX_OVERHEAD) {}

  /// Of the tensor that was compressed last.
  double bits_per_value() const { return bits_per_value_; }

  void compress(std::span<const float> x) {
    constexpr int level = 5;
    constexpr int threads = 1;
    const int size =
        blosc_compress_ctx(level, BLOSC_BITSHUFFLE, sizeof(float), x.size_bytes(), x.data(),
                           bytes_.data(), bytes_.span().size(), "lz4", /*blocksize=*/0, threads);
    if (size <= 0) {
      throw std::runtime_error("blosc failed to compress");
    }
    bits_per_value_ = 8.0 * size / static_cast<double>(x.size());
  }
  void decompress(std::span<float> x) {
    if (blosc_decompress_ctx(bytes_.data(), x.data(), x.size_bytes(), 1) !=
        static_cast<int>(x.size_bytes())) {
      throw std::runtime_error("blosc failed to decompress");
    }
  }

 private:
  Buffer<std::byte> bytes_;
  double bits_per_value_ = 0;
};

}  // namespace bench
