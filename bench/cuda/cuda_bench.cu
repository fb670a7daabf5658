// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of the stream API, beside a copy of as many bytes in the same process. Exits with 77 where
// there is no device.
//
// The device takes the times itself, between events around one call. None of a call's data is in
// the L2 cache when it starts. Bytes count everything that a call must read and write once. vs_copy
// is the time of a copy that moves as many bytes, over the call's: 1 is as fast as memory allows.
// At the smaller size the events and the start of a kernel count, in the copy as well.
#include <benchmark/benchmark.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <curand_kernel.h>
#include <thrust/device_vector.h>
#include <thrust/inner_product.h>
#include <thrust/transform.h>
#include <thrust/transform_reduce.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "actpack/actpack.hpp"
#include "actpack/cuda/bit_allocation.hpp"
#include "actpack/cuda/bit_pack.hpp"
#include "actpack/cuda/error.hpp"
#include "actpack/cuda/layout.hpp"
#include "actpack/cuda/mask.hpp"
#include "actpack/cuda/quantize.hpp"
#include "actpack/cuda/sign_magnitude.hpp"
#include "actpack/cuda/statistics.hpp"
#include "two_pass_baseline.cuh"

namespace {

using namespace actpack;

void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) {
    throw cuda_error(code, std::string("cuda_bench: ") + call);
  }
}

template <class T>
T* raw(thrust::device_vector<T>& x) {
  return thrust::raw_pointer_cast(x.data());
}
template <class T>
const T* raw(const thrust::device_vector<T>& x) {
  return thrust::raw_pointer_cast(x.data());
}

// Data: never zeros, which draw less power and so run faster.

/// Writes four values a thread; `count` is a multiple of 4.
template <class T>
__global__ void fill_normal(T* x, std::int64_t count, std::uint64_t seed) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (4 * thread < count) {
    curandStatePhilox4_32_10_t state;
    curand_init(seed, static_cast<unsigned long long>(thread), 0, &state);
    const float4 values = curand_normal4(&state);
    x[4 * thread] = static_cast<T>(values.x);
    x[4 * thread + 1] = static_cast<T>(values.y);
    x[4 * thread + 2] = static_cast<T>(values.z);
    x[4 * thread + 3] = static_cast<T>(values.w);
  }
}

__global__ void fill_words(std::uint32_t* words, std::int64_t count, std::uint64_t seed) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (4 * thread < count) {
    curandStatePhilox4_32_10_t state;
    curand_init(seed, static_cast<unsigned long long>(thread), 0, &state);
    reinterpret_cast<uint4*>(words)[thread] = curand4(&state);
  }
}

constexpr int fill_threads = 256;

unsigned fill_blocks(std::int64_t count) {
  return static_cast<unsigned>((count / 4 + fill_threads - 1) / fill_threads);
}

template <class T>
thrust::device_vector<T> normal_values(std::int64_t count, std::uint64_t seed) {
  thrust::device_vector<T> x(static_cast<std::size_t>(count));
  fill_normal<<<fill_blocks(count), fill_threads>>>(raw(x), count, seed);
  check(cudaGetLastError(), "fill_normal");
  return x;
}

/// At least `count` random words.
thrust::device_vector<std::uint32_t> random_words(std::int64_t count, std::uint64_t seed) {
  const std::int64_t rounded = (count + 3) / 4 * 4;
  thrust::device_vector<std::uint32_t> words(static_cast<std::size_t>(rounded));
  fill_words<<<fill_blocks(rounded), fill_threads>>>(raw(words), rounded, seed);
  check(cudaGetLastError(), "fill_words");
  return words;
}

/// Calls take turns on so many inputs.
constexpr int num_slots = 3;

template <class T>
using Slots = std::array<T, num_slots>;

template <class T>
Slots<thrust::device_vector<T>> normal_slots(std::int64_t count) {
  return {normal_values<T>(count, 1), normal_values<T>(count, 2), normal_values<T>(count, 3)};
}

Slots<thrust::device_vector<std::uint32_t>> random_slots(std::int64_t count) {
  return {random_words(count, 4), random_words(count, 5), random_words(count, 6)};
}

