// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of other compressors of floats on one thread, those that were found: zfp, c-blosc.
#include <cstdint>
#include <string>

#include "support/rows.hpp"
#include "support/tensors.hpp"
#include "tests/support/statistics.hpp"
#if ACTPACK_HAS_ZFP
#include "support/zfp_codec.hpp"
#endif
#if ACTPACK_HAS_BLOSC
#include "support/blosc_codec.hpp"
#endif

namespace {

using namespace bench;

/// Measures both directions of a codec made by `make_codec`(numel) on what leaves a ReLU.
template <class MakeCodec>
void add_peer(const std::string& name, const std::string& parts, MakeCodec make_codec) {
  const auto add_direction = [&](const std::string& direction, Access access) {
    for (const std::int64_t bytes : sizes_in_bytes) {
      const std::int64_t numel = bytes / 4;
      const std::string row =
          name + "_" + direction + "/float" + parts + "/numel:" + std::to_string(numel);
      add_row(row, [=](benchmark::State& state) {
        const Buffer<float> x = make_tensor<float>(Data::relu, numel);
        Buffer<float> decoded(numel);
        auto codec = make_codec(numel);
        codec.compress(x.span());
        codec.decompress(decoded.span());
        state.counters["NMSE"] = support::relative_energy(decoded.span(), x.span());
        state.counters["bits_per_value"] = codec.bits_per_value();
        measure_tensor(state, bytes, access, [&] {
          access == Access::reads ? codec.compress(x.span()) : codec.decompress(decoded.span());
        });
      });
    }
  };
  add_direction("compress", Access::reads);
  add_direction("decompress", Access::writes);
}

void add_rows() {
#if ACTPACK_HAS_ZFP
  for (const int bits : {2, 4, 8}) {  // it cannot do with less than 2.25
    add_peer("zfp_fixed_rate", "/bits:" + std::to_string(bits),
             [=](std::int64_t numel) { return ZfpCodec(numel, bits); });
  }
#endif
#if ACTPACK_HAS_BLOSC
  add_peer("blosc_lz4_bitshuffle", "", [](std::int64_t numel) { return BloscCodec(numel); });
#endif
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
