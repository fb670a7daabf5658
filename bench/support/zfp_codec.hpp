// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A peer: zfp at a fixed rate, the tensor taken as one line of values.
#pragma once

#include <zfp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>

#include "support/buffer.hpp"

namespace bench {

class ZfpCodec {
 public:
  /// `bits` for each of `numel` values is a wish: see bits_per_value().
  ZfpCodec(std::int64_t numel, double bits)
      : numel_(static_cast<std::size_t>(numel)), stream_(zfp_stream_open(nullptr)) {
    rate_ = zfp_stream_set_rate(stream_.get(), bits, zfp_type_float, 1, 0);
    float nothing = 0;
    const std::unique_ptr<zfp_field, decltype(&zfp_field_free)> field(
        zfp_field_1d(&nothing, zfp_type_float, numel_), zfp_field_free);
    words_ = Buffer<std::uint64_t>(
        static_cast<std::int64_t>(zfp_stream_maximum_size(stream_.get(), field.get()) / 8 + 1));
    bits_.reset(stream_open(words_.data(), words_.span().size_bytes()));
    zfp_stream_set_bit_stream(stream_.get(), bits_.get());
  }

  double bits_per_value() const { return rate_; }

  void compress(std::span<const float> x) {
    run(x, [](zfp_stream* stream, zfp_field* field) { return zfp_compress(stream, field); });
  }
  void decompress(std::span<float> x) {
    run(x, [](zfp_stream* stream, zfp_field* field) { return zfp_decompress(stream, field); });
  }

 private:
  template <class Run>
  void run(std::span<const float> x, Run work) {
    if (x.size() != numel_) {
      throw std::invalid_argument("ZfpCodec: a tensor of another size");
    }
    zfp_stream_rewind(stream_.get());
    const std::unique_ptr<zfp_field, decltype(&zfp_field_free)> field(
        zfp_field_1d(const_cast<float*>(x.data()), zfp_type_float, numel_), zfp_field_free);
    if (work(stream_.get(), field.get()) == 0) {
      throw std::runtime_error("zfp failed");
    }
  }

  struct Close {
    void operator()(zfp_stream* stream) const { zfp_stream_close(stream); }
    void operator()(bitstream* bits) const { stream_close(bits); }
  };

  std::size_t numel_;
  std::unique_ptr<zfp_stream, Close> stream_;
  std::unique_ptr<bitstream, Close> bits_;
  Buffer<std::uint64_t> words_{0};
  double rate_ = 0;
};

}  // namespace bench
