// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The stream API on a GPU: words, parameters and values are the host's, bit for bit, for a billion
// random elements in random shapes, whatever the stream and the chunks; replayed graphs draw fresh
// noise. Exits with 77 where there is no GPU. ACTPACK_TEST_ELEMENTS sets another number of elements
// (sanitizers are slow).
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <thrust/device_vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <type_traits>
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
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "statistics_kernels.hpp"
#include "support/allocation_reference.hpp"

namespace {

using namespace actpack;

void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) {
    throw cuda_error(code, call);
  }
}

detail::NothingShared unshared;

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "synchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

template <class T>
using DeviceType =
    std::conditional_t<std::is_same_v<T, float16>, __half,
                       std::conditional_t<std::is_same_v<T, bfloat16>, __nv_bfloat16, T>>;

/// Device memory with the contents of a host array, or poisoned with 0xA5; values start `shift`
/// elements behind an aligned address, and 64 more bytes follow that nobody may touch.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size, std::size_t shift = 0)
      : bytes_((shift + size) * sizeof(T) + guard, 0xA5), size_(size), shift_(shift) {}
  explicit DeviceArray(std::span<const T> values, std::size_t shift = 0)
      : DeviceArray(values.size(), shift) {
    check(cudaMemcpy(data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice), "copy");
  }

  T* data() { return reinterpret_cast<T*>(thrust::raw_pointer_cast(bytes_.data())) + shift_; }
  auto* typed() { return reinterpret_cast<DeviceType<T>*>(data()); }
  std::vector<T> values() {
    std::vector<T> result(size_);
    check(cudaMemcpy(result.data(), data(), size_ * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    std::vector<unsigned char> tail(guard);
    check(cudaMemcpy(tail.data(), data() + size_, guard, cudaMemcpyDeviceToHost), "copy");
    const bool guard_intact = tail == std::vector<unsigned char>(guard, 0xA5);
    CHECK(guard_intact);
    return result;
  }

 private:
  static constexpr std::size_t guard = 64;
  thrust::device_vector<unsigned char> bytes_;
  std::size_t size_, shift_;
};

std::uint32_t bits_of(float x) { return detail::bits_of(x); }
std::uint32_t bits_of(bfloat16 x) { return x.bits; }
std::uint32_t bits_of(float16 x) { return x.bits; }

/// The first index at which values differ, any NaN being as good as another; −1 if none.
template <class T>
std::int64_t first_difference(const std::vector<T>& got, const std::vector<T>& want) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool same = bits_of(got[i]) == bits_of(want[i]) ||
                      (detail::is_nan(float(got[i])) && detail::is_nan(float(want[i])));
    if (!same) {
      return static_cast<std::int64_t>(i);
    }
  }
  return got.size() == want.size() ? -1 : 0;
}

/// Normal values, in some groups tiny, huge, constant or poisoned ones.
template <class T>
std::vector<T> random_values(std::int64_t size, std::mt19937_64& random) {
  std::vector<T> x(static_cast<std::size_t>(size));
  std::normal_distribution<float> normal;
  std::vector<float> table(4096);
  for (float& value : table) {
    value = normal(random);
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t block = i / 100;
    const float scale = block % 13 == 5 ? 1e-30f : block % 17 == 3 ? 3e37f : 1.0f;
    x[i] = T(table[(i * 2654435761u + block) % 4096] * scale);
  }
  if (size > 0 && random() % 4 == 0) {
    x[random() % x.size()] = T(detail::float_of(0x7FC00000));
  }
  return x;
}

Layout random_layout(std::int64_t target, std::mt19937_64& random) {
  constexpr std::int32_t group_sizes[] = {256, 256, 256, 32, 64, 128, 512, 1024, 96, 4096};
  constexpr int widths[] = {1, 2, 4, 8};
  Layout layout;
  layout.rows = random() % 3 == 0 ? 1 : 1 + static_cast<std::int64_t>(random() % 300);
  layout.row_size = target / layout.rows + 1;
  if (random() % 2 == 0) {
    layout.row_size = (layout.row_size + 4095) / 4096 * 4096;
  }
  layout.group_size = group_sizes[random() % 10];
  layout.bits = widths[random() % 4];
  if (random() % 4 == 0) {
    layout.last_row_size = (layout.row_size + 1) / 2;
  }
  return layout;
}