/// The stream and the clock of every measurement, and the memory around them.
class Device {
 public:
  Device() {
    int current = 0;
    check(cudaGetDevice(&current), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties_, current), "cudaGetDeviceProperties");
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
    flush_.resize(2 * static_cast<std::size_t>(std::max(properties_.l2CacheSize, 16 << 20)));
    seed_ = std::vector<std::uint64_t>{1, 0};
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() {
    (void)cudaEventDestroy(stop_);
    (void)cudaEventDestroy(start_);
    (void)cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }
  const cudaDeviceProp& properties() const { return properties_; }

  /// {seed, offset} in device memory.
  const std::uint64_t* seed() const { return raw(seed_); }

  /// Seconds that the device spends on the kernels of `work`, with an L2 cache full of other data.
  template <class Work>
  double seconds(const Work& work) {
    // The flush also keeps the device busy until all of `work` is enqueued.
    check(cudaMemsetAsync(raw(flush_), 0x5A, flush_.size(), stream_), "cudaMemsetAsync");
    check(cudaEventRecord(start_, stream_), "cudaEventRecord");
    work();
    check(cudaEventRecord(stop_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(stop_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

  /// Seconds of a copy that reads and writes `bytes` in all: the median of several.
  double copy_seconds(double bytes) {
    const std::size_t half = static_cast<std::size_t>(bytes / 2);
    const std::size_t words = half / 4 + 1;
    if (copy_source_.size() < words) {
      copy_source_ = random_words(static_cast<std::int64_t>(words), 7);
      copy_target_.resize(words);
    }
    std::array<double, 11> times;
    for (double& time : times) {
      time = seconds([&] {
        check(cudaMemcpyAsync(raw(copy_target_), raw(copy_source_), half, cudaMemcpyDeviceToDevice,
                              stream_),
              "cudaMemcpyAsync");
      });
    }
    std::ranges::nth_element(times, times.begin() + times.size() / 2);
    return times[times.size() / 2];
  }

 private:
  cudaDeviceProp properties_ = {};
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
  thrust::device_vector<std::uint8_t> flush_;
  thrust::device_vector<std::uint64_t> seed_;
  thrust::device_vector<std::uint32_t> copy_source_, copy_target_;
};

/// Runs `work`(slot), which handles `items` and has to move `bytes`; reports its speed.
template <class Work>
void measure(benchmark::State& state, Device& device, std::int64_t items, double bytes,
             const Work& work) {
  const double copy = device.copy_seconds(bytes);
  work(0);  // loads the kernel
  double total = 0;
  int slot = 0;
  for (auto _ : state) {
    const double time = device.seconds([&] { work(slot); });
    state.SetIterationTime(time);
    total += time;
    slot = (slot + 1) % num_slots;
  }
  const double iterations = static_cast<double>(state.iterations());
  state.SetItemsProcessed(state.iterations() * items);
  state.SetBytesProcessed(static_cast<std::int64_t>(iterations * bytes));
  state.counters["vs_copy"] = copy * iterations / total;
}

/// Values that leave a codec against those that went in.
template <class T>
struct SquaredDifference {
  __host__ __device__ double operator()(const T& a, const T& b) const {
    const double d = double{static_cast<float>(a)} - double{static_cast<float>(b)};
    return d * d;
  }
};
template <class T>
struct Square {
  __host__ __device__ double operator()(const T& a) const {
    const double d = static_cast<float>(a);
    return d * d;
  }
};
template <class T>
struct Relu {
  __host__ __device__ T operator()(const T& a) const {
    return static_cast<T>(fmaxf(static_cast<float>(a), 0));
  }
};

/// Reports Σ(decoded − x)² / Σx². The device's stream may not have finished `decoded` yet.
template <class T>
void report_error(benchmark::State& state, Device& device, const thrust::device_vector<T>& x,
                  const thrust::device_vector<T>& decoded) {
  check(cudaStreamSynchronize(device.stream()), "cudaStreamSynchronize");
  const double error = thrust::inner_product(x.begin(), x.end(), decoded.begin(), 0.0,
                                             thrust::plus<double>(), SquaredDifference<T>());
  const double power =
      thrust::transform_reduce(x.begin(), x.end(), Square<T>(), 0.0, thrust::plus<double>());
  state.counters["NMSE"] = error / power;
}

template <class T>
double bytes_of(const thrust::device_vector<T>& x) {
  return static_cast<double>(x.size() * sizeof(T));
}

constexpr std::int64_t num_rows = 256;

Layout layout_of(std::int64_t numel, int bits) {
  return {.rows = num_rows, .row_size = numel / num_rows, .bits = bits};
}

/// Owns a packed tensor on the device.
class Packed {
 public:
  explicit Packed(Layout layout)
      : layout_(layout), words_(static_cast<std::size_t>(layout.num_words())),
        params_(static_cast<std::size_t>(layout.num_groups())) {}

  Packed(Layout layout, const std::vector<std::uint8_t>& row_bits)
      : layout_(layout), params_(static_cast<std::size_t>(layout.num_groups())),
        row_bits_(row_bits) {
    std::vector<std::int64_t> offsets(row_bits.size() + 1);
    row_offsets(layout, row_bits, offsets);
    words_.resize(static_cast<std::size_t>(offsets.back()));
    row_offsets_ = offsets;
  }

  PackedView view() {
    const bool is_uniform = row_bits_.empty();
    return {layout_, raw(words_), raw(params_), is_uniform ? nullptr : raw(row_bits_),
            is_uniform ? nullptr : raw(row_offsets_)};
  }
  double size_bytes() const { return bytes_of(words_) + bytes_of(params_) + bytes_of(row_bits_); }
  double bits_per_value() const { return 8 * size_bytes() / static_cast<double>(layout_.numel()); }

 private:
  Layout layout_;
  thrust::device_vector<std::uint32_t> words_;
  thrust::device_vector<GroupParams> params_;
  thrust::device_vector<std::uint8_t> row_bits_;
  thrust::device_vector<std::int64_t> row_offsets_;
};

/// Owns a sign-magnitude context on the device.
class SignMagnitude {
 public:
  explicit SignMagnitude(Layout layout)
      : layout_(layout), sign_words_(static_cast<std::size_t>(layout.with_bits(1).num_words())),
        magnitude_words_(static_cast<std::size_t>(layout.num_words())),
        params_(static_cast<std::size_t>(layout.num_groups())) {}

  SignMagnitudeView view() {
    return {layout_, raw(sign_words_), raw(magnitude_words_), raw(params_)};
  }
  double mask_bytes() const { return bytes_of(sign_words_) + bytes_of(params_); }
  double size_bytes() const { return mask_bytes() + bytes_of(magnitude_words_); }
  double bits_per_value() const { return 8 * size_bytes() / static_cast<double>(layout_.numel()); }

 private:
  Layout layout_;
  thrust::device_vector<std::uint32_t> sign_words_, magnitude_words_;
  thrust::device_vector<SignMagnitudeParams> params_;
};

// The packed format

template <class T>
void quantize_into(benchmark::State& state, Device& device, std::int64_t numel, Rounding rounding,
                   Packed& packed) {
  const auto x = normal_slots<T>(numel);
  measure(state, device, numel, bytes_of(x[0]) + packed.size_bytes(),
          [&](int slot) { quantize(raw(x[slot]), packed.view(), rounding, device.stream()); });
  thrust::device_vector<T> decoded(x[0].size());
  quantize(raw(x[0]), packed.view(), rounding, device.stream());
  dequantize(packed.view(), raw(decoded), device.stream());
  report_error(state, device, x[0], decoded);
  state.counters["bits_per_value"] = packed.bits_per_value();
}

template <class T>
void quantize_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel,
                    Rounding rounding) {
  Packed packed(layout_of(numel, bits));
  quantize_into<T>(state, device, numel, rounding, packed);
}

template <class T>
void dequantize_from(benchmark::State& state, Device& device, std::int64_t numel, Decoding decoding,
                     Slots<Packed> packed) {
  const auto x = normal_values<T>(numel, 1);
  thrust::device_vector<T> decoded(x.size());
  for (Packed& slot : packed) {
    quantize(raw(x), slot.view(), Rounding::stochastic(1), device.stream());
  }
  measure(state, device, numel, bytes_of(x) + packed[0].size_bytes(), [&](int slot) {
    dequantize(packed[slot].view(), raw(decoded), decoding, device.stream());
  });
  report_error(state, device, x, decoded);
  state.counters["bits_per_value"] = packed[0].bits_per_value();
}

template <class T>
void dequantize_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel,
                      Decoding decoding) {
  const Layout layout = layout_of(numel, bits);
  dequantize_from<T>(state, device, numel, decoding,
                     {Packed(layout), Packed(layout), Packed(layout)});
}

/// With everything an epilogue can have: a scale and a shift for every channel, and a mask.
template <class T>
void epilogue_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel) {
  constexpr std::int64_t channels = 64;
  constexpr std::int64_t inner = 1024;
  const Layout layout = layout_of(numel, bits);
  Slots<Packed> packed = {Packed(layout), Packed(layout), Packed(layout)};
  thrust::device_vector<T> decoded(static_cast<std::size_t>(numel));
  {
    const auto x = normal_values<T>(numel, 1);
    for (Packed& slot : packed) {
      quantize(raw(x), slot.view(), Rounding::stochastic(1), device.stream());
    }
    check(cudaStreamSynchronize(device.stream()), "cudaStreamSynchronize");
  }
  const auto scale = normal_values<float>(channels, 2);
  const auto shift = normal_values<float>(channels, 3);
  const auto masks = random_slots(words_for(numel, 1));
  const double bytes = bytes_of(decoded) + packed[0].size_bytes() + bytes_of(scale) +
                       bytes_of(shift) + bytes_of(masks[0]);
  measure(state, device, numel, bytes, [&](int slot) {
    dequantize(packed[slot].view(), 0, numel, raw(decoded), Decoding::plain(),
               {.scale = raw(scale),
                .shift = raw(shift),
                .channels = channels,
                .inner = inner,
                .mask = raw(masks[slot])},
               device.stream());
  });
  state.counters["bits_per_value"] = packed[0].bits_per_value();
}

/// Every width as often as the others, and none twice in a row.
std::vector<std::uint8_t> mixed_widths() {
  constexpr std::array<std::uint8_t, 4> widths = {1, 4, 2, 8};
  std::vector<std::uint8_t> row_bits(num_rows);
  for (std::size_t row = 0; row < row_bits.size(); ++row) {
    row_bits[row] = widths[row % widths.size()];
  }
  return row_bits;
}

template <class T>
void quantize_rows_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  Packed packed(layout_of(numel, 8), mixed_widths());
  quantize_into<T>(state, device, numel, Rounding::stochastic(1), packed);
}

