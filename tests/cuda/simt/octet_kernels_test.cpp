// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Runs the kernels for masks and plain packing on threads of the CPU, and compares with the host's
// verbs, bit for bit.
#include <doctest/doctest.h>

#include "simt_tiles.hpp"  // before the kernels

#include <cstdint>
#include <utility>
#include <vector>

#include <actpack/bit_pack.hpp>
#include <actpack/detail/dropout.hpp>
#include <actpack/mask.hpp>

#include "octet_kernels.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using namespace actpack;
using support::GuardedBuffer;

const Rounding rounding = Rounding::stochastic(5, 6);
const SeededNoise noise(5, 6);

}  // namespace

TEST_CASE_TEMPLATE("simt: masks", T, float, bfloat16) {
  constexpr std::int64_t numel = 2085;  // two blocks, the last octet and the last word short
  GuardedBuffer<T> x(support::stored<T>(support::gaussian(numel, 7)));
  GuardedBuffer<T> y(numel), want(numel);
  GuardedBuffer<std::uint32_t> mask(words_for(numel, 1)), want_mask(words_for(numel, 1));

  relu(std::as_const(x).span(), want.span(), want_mask.span());
  const detail::Relu<T> forward{{numel}, x.data(), y.data(), mask.data()};
  simt::launch_tiles(forward, forward.count());
  support::check_same_values<T>(y.span(), want.span());
  CHECK(mask.values() == want_mask.values());

  relu_backward(std::as_const(x).span(), std::as_const(mask).span(), want.span());
  const detail::Masked<T> backward{{numel}, x.data(), mask.data(), y.data(), 1};
  simt::launch_tiles(backward, backward.count());
  support::check_same_values<T>(y.span(), want.span());

  dropout(std::as_const(x).span(), want.span(), want_mask.span(), 0.3, rounding, 64);
  const detail::Dropout<T, SeededNoise> drop{
      {numel}, x.data(), y.data(), mask.data(), detail::dropout_rule(0.3), 64, noise};
  simt::launch_tiles(drop, drop.count());
  support::check_same_values<T>(y.span(), want.span());
  CHECK(mask.values() == want_mask.values());
}

TEST_CASE("simt: small integers") {
  constexpr std::int64_t numel = 1003;
  support::Generator generator(8);
  std::vector<std::uint8_t> bytes(numel);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(generator.bits());
  GuardedBuffer<std::uint8_t> codes(bytes);
  for (const int bits : {1, 8}) {
    CAPTURE(bits);
    std::vector<std::uint8_t> low_bits = bytes;  // the host refuses others, the device ignores them
    for (std::uint8_t& code : low_bits) code &= static_cast<std::uint8_t>(max_code(bits));
    GuardedBuffer<std::uint32_t> words(words_for(numel, bits)), want(words_for(numel, bits));
    pack(low_bits, bits, want.span());
    const detail::Pack body{{numel}, codes.data(), bits, words.data()};
    simt::launch_tiles(body, body.count());
    CHECK(words.values() == want.values());

    constexpr std::int64_t first = 5;
    GuardedBuffer<std::uint8_t> unpacked(numel - first), want_codes(numel - first);
    unpack(std::as_const(words).span(), bits, first, want_codes.span());
    simt::launch_tiles(detail::Unpack{{numel - first}, words.data(), bits, first, unpacked.data()},
                       (numel - first + detail::octet_size - 1) / detail::octet_size);
    CHECK(unpacked.values() == want_codes.values());
  }
}
