// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of packing small integers, a byte each, on one thread.
#include <cstdint>

#include "actpack/bit_pack.hpp"
#include "support/buffer.hpp"
#include "support/rows.hpp"
#include "tests/support/data.hpp"

namespace {

using namespace actpack;
using namespace bench;

Buffer<std::uint8_t> random_codes(std::int64_t numel, int bits) {
  support::Generator generator(1);
  Buffer<std::uint8_t> codes(numel);
  for (std::uint8_t& code : codes.span()) {
    code = static_cast<std::uint8_t>(generator.bits() & max_code(bits));
  }
  return codes;
}

void pack_bench(benchmark::State& state, std::int64_t numel, int bits) {
  const Buffer<std::uint8_t> codes = random_codes(numel, bits);
  Buffer<std::uint32_t> words(words_for(numel, bits));
  measure_tensor(state, numel, Access::reads, [&] { pack(codes.span(), bits, words.span()); });
  state.counters["bits_per_value"] = bits;
}

void unpack_bench(benchmark::State& state, std::int64_t numel, int bits) {
  Buffer<std::uint8_t> codes = random_codes(numel, bits);
  Buffer<std::uint32_t> words(words_for(numel, bits));
  pack(codes.span(), bits, words.span());
  measure_tensor(state, numel, Access::writes, [&] { unpack(words.span(), bits, codes.span()); });
  state.counters["bits_per_value"] = bits;
}

void add_rows() {
  add<std::uint8_t>("pack", every_width, pack_bench);
  add<std::uint8_t>("unpack", every_width, unpack_bench);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_rows); }