template <class T>
void dequantize_rows_bench(benchmark::State& state, Device& device, std::int64_t numel,
                           Decoding decoding) {
  const Layout layout = layout_of(numel, 8);
  const std::vector<std::uint8_t> row_bits = mixed_widths();
  dequantize_from<T>(
      state, device, numel, decoding,
      {Packed(layout, row_bits), Packed(layout, row_bits), Packed(layout, row_bits)});
}

/// The widths and offsets of as many rows as there are groups.
void row_offsets_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  const Layout layout = {.rows = numel / 256, .row_size = 256, .bits = 8};
  const std::vector<std::uint8_t> some = mixed_widths();
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(layout.rows));
  for (std::size_t row = 0; row < widths.size(); ++row) {
    widths[row] = some[row % some.size()];
  }
  const thrust::device_vector<std::uint8_t> row_bits = widths;
  thrust::device_vector<std::int64_t> offsets(widths.size() + 1);
  thrust::device_vector<std::byte> workspace(row_offsets_workspace(layout));
  measure(state, device, layout.rows, bytes_of(row_bits) + bytes_of(offsets), [&](int) {
    row_offsets(layout, raw(row_bits), raw(offsets), {raw(workspace), workspace.size()},
                device.stream());
  });
}

/// Widths for as many rows as there are groups, of sensitivities over six decades.
void allocate_bits_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  const std::size_t items = static_cast<std::size_t>(numel / 256);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-3, 3);
  std::vector<double> values(items);
  std::generate(values.begin(), values.end(), [&] { return std::pow(10.0, exponent(random)); });
  const thrust::device_vector<double> sensitivity = values;
  const thrust::device_vector<std::int64_t> sizes(items, 256);
  thrust::device_vector<std::uint8_t> bits(items);
  thrust::device_vector<AllocationTotals> totals(1);
  thrust::device_vector<std::byte> workspace(
      device_allocation_workspace(static_cast<std::int64_t>(items)));
  const AllocationProblem problem{{raw(sensitivity), items}, {raw(sizes), items}, 2 * numel};
  measure(state, device, static_cast<std::int64_t>(items),
          bytes_of(sensitivity) + bytes_of(sizes) + bytes_of(bits), [&](int) {
            allocate_bits(problem, {raw(bits), items}, raw(totals),
                          {raw(workspace), workspace.size()}, device.stream());
          });
}

