// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The stream API refuses wrong arguments before it touches a device, and says so where there is
// none. All of it runs without a GPU.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "actpack/cuda/batch_norm.hpp"
#include "actpack/cuda/bit_allocation.hpp"
#include "actpack/cuda/bit_pack.hpp"
#include "actpack/cuda/error.hpp"
#include "actpack/cuda/layout.hpp"
#include "actpack/cuda/mask.hpp"
#include "actpack/cuda/quantize.hpp"
#include "actpack/cuda/sign_keeping.hpp"
#include "actpack/cuda/sign_magnitude.hpp"
#include "actpack/cuda/statistics.hpp"

namespace {

using namespace actpack;

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  } catch (const cuda_error& error) {
    return std::string("cuda_error: ") + error.what();
  }
  return "nothing was thrown";
}

template <class Call>
void check_refused(Call call, const char* message) {
  CHECK(message_of(call) == std::string("actpack: ") + message);
}

// Addresses that nothing may read: the checks come first.
template <class T>
T* somewhere() {
  return reinterpret_cast<T*>(0x1000);
}

PackedView view(const Layout& layout) {
  return {layout, somewhere<std::uint32_t>(), somewhere<GroupParams>()};
}
SignMagnitudeView context(const Layout& layout) {
  return {layout, somewhere<std::uint32_t>(), somewhere<std::uint32_t>(),
          somewhere<SignMagnitudeParams>()};
}

constexpr Layout layout{.rows = 2, .row_size = 300, .bits = 2};
const Rounding nearest = Rounding::nearest();

}  // namespace

TEST_CASE("quantize refuses what does not fit") {
  const float* x = somewhere<float>();
  check_refused([&] { quantize(x, view(Layout{.row_size = 1, .bits = 3}), nearest, nullptr); },
                "layout.bits = 3 is not 1, 2, 4 or 8");
  check_refused(
      [&] { quantize(x, view(Layout{.row_size = 1, .group_size = 48}), nearest, nullptr); },
      "layout.group_size = 48 is not a positive multiple of 32");
  check_refused(
      [&] { quantize(static_cast<const float*>(nullptr), view(layout), nearest, nullptr); },
      "x is null but has 600 elements");
  PackedView no_words = view(layout);
  no_words.words = nullptr;
  check_refused([&] { quantize(x, no_words, nearest, nullptr); },
                "words is null but has 38 elements");
  PackedView no_params = view(layout);
  no_params.params = nullptr;
  check_refused([&] { quantize(x, no_params, nearest, nullptr); },
                "params is null but has 4 elements");
  PackedView half_mixed = view(layout);
  half_mixed.row_bits = somewhere<std::uint8_t>();
  check_refused([&] { quantize(x, half_mixed, nearest, nullptr); },
                "row_bits is set but row_offsets is null");
  check_refused([&] { quantize(x, view(layout), nearest, 1, 2, nullptr); },
                "first_row = 1 and num_rows = 2 exceed layout.rows = 2");
  check_refused([&] { quantize(x, view(layout), nearest, -1, 1, nullptr); },
                "first_row = -1 and num_rows = 1 exceed layout.rows = 2");
}

TEST_CASE("dequantize refuses what does not fit") {
  __half* x = somewhere<__half>();
  check_refused([&] { dequantize(view(layout), 1, 600, x, Decoding::plain(), nullptr); },
                "first = 1 and count = 600 exceed the layout's 600 elements");
  check_refused([&] { dequantize(view(layout), static_cast<float*>(nullptr), nullptr); },
                "x is null but has 600 elements");
  check_refused([&] { dequantize(view(Layout{.rows = -1}), x, nullptr); },
                "layout.rows = -1 is negative");
  DecodingEpilogue epilogue;
  epilogue.channels = 0;
  check_refused([&] { dequantize(view(layout), 0, 600, x, Decoding::plain(), epilogue, nullptr); },
                "epilogue.channels = 0 is not positive");
  epilogue = {.inner = -3};
  check_refused([&] { dequantize(view(layout), 0, 600, x, Decoding::plain(), epilogue, nullptr); },
                "epilogue.inner = -3 is not positive");
}

