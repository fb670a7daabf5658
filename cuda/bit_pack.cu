// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packing small integers on the device.
#include "actpack/cuda/bit_pack.hpp"

#include "actpack/layout.hpp"
#include "launch.cuh"
#include "octet_kernels.hpp"

namespace actpack {

namespace detail {

inline void require_codes(std::int64_t count, const char* name, int bits) {
  refuse_unless(is_width(bits), "bits = ", bits, " is not 1, 2, 4 or 8");
  refuse_unless(count >= 0 && count <= Layout::max_numel, name, " = ", count, " is not in [0, ",
                Layout::max_numel, "]");
}

}  // namespace detail

void pack(const std::uint8_t* codes, std::int64_t numel, int bits, std::uint32_t* words,
          cudaStream_t stream) {
  detail::require_codes(numel, "numel", bits);
  detail::require_memory(codes, numel, "codes");
  detail::require_memory(words, words_for(numel, bits), "words");
  const detail::Pack body{{numel}, codes, bits, words};
  detail::enqueue(body, body.count(), "pack", stream);
}

void unpack(const std::uint32_t* words, int bits, std::int64_t first, std::int64_t count,
            std::uint8_t* codes, cudaStream_t stream) {
  detail::require_codes(count, "count", bits);
  detail::refuse_unless(first >= 0 && first <= Layout::max_numel, "first = ", first,
                        " is not in [0, ", Layout::max_numel, "]");
  detail::require_memory(words, count, "words");
  detail::require_memory(codes, count, "codes");
  const detail::Unpack body{{count}, words, bits, first, codes};
  detail::enqueue(body, body.count(), "unpack", stream);
}

}  // namespace actpack