template <class T>
void row_statistics_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  const auto x = normal_slots<T>(numel);
  thrust::device_vector<RowStatistics> statistics(num_rows);
  measure(state, device, numel, bytes_of(x[0]) + bytes_of(statistics), [&](int slot) {
    row_statistics(raw(x[slot]), layout_of(numel, 8), raw(statistics), device.stream());
  });
}

// Sign and magnitude

template <class T>
void encode_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel,
                  Rounding rounding) {
  const auto y = normal_slots<T>(numel);
  SignMagnitude context(layout_of(numel, bits));
  measure(state, device, numel, bytes_of(y[0]) + context.size_bytes(),
          [&](int slot) { encode(raw(y[slot]), context.view(), rounding, device.stream()); });
  thrust::device_vector<T> decoded(y[0].size());
  encode(raw(y[0]), context.view(), rounding, device.stream());
  decode(context.view(), raw(decoded), Decoding::plain(), device.stream());
  report_error(state, device, y[0], decoded);
  state.counters["bits_per_value"] = context.bits_per_value();
}

/// `y` encoded in every slot.
template <class T>
Slots<SignMagnitude> encoded(const thrust::device_vector<T>& y, int bits, Device& device) {
  const Layout layout = layout_of(static_cast<std::int64_t>(y.size()), bits);
  Slots<SignMagnitude> contexts = {SignMagnitude(layout), SignMagnitude(layout),
                                   SignMagnitude(layout)};
  for (SignMagnitude& context : contexts) {
    encode(raw(y), context.view(), Rounding::stochastic(1), device.stream());
  }
  return contexts;
}