TEST_CASE("sign-magnitude verbs refuse what does not fit") {
  float* y = somewhere<float>();
  SignMagnitudeView no_signs = context(layout);
  no_signs.sign_words = nullptr;
  check_refused([&] { encode(static_cast<const float*>(y), no_signs, nearest, nullptr); },
                "sign_words is null but has 20 elements");
  check_refused([&] { decode(context(layout), -1, 2, y, Decoding::plain(), nullptr); },
                "first = -1 and count = 2 exceed the layout's 600 elements");
  check_refused(
      [&] {
        decode_relu(context(layout), static_cast<float*>(nullptr), Decoding::plain(), nullptr);
      },
      "y is null but has 600 elements");
  check_refused(
      [&] { relu_backward(static_cast<const float*>(y), context(layout), 0, 601, y, nullptr); },
      "first = 0 and count = 601 exceed the layout's 600 elements");
}

TEST_CASE("masks, packing, offsets and statistics refuse what does not fit") {
  float* x = somewhere<float>();
  std::uint32_t* mask = somewhere<std::uint32_t>();
  check_refused([&] { relu(static_cast<const float*>(x), x, mask, -1, nullptr); },
                "numel = -1 is not in [0, 281474976710656]");
  check_refused([&] { relu(static_cast<const float*>(x), x, nullptr, 33, nullptr); },
                "mask is null but has 2 elements");
  check_refused(
      [&] {
        dropout(static_cast<const float*>(x), x, mask, 8, 1.0, Rounding::stochastic(1), 0, nullptr);
      },
      "drop_probability = 1 is not in [0, 1)");
  check_refused(
      [&] { dropout(static_cast<const float*>(x), x, mask, 8, 0.5, nearest, 0, nullptr); },
      "rounding is to nearest, but dropout draws at random");
  check_refused(
      [&] {
        dropout(static_cast<const float*>(x), x, mask, 8, 0.5, Rounding::stochastic(1), 8, nullptr);
      },
      "first = 8 is not a multiple of 32");
  check_refused([&] { pack(somewhere<std::uint8_t>(), 5, 5, mask, nullptr); },
                "bits = 5 is not 1, 2, 4 or 8");
  check_refused([&] { unpack(mask, 2, -1, 5, somewhere<std::uint8_t>(), nullptr); },
                "first = -1 is not in [0, 281474976710656]");
  check_refused(
      [&] {
        row_statistics(static_cast<const float*>(nullptr), layout, somewhere<RowStatistics>(),
                       nullptr);
      },
      "x is null but has 600 elements");
  check_refused([&] { row_offsets_workspace(Layout{.row_size = 5, .bits = 0}); },
                "layout.bits = 0 is not 1, 2, 4 or 8");
  check_refused([&] { row_offsets(layout, nullptr, somewhere<std::int64_t>(), {}, nullptr); },
                "row_bits is null but has 2 elements");
}

TEST_CASE("decoding that keeps signs refuses what does not fit") {
  check_refused(
      [&] { decode_keeping_signs(context(layout), static_cast<float*>(nullptr), nullptr); },
      "y is null but has 600 elements");
  SignMagnitudeView no_signs = context(layout);
  no_signs.sign_words = nullptr;
  check_refused([&] { decode_keeping_signs(no_signs, somewhere<__half>(), nullptr); },
                "sign_words is null but has 20 elements");
}

TEST_CASE("batch norm refuses what does not fit") {
  float* x = somewhere<float>();
  const Rounding rounding = Rounding::stochastic(1);
  const Layout flat{.row_size = 600, .bits = 2};
  batch_norm::Operation operation{.channels = {.count = 3, .inner = 100},
                                  .saved = batch_norm::SavedValue::input,
                                  .mean = x,
                                  .variance = x,
                                  .by_channel = somewhere<batch_norm::Channel>()};
  const auto forward = [&](const auto& out, const Rounding& how) {
    batch_norm::forward(operation, static_cast<const float*>(x), out, how, x, nullptr);
  };
  check_refused([&] { forward(view({.row_size = 600, .group_size = 128}), rounding); },
                "layout.group_size = 128 is not 256");
  check_refused([&] { forward(view({.row_size = 0}), rounding); }, "the tensor has no elements");
  check_refused([&] { forward(view(layout), rounding); },
                "layout.row_size = 300 is no multiple of 256");
  check_refused([&] { forward(view(flat), nearest); },
                "rounding is to nearest, which would bias gradients");
  check_refused([&] { forward(context(flat), rounding); },
                "operation.saved is the input, but a sign-magnitude context holds the output");
  const auto backward = [&](float* workspace) {
    batch_norm::backward(operation, static_cast<const float*>(x), view(flat), Decoding::plain(),
                         200, workspace, x, x, x, nullptr);
  };
  const std::int64_t numel = batch_norm::workspace_numel(operation, flat);
  CHECK(numel == 4 * 3 + 2 * 3 * 256);
  check_refused([&] { backward(nullptr); },
                ("workspace is null but has " + std::to_string(numel) + " elements").c_str());
  check_refused([&] { backward(x + 1); }, "workspace is not aligned to 16 bytes");
  operation.channels.inner = 0;
  check_refused([&] { forward(view(flat), rounding); }, "channels.inner = 0 is not in [1, 2^31)");
  operation.channels = {.count = std::int64_t{1} << 31, .inner = 1};
  check_refused([&] { forward(view(flat), rounding); },
                "channels.count = 2147483648 is not in [1, 2^31)");
  operation.channels = {.count = 3, .inner = 100};
  operation.mean = nullptr;
  check_refused([&] { forward(view(flat), rounding); }, "mean is null but has 3 elements");
}