struct DevicePacked {
  DevicePacked(const Layout& shape, std::int64_t num_words)
      : layout(shape), words(static_cast<std::size_t>(num_words)),
        params(static_cast<std::size_t>(shape.num_groups())) {}
  PackedView view() { return {layout, words.data(), params.data(), row_bits, row_offsets}; }

  Layout layout;
  DeviceArray<std::uint32_t> words;
  DeviceArray<GroupParams> params;
  const std::uint8_t* row_bits = nullptr;
  const std::int64_t* row_offsets = nullptr;
};

/// Whether a tensor's first `num_words` words and all parameters are as wanted, and nothing is
/// written behind those words.
bool same_packed(DevicePacked& got, const ConstPackedView& want, std::int64_t num_words) {
  const std::vector<std::uint32_t> words = got.words.values();
  const std::vector<GroupParams> params = got.params.values();
  bool same = std::equal(want.words, want.words + num_words, words.begin()) &&
              std::all_of(words.begin() + num_words, words.end(),
                          [](std::uint32_t word) { return word == 0xA5A5A5A5u; });
  for (std::size_t g = 0; g < params.size(); ++g) {
    same = same && params[g].scale.bits == want.params[g].scale.bits &&
           params[g].min.bits == want.params[g].min.bits;
  }
  return same;
}

/// One random tensor through every verb that packs or decodes; returns its elements.
template <class T>
std::int64_t check_random_tensor(std::int64_t target, std::mt19937_64& random) {
  const Layout layout = random_layout(target, random);
  const std::vector<T> x = random_values<T>(layout.numel(), random);
  const Rounding rounding =
      random() % 5 == 0 ? Rounding::nearest() : Rounding::stochastic(random(), random());
  const bool by_row = random() % 3 == 0;
  std::vector<std::uint8_t> row_bits(static_cast<std::size_t>(layout.rows));
  for (auto& bits : row_bits) {
    do {
      bits = static_cast<std::uint8_t>(1u << random() % 4);
    } while (bits > layout.bits);
  }
  CAPTURE(layout.rows);
  CAPTURE(layout.row_size);
  CAPTURE(layout.last_row_size);
  CAPTURE(layout.group_size);
  CAPTURE(layout.bits);
  CAPTURE(by_row);

  PackedBuffer expected = by_row ? PackedBuffer(layout, row_bits) : PackedBuffer(layout);
  quantize(x, expected.view(), rounding);

  const Stream stream;
  DeviceArray<T> device_x(std::span<const T>(x), random() % 3 == 0 ? 1 : 0);
  std::int64_t num_words = layout.num_words();
  DeviceArray<std::uint8_t> device_row_bits{std::span<const std::uint8_t>(row_bits)};
  DeviceArray<std::int64_t> device_offsets(row_bits.size() + 1);
  if (by_row) {
    DeviceArray<std::byte> workspace(row_offsets_workspace(layout));
    row_offsets(layout, device_row_bits.data(), device_offsets.data(),
                {workspace.data(), row_offsets_workspace(layout)}, stream);
    stream.wait();
    num_words = device_offsets.values().back();
    CHECK(num_words == expected.view().row_offsets[layout.rows]);
  }
  DevicePacked packed(layout, num_words);
  if (by_row) {
    packed.row_bits = device_row_bits.data();
    packed.row_offsets = device_offsets.data();
  }
  if (random() % 3 == 0) {  // in chunks, on two streams
    const Stream other;
    const std::int64_t half = layout.rows / 2;
    quantize(device_x.typed() + half * layout.row_size, packed.view(), rounding, half,
             layout.rows - half, other);
    quantize(device_x.typed(), packed.view(), rounding, 0, half, stream);
    other.wait();
  } else {
    quantize(device_x.typed(), packed.view(), rounding, stream);
  }
  stream.wait();
  const bool same_words = same_packed(packed, expected.view(), num_words);
  CHECK(same_words);

  for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding, 0.75f),
                                   Decoding::subtractive(rounding)}) {
    std::vector<T> want(x.size());
    dequantize(expected.view(), want, decoding);
    DeviceArray<T> decoded(x.size(), random() % 3 == 0 ? 1 : 0);
    dequantize(packed.view(), decoded.typed(), decoding, stream);
    stream.wait();
    CHECK(first_difference(decoded.values(), want) == -1);
    const std::int64_t first = static_cast<std::int64_t>(random() % x.size());
    const std::int64_t count = static_cast<std::int64_t>(
        random() % static_cast<std::uint64_t>(layout.numel() - first + 1));
    DeviceArray<T> part(static_cast<std::size_t>(count));
    dequantize(packed.view(), first, count, part.typed(), decoding, stream);
    stream.wait();
    CHECK(first_difference(part.values(), std::vector<T>(want.begin() + first,
                                                         want.begin() + first + count)) == -1);
  }
  return layout.numel();
}