template <class T>
void decode_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel,
                  Decoding decoding) {
  const auto y = normal_values<T>(numel, 1);
  Slots<SignMagnitude> contexts = encoded(y, bits, device);
  thrust::device_vector<T> decoded(y.size());
  measure(state, device, numel, bytes_of(y) + contexts[0].size_bytes(), [&](int slot) {
    decode(contexts[slot].view(), raw(decoded), decoding, device.stream());
  });
  report_error(state, device, y, decoded);
  state.counters["bits_per_value"] = contexts[0].bits_per_value();
}

template <class T>
void decode_relu_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel,
                       Decoding decoding) {
  auto y = normal_values<T>(numel, 1);
  Slots<SignMagnitude> contexts = encoded(y, bits, device);
  thrust::device_vector<T> decoded(y.size());
  measure(state, device, numel, bytes_of(y) + contexts[0].size_bytes(), [&](int slot) {
    decode_relu(contexts[slot].view(), raw(decoded), decoding, device.stream());
  });
  thrust::transform(y.begin(), y.end(), y.begin(), Relu<T>());
  report_error(state, device, y, decoded);
  state.counters["bits_per_value"] = contexts[0].bits_per_value();
}

template <class T>
void context_backward_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel) {
  const auto dy = normal_slots<T>(numel);
  Slots<SignMagnitude> contexts = encoded(dy[0], bits, device);
  thrust::device_vector<T> dx(dy[0].size());
  measure(state, device, numel, 2 * bytes_of(dx) + contexts[0].mask_bytes(), [&](int slot) {
    relu_backward(raw(dy[slot]), contexts[slot].view(), raw(dx), device.stream());
  });
}

// Masks

constexpr double drop_probability = 0.1;

