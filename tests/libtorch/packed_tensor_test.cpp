// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed tensors against what was packed: exact to the last bit, or rounded with the right mean.
#include "actpack_torch/packed_tensor.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "actpack_torch/scope.hpp"
#include "support.hpp"

namespace {

using namespace actpack_torch;
using namespace support;

at::Tensor unpacked(const at::Tensor& tensor, int bits = 2, std::uint64_t number = 0) {
  Options options;
  options.bits = bits;
  return pack(tensor, options, number).unpack();
}

TEST_CASE("libtorch: signs and zeros come back exactly, whatever the type") {
  torch::manual_seed(1);
  const at::Tensor x = at::relu(torch::randn({8, 1000})) * torch::rand({8, 1000}).pow(8);
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int bits : {1, 2, 4, 8}) {
      CAPTURE(c10::toString(type));
      CAPTURE(bits);
      const at::Tensor typed = x.to(type);
      const at::Tensor back = unpacked(typed, bits);
      CHECK((back.scalar_type() == type));
      CHECK(at::equal(back > 0, typed > 0));
      CHECK(at::equal(back == 0, typed == 0));
    }
  }
}

TEST_CASE("libtorch: what is unpacked has the mean of what was packed") {
  torch::manual_seed(2);
  const at::Tensor x = torch::randn({6, 700});
  const std::int64_t draws = 400;
  at::Tensor sum = at::zeros_like(x, at::kDouble);
  at::Tensor sum_of_squares = at::zeros_like(sum);
  for (std::int64_t i = 0; i < draws; ++i) {
    const at::Tensor error = (unpacked(x, 2, static_cast<std::uint64_t>(i)) - x).to(at::kDouble);
    sum += error;
    sum_of_squares += error.square();
  }
  // Elements are independent, so the sum of all errors has this standard deviation.
  const double variance = sum_of_squares.sum().item<double>();
  CHECK(std::abs(sum.sum().item<double>()) < sigmas * std::sqrt(variance));
  // The sums of single elements, too: Σ sum² is a sum of squares of normal numbers, with the mean
  // Σ variance and the variance Σ 2 · variance².
  const double excess = sum.square().sum().item<double>() - variance;
  CHECK(std::abs(excess) < sigmas * std::sqrt(2 * sum_of_squares.square().sum().item<double>()));
}

TEST_CASE("libtorch: shapes and strides come back, dense or not") {
  torch::manual_seed(3);
  const at::Tensor x = at::relu(torch::randn({4, 6, 5, 7}));
  const std::vector<at::Tensor> dense{x, x.contiguous(at::MemoryFormat::ChannelsLast),
                                      x.transpose(0, 3), x.narrow(0, 1, 2)};
  for (const at::Tensor& tensor : dense) {
    const at::Tensor back = unpacked(tensor);
    CHECK((back.strides() == tensor.strides()));
    CHECK(at::equal(back > 0, tensor > 0));
    CHECK(at::allclose(unpacked(tensor, 8), tensor, 0, tensor.max().item<double>() / 255));
  }
  for (const at::Tensor& tensor : {x.narrow(1, 1, 3), x.slice(3, 0, 7, 2), x.select(2, 1)}) {
    CHECK(at::equal(unpacked(tensor) > 0, tensor > 0));
  }
}

TEST_CASE("libtorch: integers, booleans and tensors of two values are packed exactly and small") {
  torch::manual_seed(4);
  const std::int64_t n = 3001;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor coin = torch::rand({n}) < 0.3;
  struct Case {
    at::Tensor tensor;
    int width;
  };
  const std::vector<Case> cases{
      {coin, 1},
      {torch::randint(0, 784, {n}, at::kLong), 10},
      {torch::randint(-5, 3, {n}, at::kLong), 3},
      {torch::randint(-70000, 70000, {n}, at::kInt), 18},
      {torch::randint(-3, 4, {n}, at::kShort), 3},
      {at::full({n}, -7, at::kLong), 0},
      {torch::randint(0, 2, {n}, at::kLong) * ((std::int64_t{1} << 61) - 1), 61},
      {coin.to(at::kFloat) / 0.7, 1},
      {coin.to(at::kHalf), 1},
      {coin.to(at::kBFloat16) * -3, 1},
      {coin.to(at::kDouble) / 0.9, 1},
      {at::where(coin, at::full({n}, nan), at::full({n}, -0.0f)), 1},
  };
  for (const Case& c : cases) {
    CAPTURE(c10::toString(c.tensor.scalar_type()));
    CAPTURE(c.width);
    std::shared_ptr<const PackedValues> packed;
    const std::int64_t before = allocator.live_bytes();
    packed = ExactValues::pack(c.tensor);
    CHECK(allocator.live_bytes() - before <= n * c.width / 8 + 16);
    REQUIRE(packed);
    const at::Tensor back = packed->unpack();
    CHECK((back.scalar_type() == c.tensor.scalar_type()));
    CHECK(std::memcmp(back.data_ptr(), c.tensor.data_ptr(), c.tensor.nbytes()) == 0);
  }
  CHECK(!ExactValues::pack(torch::randn({n})));
  at::Tensor extremes = torch::randint(0, 9, {n}, at::kLong);
  extremes[0] = std::numeric_limits<std::int64_t>::min();
  extremes[1] = std::numeric_limits<std::int64_t>::max();
  CHECK(!ExactValues::pack(extremes));
}

TEST_CASE("libtorch: what cannot or must not be packed is refused by name") {
  torch::nn::Linear linear(64, 32);
  const auto refusal = [](const at::Tensor& tensor) {
    return refusal_of([&] { pack(tensor, Options{}, 0); });
  };
  CHECK(has(refusal(linear->weight), "Float [32, 64], a leaf, is a parameter"));
  CHECK(has(refusal(torch::zeros({3, 5}, at::kDouble)), "Double [3, 5], a leaf: only Float"));
  CHECK(has(refusal(torch::zeros({3, 5}, at::kLong)), "Long [3, 5], a leaf: only Float"));
  CHECK(has(refusal(torch::zeros({3, 5}, at::kMeta)), "Float [3, 5], a leaf, is Strided on meta"));
  CHECK(has(refusal(torch::zeros({3, 5}).to_sparse()), "Float [3, 5], a leaf, is Sparse on cpu"));
  Options options;
  options.bits = 3;
  CHECK_THROWS_AS(CompressSavedTensors(*linear, options), std::invalid_argument);
  options.bits = 2;
  options.group_size = 48;
  CHECK_THROWS_AS(CompressSavedTensors(*linear, options), std::invalid_argument);

  // Noise that another tensor has: steps and numbers share the 64 bits of an offset.
  const at::Tensor x = torch::randn({100});
  options = {};
  CHECK(has(refusal_of([&] { pack(x, options, std::uint64_t{1} << 32); }),
            "number = 4294967296 is not below 2^32"));
  options.step = std::uint64_t{1} << 30;
  CHECK(has(refusal_of([&] { pack(x, options, 0); }), "step = 1073741824 is not below 2^30"));
}

TEST_CASE("libtorch: what torch negates as it reads is packed as it reads") {
  torch::manual_seed(3);
  const at::Tensor x = torch::randn({100});
  CHECK(at::equal(unpacked(at::_neg_view(-x), 8), unpacked(x, 8)));
}

}  // namespace