template <class T>
std::int64_t check_random_context(std::int64_t target, std::mt19937_64& random) {
  const Layout layout = random_layout(target, random);
  const std::vector<T> y = random_values<T>(layout.numel(), random);
  const Rounding rounding = Rounding::stochastic(random(), random());
  CAPTURE(layout.rows);
  CAPTURE(layout.row_size);
  CAPTURE(layout.group_size);
  CAPTURE(layout.bits);
  SignMagnitudeBuffer expected(layout);
  encode(y, expected.view(), rounding);
  const Stream stream;
  DeviceArray<T> device_y{std::span<const T>(y)};
  DeviceArray<std::uint32_t> signs(static_cast<std::size_t>(layout.with_bits(1).num_words()));
  DeviceArray<std::uint32_t> magnitudes(static_cast<std::size_t>(layout.num_words()));
  DeviceArray<SignMagnitudeParams> params(static_cast<std::size_t>(layout.num_groups()));
  const SignMagnitudeView view{layout, signs.data(), magnitudes.data(), params.data()};
  encode(device_y.typed(), view, rounding, stream);
  stream.wait();
  const auto got_signs = signs.values();
  const auto got_magnitudes = magnitudes.values();
  const auto got_params = params.values();
  const ConstSignMagnitudeView want_view = expected.view();
  bool same = std::equal(got_signs.begin(), got_signs.end(), want_view.sign_words) &&
              std::equal(got_magnitudes.begin(), got_magnitudes.end(), want_view.magnitude_words);
  for (std::size_t g = 0; g < got_params.size(); ++g) {
    same = same && got_params[g].positive.bits == want_view.params[g].positive.bits &&
           got_params[g].negative.bits == want_view.params[g].negative.bits;
  }
  CHECK(same);

  std::vector<T> want(y.size());
  DeviceArray<T> got(y.size());
  for (const Decoding& decoding : {Decoding::plain(), Decoding::subtractive(rounding)}) {
    decode(want_view, want, decoding);
    decode(view, got.typed(), decoding, stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);
    decode_relu(want_view, want, decoding);
    decode_relu(view, got.typed(), decoding, stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);
  }
  relu_backward(y, want_view, want);
  relu_backward(device_y.typed(), view, got.typed(), stream);
  stream.wait();
  CHECK(first_difference(got.values(), want) == -1);
  return layout.numel();
}

std::int64_t elements_to_try() {
  const char* text = std::getenv("ACTPACK_TEST_ELEMENTS");
  return text != nullptr ? std::atoll(text) : 1'000'000'000;
}

}  // namespace