/// Times `work`(x, y, mask), which reads x and writes y and the mask.
template <class T, class Work>
void forward(benchmark::State& state, Device& device, std::int64_t numel, const Work& work) {
  const auto x = normal_slots<T>(numel);
  thrust::device_vector<T> y(x[0].size());
  thrust::device_vector<std::uint32_t> mask(static_cast<std::size_t>(words_for(numel, 1)));
  measure(state, device, numel, 2 * bytes_of(y) + bytes_of(mask),
          [&](int slot) { work(raw(x[slot]), raw(y), raw(mask)); });
  state.counters["bits_per_value"] = 1;
}

/// Times `work`(dy, mask, dx), which reads dy and the mask and writes dx.
template <class T, class Work>
void backward(benchmark::State& state, Device& device, std::int64_t numel, const Work& work) {
  const auto dy = normal_slots<T>(numel);
  const auto masks = random_slots(words_for(numel, 1));
  thrust::device_vector<T> dx(dy[0].size());
  measure(state, device, numel, 2 * bytes_of(dx) + bytes_of(masks[0]),
          [&](int slot) { work(raw(dy[slot]), raw(masks[slot]), raw(dx)); });
  state.counters["bits_per_value"] = 1;
}

template <class T>
void relu_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  forward<T>(state, device, numel, [&](const T* x, T* y, std::uint32_t* mask) {
    relu(x, y, mask, numel, device.stream());
  });
}

template <class T>
void relu_backward_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  backward<T>(state, device, numel, [&](const T* dy, const std::uint32_t* mask, T* dx) {
    relu_backward(dy, mask, dx, numel, device.stream());
  });
}

template <class T>
void dropout_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  forward<T>(state, device, numel, [&](const T* x, T* y, std::uint32_t* mask) {
    dropout(x, y, mask, numel, drop_probability, Rounding::stochastic(1), 0, device.stream());
  });
}

template <class T>
void dropout_backward_bench(benchmark::State& state, Device& device, std::int64_t numel) {
  backward<T>(state, device, numel, [&](const T* dy, const std::uint32_t* mask, T* dx) {
    dropout_backward(dy, mask, dx, numel, drop_probability, device.stream());
  });
}

// Small integers

double packing_bytes(std::int64_t numel, int bits) {
  return static_cast<double>(numel + 4 * words_for(numel, bits));
}

void pack_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel) {
  const auto codes = random_slots(numel / 4);
  thrust::device_vector<std::uint32_t> words(static_cast<std::size_t>(words_for(numel, bits)));
  measure(state, device, numel, packing_bytes(numel, bits), [&](int slot) {
    pack(reinterpret_cast<const std::uint8_t*>(raw(codes[slot])), numel, bits, raw(words),
         device.stream());
  });
  state.counters["bits_per_value"] = bits;
}

void unpack_bench(benchmark::State& state, Device& device, int bits, std::int64_t numel) {
  const auto words = random_slots(words_for(numel, bits));
  thrust::device_vector<std::uint8_t> codes(static_cast<std::size_t>(numel));
  measure(state, device, numel, packing_bytes(numel, bits),
          [&](int slot) { unpack(raw(words[slot]), bits, 0, numel, raw(codes), device.stream()); });
  state.counters["bits_per_value"] = bits;
}

// The baseline. Its second read of the input is not counted: bytes are those of the others.

class TwoPassPacked {
 public:
  explicit TwoPassPacked(std::int64_t numel)
      : codes_(static_cast<std::size_t>(numel / two_pass::codes_per_byte)),
        min_(static_cast<std::size_t>(numel / two_pass::group_size)), step_(min_.size()) {}

  two_pass::View view() {
    return {static_cast<std::int64_t>(min_.size()), raw(codes_), raw(min_), raw(step_)};
  }
  double size_bytes() const { return bytes_of(codes_) + bytes_of(min_) + bytes_of(step_); }

 private:
  thrust::device_vector<std::uint8_t> codes_;
  thrust::device_vector<float> min_, step_;
};