TEST_CASE("bit allocation refuses what does not fit") {
  const std::span<const double> sensitivity(somewhere<double>(), 3);
  const std::span<const std::int64_t> numel(somewhere<std::int64_t>(), 3);
  const std::span<std::uint8_t> bits(somewhere<std::uint8_t>(), 3);
  const AllocationProblem problem{sensitivity, numel, 100};
  AllocationProblem wrong = problem;
  wrong.numel = numel.first(2);
  check_refused([&] { allocate_bits(wrong, bits, nullptr, {}, nullptr); },
                "numel.size() = 2 but sensitivity.size() = 3");
  wrong = problem;
  wrong.max_bits = bits.first(1);
  check_refused([&] { allocate_bits(wrong, bits, nullptr, {}, nullptr); },
                "max_bits.size() = 1 but there are 3 items");
  wrong = problem;
  wrong.sensitivity = {static_cast<const double*>(nullptr), 3};
  check_refused([&] { allocate_bits(wrong, bits, nullptr, {}, nullptr); },
                "sensitivity is null but has 3 elements");
  check_refused([&] { allocate_bits(problem, bits.first(2), nullptr, {}, nullptr); },
                "bits.size() = 2 but there are 3 items");
  const MeasuredAllocationProblem measured{
      {somewhere<std::array<double, 4>>(), 3}, numel.first(1), 100};
  check_refused([&] { allocate_measured_bits(measured, bits, nullptr, {}, nullptr); },
                "numel.size() = 1 but variance.size() = 3");
  check_refused([] { device_allocation_workspace(-1); }, "items = -1 is negative");

  const Layout rows{.rows = 3, .row_size = 300, .bits = 8};
  const std::span<std::int64_t> offsets(somewhere<std::int64_t>(), 4);
  check_refused([&] { allocate_row_bits(problem, layout, bits, offsets, nullptr, {}, nullptr); },
                "sensitivity.size() = 3 but the layout has 2 rows");
  check_refused(
      [&] { allocate_row_bits(problem, rows, bits, offsets.first(3), nullptr, {}, nullptr); },
      "row_offsets.size() = 3 instead of 4, one more than rows");
  check_refused(
      [&] { allocate_row_bits(problem, rows.with_bits(4), bits, offsets, nullptr, {}, nullptr); },
      "layout.bits = 4 but without max_bits a row may get 8");
  check_refused(
      [&] {
        row_sensitivities(somewhere<RowStatistics>(), nullptr, -1, rows, somewhere<double>(),
                          nullptr);
      },
      "gain = -1 is negative or not finite");
}

TEST_CASE("nothing to do needs no device") {
  CHECK_NOTHROW(quantize(static_cast<const float*>(nullptr),
                         PackedView{Layout{.row_size = 0}, nullptr, nullptr}, nearest, nullptr));
  CHECK_NOTHROW(dequantize(ConstPackedView(Layout{.rows = 0}, nullptr, nullptr),
                           static_cast<float*>(nullptr), nullptr));
  CHECK_NOTHROW(
      relu(static_cast<const float*>(nullptr), static_cast<float*>(nullptr), nullptr, 0, nullptr));
  CHECK_NOTHROW(pack(nullptr, 0, 2, nullptr, nullptr));
}

TEST_CASE("without a device, a verb says which call failed and why") {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) {
    return;  // there is one, and the addresses above would fault on it
  }
  try {
    quantize(static_cast<const float*>(somewhere<float>()), view(layout), nearest, nullptr);
    FAIL("nothing was thrown");
  } catch (const cuda_error& error) {
    CHECK(error.code() == status);
    CHECK(std::string(error.what()) ==
          std::string("actpack: quantize: launch: ") + cudaGetErrorString(status) + " (" +
              cudaGetErrorName(status) + ", " + std::to_string(status) + ")");
  }
}
