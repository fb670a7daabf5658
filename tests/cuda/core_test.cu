// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The numeric core on the device: compiling it is the test that everything marked host + device is;
// where there is a GPU, its results are the host's, bit for bit. Exits with 77 where there is none.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "actpack/affine.hpp"
#include "actpack/codes.hpp"
#include "actpack/float16.hpp"
#include "actpack/philox.hpp"
#include "actpack/rounding.hpp"

namespace {

using namespace actpack;

/// Folds results into 32 bits.
struct Digest {
  std::uint32_t value = 2166136261u;  // FNV-1a

  ACTPACK_HD void add(std::uint32_t bits) { value = (value ^ bits) * 16777619u; }
};

/// Every conversion of one float, given by its bits.
ACTPACK_HD void add_conversions(std::uint32_t bits, Digest& digest) {
  const float x = detail::float_of(bits);
  digest.add(bfloat16(x).bits);
  digest.add(float16(x).bits);
  digest.add(round_down(x).bits);
  digest.add(saturate_cast<bfloat16>(x).bits);
  digest.add(saturate_cast<float16>(x).bits);
  digest.add(detail::bits_of(float16::from_bits(static_cast<std::uint16_t>(bits))));
}

/// A group that spans `min` to `max`, and the code and value of `x` in it at one width.
ACTPACK_HD void add_round_trip(float min, float x, float max, int bits, std::uint32_t dither,
                               Digest& digest) {
  const GroupParams params = fit_params(min, max, bits);
  digest.add(params.scale.bits);
  digest.add(params.min.bits);
  if (is_poisoned(params)) {
    return;
  }
  const std::uint32_t code = code_of(x, Encoder(params), dither);
  digest.add(code);
  digest.add(detail::bits_of(value_of(code, params)));
  digest.add(detail::bits_of(Decoder(params, 0.5f)(code, dither)));
}

/// Everything in the core, on inputs that are a function of `index`.
ACTPACK_HD std::uint32_t evaluate(std::uint32_t index, Rounding rounding) {
  const RandomWords random = philox4x32(index, 1, 2);
  Digest digest;
  for (const std::uint32_t word : random.word) {
    digest.add(word);
    add_conversions(word, digest);
  }
  digest.add(extract(random.word, index % 16, 8));

  // Three numbers of 24 bits at a common scale: exact, so there is nothing to round or to contract.
  const float unit = detail::float_of((30 + random.word[3] % 225) << 23);
  const auto number = [unit](std::uint32_t word) {
    return static_cast<float>(static_cast<std::int32_t>(word) >> 8) * 0x1p-23f * unit;
  };
  const auto sort = [](float& a, float& b) {
    const float smaller = b < a ? b : a;
    b = b < a ? a : b;
    a = smaller;
  };
  float low = number(random.word[0]);
  float middle = number(random.word[1]);
  float high = number(random.word[2]);
  sort(low, middle);
  sort(middle, high);
  sort(low, middle);
  for (int bits = 1; is_width(bits); bits *= 2) {
    const std::uint32_t noise =
        dither(rounding, index, 256, static_cast<std::int32_t>(index % 256));
    add_round_trip(low, middle, high, bits, noise, digest);
    add_round_trip(low, high, high, bits, half_step, digest);
  }
  return digest.value;
}

__global__ void evaluate_kernel(Rounding rounding, std::uint32_t* digests, std::uint32_t count) {
  const std::uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index < count) {
    digests[index] = evaluate(index, rounding);
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("compiled for the device, but there is none to run it on");
    return 77;
  }
  constexpr std::uint32_t count = 1u << 20;
  constexpr Rounding rounding = Rounding::stochastic(3, 4);
  std::uint32_t* digests = nullptr;
  cudaMalloc(&digests, count * sizeof(std::uint32_t));
  evaluate_kernel<<<(count + 255) / 256, 256>>>(rounding, digests, count);
  std::vector<std::uint32_t> from_device(count);
  const cudaError_t status = cudaMemcpy(from_device.data(), digests, count * sizeof(std::uint32_t),
                                        cudaMemcpyDeviceToHost);
  cudaFree(digests);
  if (status != cudaSuccess) {
    std::printf("CUDA: %s\n", cudaGetErrorString(status));
    return 1;
  }
  for (std::uint32_t index = 0; index < count; ++index) {
    if (from_device[index] != evaluate(index, rounding)) {
      std::printf("host and device differ at index %u\n", index);
      return 1;
    }
  }
  std::printf("host and device agree on %u inputs\n", count);
  return 0;
}