void two_pass_quantize_bench(benchmark::State& state, Device& device, int, std::int64_t numel) {
  const auto x = normal_slots<float>(numel);
  TwoPassPacked packed(numel);
  measure(state, device, numel, bytes_of(x[0]) + packed.size_bytes(),
          [&](int slot) { two_pass::quantize(raw(x[slot]), packed.view(), 1, device.stream()); });
  thrust::device_vector<float> decoded(x[0].size());
  two_pass::quantize(raw(x[0]), packed.view(), 1, device.stream());
  two_pass::dequantize(packed.view(), raw(decoded), device.stream());
  report_error(state, device, x[0], decoded);
  state.counters["bits_per_value"] = two_pass::bits_per_value;
}

void two_pass_dequantize_bench(benchmark::State& state, Device& device, int, std::int64_t numel) {
  const auto x = normal_values<float>(numel, 1);
  Slots<TwoPassPacked> packed = {TwoPassPacked(numel), TwoPassPacked(numel), TwoPassPacked(numel)};
  for (TwoPassPacked& slot : packed) {
    two_pass::quantize(raw(x), slot.view(), 1, device.stream());
  }
  thrust::device_vector<float> decoded(x.size());
  measure(state, device, numel, bytes_of(x) + packed[0].size_bytes(), [&](int slot) {
    two_pass::dequantize(packed[slot].view(), raw(decoded), device.stream());
  });
  report_error(state, device, x, decoded);
  state.counters["bits_per_value"] = two_pass::bits_per_value;
}

/// Names the rows: verb/variant/type/bits:b/numel:n.
class Rows {
 public:
  explicit Rows(Device& device) : device_(device) {
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    // The largest row holds three inputs, an output, and both sides of the copy.
    const bool is_short = free_bytes < std::size_t{10} << 30;
    sizes_ = {1 << 22, is_short ? 1 << 26 : 1 << 28};
  }

  /// `f`(state, device, numel) at both sizes.
  void add(const std::string& name,
           std::function<void(benchmark::State&, Device&, std::int64_t)> f) {
    Device& device = device_;
    benchmark::RegisterBenchmark(
        name.c_str(), [&device, f](benchmark::State& state) { f(state, device, state.range(0)); })
        ->ArgNames({"numel"})
        ->ArgsProduct({sizes_})
        ->UseManualTime();
  }

  /// `f`(state, device, bits, numel) at `widths` and both sizes.
  void add(const std::string& name, const std::vector<std::int64_t>& widths,
           std::function<void(benchmark::State&, Device&, int, std::int64_t)> f) {
    Device& device = device_;
    benchmark::RegisterBenchmark(name.c_str(),
                                 [&device, f](benchmark::State& state) {
                                   f(state, device, static_cast<int>(state.range(0)),
                                     state.range(1));
                                 })
        ->ArgNames({"bits", "numel"})
        ->ArgsProduct({widths, sizes_})
        ->UseManualTime();
  }

 private:
  Device& device_;
  std::vector<std::int64_t> sizes_;
};

const std::vector<std::int64_t> every_width = {1, 2, 4, 8};