TEST_CASE("on the device: random tensors are packed and decoded as on the host") {
  std::mt19937_64 random(1);
  const std::int64_t total = elements_to_try();
  const std::int64_t target = std::max<std::int64_t>(total / 64, 1000);
  for (std::int64_t done = 0; done < total;) {
    done += check_random_tensor<float>(target, random);
    done += check_random_tensor<bfloat16>(target, random);
    done += check_random_tensor<float16>(target, random);
    std::printf("\r%lld of %lld elements", static_cast<long long>(done),
                static_cast<long long>(total));
    std::fflush(stdout);
  }
  std::puts("");
}

TEST_CASE("on the device: sign-magnitude contexts are the host's") {
  std::mt19937_64 random(2);
  const std::int64_t total = elements_to_try() / 8;
  const std::int64_t target = std::max<std::int64_t>(total / 32, 1000);
  for (std::int64_t done = 0; done < total;) {
    done += check_random_context<float>(target, random);
    done += check_random_context<bfloat16>(target, random);
    done += check_random_context<float16>(target, random);
  }
}

TEST_CASE_TEMPLATE("on the device: ReLU, dropout and their backward passes", T, float, bfloat16,
                   float16) {
  std::mt19937_64 random(3);
  const Stream stream;
  for (const std::int64_t size : {1, 33, 100'003}) {
    CAPTURE(size);
    const std::vector<T> x = random_values<T>(size, random);
    const std::vector<T> dy = random_values<T>(size, random);
    const std::size_t n = x.size();
    std::vector<T> want(n);
    std::vector<std::uint32_t> want_mask(static_cast<std::size_t>(words_for(size, 1)));
    DeviceArray<T> device_x{std::span<const T>(x)};
    DeviceArray<T> device_dy{std::span<const T>(dy)};
    DeviceArray<T> got(n);
    DeviceArray<std::uint32_t> mask(want_mask.size());

    relu(x, want, want_mask);
    relu(device_x.typed(), got.typed(), mask.data(), size, stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);
    CHECK(mask.values() == want_mask);
    relu_backward(dy, want_mask, want);
    relu_backward(device_dy.typed(), mask.data(), got.typed(), size, stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);

    dropout(x, want, want_mask, 0.3, Rounding::stochastic(5, 6), 32);
    dropout(device_x.typed(), got.typed(), mask.data(), size, 0.3, Rounding::stochastic(5, 6), 32,
            stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);
    CHECK(mask.values() == want_mask);
    dropout_backward(dy, want_mask, want, 0.3);
    dropout_backward(device_dy.typed(), mask.data(), got.typed(), size, 0.3, stream);
    stream.wait();
    CHECK(first_difference(got.values(), want) == -1);
  }
}

TEST_CASE("on the device: codes are packed and unpacked") {
  const Stream stream;
  for (const int bits : {1, 2, 4, 8}) {
    std::vector<std::uint8_t> codes(100'003);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>(i * 2654435761u >> 7 & max_code(bits));
    }
    const std::int64_t size = static_cast<std::int64_t>(codes.size());
    std::vector<std::uint32_t> want(static_cast<std::size_t>(words_for(size, bits)));
    pack(codes, bits, want);
    DeviceArray<std::uint8_t> device_codes{std::span<const std::uint8_t>(codes)};
    DeviceArray<std::uint32_t> words(want.size());
    pack(device_codes.data(), size, bits, words.data(), stream);
    stream.wait();
    CHECK(words.values() == want);
    DeviceArray<std::uint8_t> part(codes.size() - 77);
    unpack(words.data(), bits, 77, size - 77, part.data(), stream);
    stream.wait();
    CHECK(part.values() == std::vector<std::uint8_t>(codes.begin() + 77, codes.end()));
  }
}

TEST_CASE("on the device: the sums over rows are those of the same body on the host") {
  std::mt19937_64 random(4);
  const Stream stream;
  for (const std::int32_t group_size : {32, 96, 256, 1024}) {
    const Layout layout{.rows = 7, .row_size = 30'011, .group_size = group_size};
    std::vector<float> x(static_cast<std::size_t>(layout.numel()));
    std::normal_distribution<float> normal;
    for (float& value : x) {
      value = normal(random);
    }
    DeviceArray<float> device_x{std::span<const float>(x)};
    DeviceArray<RowStatistics> statistics(7);
    row_statistics(device_x.data(), layout, statistics.data(), stream);
    stream.wait();
    std::vector<RowStatistics> want(7);
    const std::vector<RowStatistics> got = statistics.values();
    for (std::int64_t row = 0; row < 7; ++row) {
      detail::SumRow<float>{x.data(), layout, layout.groups_per_row(), want.data()}(
          detail::HostThreadBlock<detail::statistics_threads>(), unshared, row, layout.rows);
      const auto i = static_cast<std::size_t>(row);
      CHECK(got[i].squared_norm == want[i].squared_norm);
      CHECK(got[i].squared_range_norm == want[i].squared_range_norm);
    }
  }
}

// Where an array may be empty, there is no limit.
std::span<const std::uint8_t> limits_of(DeviceArray<std::uint8_t>& limits,
                                        const std::vector<std::uint8_t>& host) {
  return {limits.data(), host.size()};
}

TEST_CASE("on the device: bit allocation finds the host's widths and totals") {
  const Stream stream;
  std::uint64_t seed = 0;
  for (const reference::Sizes sizes : reference::all_sizes_of_items) {
    for (const reference::Noise noise : reference::all_noises) {
      for (const reference::Limits limits : reference::all_limits) {
        for (const std::size_t items : {1u, 8u, 300u, 3000u, 300'000u}) {
          if (items > 3000 && noise != reference::Noise::log_uniform) continue;
          CAPTURE(seed);
          CAPTURE(items);
          const reference::AllocationInstance instance =
              reference::make_instance(sizes, noise, limits, items, ++seed);
          DeviceArray<double> sensitivity{std::span<const double>(instance.sensitivity)};
          DeviceArray<std::array<double, 4>> variance{
              std::span<const std::array<double, 4>>(instance.variance)};
          DeviceArray<std::int64_t> numel{std::span<const std::int64_t>(instance.numel)};
          DeviceArray<std::uint8_t> min_bits{std::span<const std::uint8_t>(instance.min_bits)};
          DeviceArray<std::uint8_t> max_bits{std::span<const std::uint8_t>(instance.max_bits)};
          DeviceArray<std::uint8_t> bits(items);
          DeviceArray<AllocationTotals> totals(1);
          const std::size_t bytes = device_allocation_workspace(static_cast<std::int64_t>(items));
          DeviceArray<std::byte> workspace(bytes);
          Allocation want;
          if (instance.sensitivity.empty()) {
            want = allocate_measured_bits({instance.variance, instance.numel, instance.bit_budget,
                                           instance.min_bits, instance.max_bits});
            allocate_measured_bits({{variance.data(), items},
                                    {numel.data(), items},
                                    instance.bit_budget,
                                    limits_of(min_bits, instance.min_bits),
                                    limits_of(max_bits, instance.max_bits)},
                                   {bits.data(), items}, totals.data(), {workspace.data(), bytes},
                                   stream);
          } else {
            want = allocate_bits({instance.sensitivity, instance.numel, instance.bit_budget,
                                  instance.min_bits, instance.max_bits});
            allocate_bits({{sensitivity.data(), items},
                           {numel.data(), items},
                           instance.bit_budget,
                           limits_of(min_bits, instance.min_bits),
                           limits_of(max_bits, instance.max_bits)},
                          {bits.data(), items}, totals.data(), {workspace.data(), bytes}, stream);
          }
          stream.wait();
          CHECK(bits.values() == want.bits);
          const AllocationTotals got = totals.values()[0];
          CHECK(got.bits_used == want.bits_used);
          CHECK(got.variance == want.variance);
          CHECK(got.lower_bound == want.lower_bound);
        }
      }
    }
  }
}

TEST_CASE("on the device: ranges lead to widths, offsets and packed rows without the host") {
  std::mt19937_64 random(6);
  const Layout layout{.rows = 64, .row_size = 3000, .bits = 8};
  std::vector<float> x = random_values<float>(layout.numel(), random);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(random) * std::exp2(static_cast<float>(i / 3000 % 9));
  }
  const std::vector<std::int64_t> numel(64, 3000);
  const std::int64_t budget = 2 * layout.numel();
  DeviceArray<float> device_x{std::span<const float>(x)};
  DeviceArray<std::int64_t> device_numel{std::span<const std::int64_t>(numel)};
  DeviceArray<RowStatistics> statistics(64);
  DeviceArray<double> sensitivity(64);
  DeviceArray<std::uint8_t> row_bits(64);
  DeviceArray<std::int64_t> offsets(65);
  const std::size_t bytes = device_allocation_workspace(64);
  DeviceArray<std::byte> workspace(bytes);
  DevicePacked packed(layout, layout.num_words());
  packed.row_bits = row_bits.data();
  packed.row_offsets = offsets.data();
  const Rounding rounding = Rounding::stochastic(7, 8);

  const Stream stream;
  row_statistics(device_x.data(), layout, statistics.data(), stream);
  row_sensitivities(statistics.data(), statistics.data(), 0.5, layout, sensitivity.data(), stream);
  allocate_row_bits({{sensitivity.data(), 64}, {device_numel.data(), 64}, budget}, layout,
                    {row_bits.data(), 64}, {offsets.data(), 65}, nullptr, {workspace.data(), bytes},
                    stream);
  quantize(device_x.data(), packed.view(), rounding, stream);
  stream.wait();

  const std::vector<double> sensitivities = sensitivity.values();
  const std::vector<RowStatistics> of_rows = statistics.values();
  for (std::size_t row = 0; row < 64; ++row) {
    CHECK(sensitivities[row] == 0.5 * of_rows[row].squared_norm *
                                    rounding_sensitivity(of_rows[row].squared_range_norm, 256));
  }
  const Allocation want = allocate_bits({sensitivities, numel, budget});
  CHECK(row_bits.values() == want.bits);
  PackedBuffer expected(layout, want.bits);
  quantize(x, expected.view(), rounding);
  CHECK(offsets.values().back() == expected.view().row_offsets[64]);
  const bool same_words = same_packed(packed, expected.view(), expected.view().row_offsets[64]);
  CHECK(same_words);
}

TEST_CASE("on the device: a replayed graph draws fresh noise, the noise of its seed and offset") {
  std::mt19937_64 random(5);
  const Layout layout{.row_size = 1 << 16, .bits = 2};
  const std::vector<float> x = random_values<float>(layout.numel(), random);
  DeviceArray<float> device_x{std::span<const float>(x)};
  DevicePacked packed(layout, layout.num_words());
  DeviceArray<std::uint64_t> seed_and_offset(2);
  const Rounding rounding =
      Rounding::stochastic(static_cast<const std::uint64_t*>(seed_and_offset.data()));

  const Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  quantize(device_x.data(), packed.view(), rounding, stream);
  check(cudaStreamEndCapture(stream, &graph), "end of capture");
  check(cudaGraphInstantiate(&replay, graph, 0), "instantiate");
  for (std::uint64_t step = 0; step < 3; ++step) {
    const std::uint64_t values[2] = {9, step};
    check(cudaMemcpy(seed_and_offset.data(), values, sizeof values, cudaMemcpyHostToDevice),
          "copy");
    check(cudaGraphLaunch(replay, stream), "replay");
    stream.wait();
    PackedBuffer expected(layout);
    quantize(x, expected.view(), Rounding::stochastic(9, step));
    const bool same = same_packed(packed, expected.view(), layout.num_words());
    CHECK(same);
  }
  check(cudaGraphExecDestroy(replay), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
}

int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU to run on (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