template <class T>
void add_type(Rows& rows, const std::string& type, const Device& device) {
  const Rounding stochastic = Rounding::stochastic(1);
  const std::pair<const char*, Rounding> roundings[] = {
      {"nearest/", Rounding::nearest()},
      {"stochastic/", stochastic},
      {"device_seed/", Rounding::stochastic(device.seed())}};
  const std::pair<const char*, Decoding> decodings[] = {
      {"plain/", Decoding::plain()}, {"subtractive/", Decoding::subtractive(stochastic)}};

  for (const auto& [name, rounding] : roundings) {
    rows.add(
        "quantize/" + (name + type), every_width,
        [rounding = rounding](benchmark::State& state, Device& d, int bits, std::int64_t numel) {
          quantize_bench<T>(state, d, bits, numel, rounding);
        });
  }
  for (const auto& [name, decoding] : decodings) {
    rows.add(
        "dequantize/" + (name + type), every_width,
        [decoding = decoding](benchmark::State& state, Device& d, int bits, std::int64_t numel) {
          dequantize_bench<T>(state, d, bits, numel, decoding);
        });
  }
  rows.add("dequantize/epilogue/" + type, every_width, epilogue_bench<T>);
  rows.add("quantize_rows/stochastic/" + type, quantize_rows_bench<T>);
  for (const auto& [name, decoding] : decodings) {
    rows.add("dequantize_rows/" + (name + type),
             [decoding = decoding](benchmark::State& state, Device& d, std::int64_t numel) {
               dequantize_rows_bench<T>(state, d, numel, decoding);
             });
  }
  rows.add("row_statistics/" + type, row_statistics_bench<T>);

  rows.add("sign_magnitude_encode/stochastic/" + type, every_width,
           [stochastic](benchmark::State& state, Device& d, int bits, std::int64_t numel) {
             encode_bench<T>(state, d, bits, numel, stochastic);
           });
  for (const auto& [name, decoding] : decodings) {
    rows.add(
        "sign_magnitude_decode/" + (name + type), every_width,
        [decoding = decoding](benchmark::State& state, Device& d, int bits, std::int64_t numel) {
          decode_bench<T>(state, d, bits, numel, decoding);
        });
    rows.add(
        "sign_magnitude_decode_relu/" + (name + type), every_width,
        [decoding = decoding](benchmark::State& state, Device& d, int bits, std::int64_t numel) {
          decode_relu_bench<T>(state, d, bits, numel, decoding);
        });
  }
  rows.add("sign_magnitude_relu_backward/" + type, every_width, context_backward_bench<T>);

  rows.add("relu/" + type, relu_bench<T>);
  rows.add("relu_backward/" + type, relu_backward_bench<T>);
  rows.add("dropout/" + type, dropout_bench<T>);
  rows.add("dropout_backward/" + type, dropout_backward_bench<T>);
}

void add_all(Rows& rows, const Device& device) {
  add_type<float>(rows, "float", device);
  add_type<__half>(rows, "half", device);
  add_type<__nv_bfloat16>(rows, "bfloat16", device);
  rows.add("pack", every_width, pack_bench);
  rows.add("unpack", every_width, unpack_bench);
  rows.add("row_offsets", row_offsets_bench);
  rows.add("allocate_bits", allocate_bits_bench);
  rows.add("two_pass_quantize/stochastic/float", {2}, two_pass_quantize_bench);
  rows.add("two_pass_dequantize/plain/float", {2}, two_pass_dequantize_bench);
}

/// "13.0" from the number that the runtime and the driver give.
std::string version_of(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

/// The facts that a table of results gives beside its rows.
void describe(const Device& device, int argc, char** argv) {
  std::string command;
  for (int i = 0; i < argc; ++i) {
    command += i == 0 ? "" : " ";
    command += argv[i];
  }
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  const cudaDeviceProp& properties = device.properties();
  benchmark::AddCustomContext("gpu", properties.name);
  benchmark::AddCustomContext("compute_capability", std::to_string(properties.major) + "." +
                                                        std::to_string(properties.minor));
  benchmark::AddCustomContext("driver_cuda_version", version_of(driver));
  benchmark::AddCustomContext("compiler", "nvcc " + std::to_string(__CUDACC_VER_MAJOR__) + "." +
                                              std::to_string(__CUDACC_VER_MINOR__) + "." +
                                              std::to_string(__CUDACC_VER_BUILD__));
  benchmark::AddCustomContext("command", command);
}

int run(int argc, char** argv) {
  int devices = 0;
  cudaError_t code = cudaGetDeviceCount(&devices);
  if (code == cudaSuccess && devices == 0) {
    code = cudaErrorNoDevice;
  }
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
    std::printf("no CUDA device: %s\n", cudaGetErrorString(code));
    return 77;
  }
  check(code, "cudaGetDeviceCount");

  // Enough for steady medians. Flags of the caller come later and override these.
  std::vector<char*> arguments(argv, argv + argc);
  std::string defaults[] = {"--benchmark_min_time=0.02", "--benchmark_repetitions=5",
                            "--benchmark_report_aggregates_only=true"};
  for (std::string& argument : defaults) {
    arguments.insert(arguments.begin() + 1, argument.data());
  }
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) {
    return 1;
  }
  Device device;
  describe(device, argc, argv);
  Rows rows(device);
  add_all(rows, device);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
