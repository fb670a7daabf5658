// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks actpack inside libtorch against libtorch itself: what is exact is equal to the last bit,
// what is rounded has the right mean, bytes are the allocator's, and wrong use is refused.
#include "actpack_torch.hpp"

#include <torch/csrc/autograd/generated/Functions.h>

// Debian's torch brings glog's macros along.
#undef CHECK
#undef CHECK_EQ
#undef CHECK_NE
#undef CHECK_LT
#undef CHECK_LE
#undef CHECK_GT
#undef CHECK_GE
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "counting_allocator.hpp"

namespace {

using namespace actpack_torch;

CountingAllocator& allocator = CountingAllocator::instance();  // before there are tensors

// ---- Networks -----------------------------------------------------------------------------------

struct BlockShape {
  std::int64_t from;
  std::int64_t to;
  bool is_pooled = false;

  torch::nn::Conv2dOptions convolution() const {
    return torch::nn::Conv2dOptions(from, to, 3).padding(1).bias(false);
  }
};

// On odd sizes: short groups, unused bits, a row and a column that pooling leaves out.
const std::vector<BlockShape> small_shapes{{2, 6, true}, {6, 6}, {6, 8, true}};
at::Tensor small_input() { return torch::randn({12, 2, 10, 9}); }

torch::nn::Sequential make_plain(const std::vector<BlockShape>& shapes) {
  torch::nn::Sequential network;
  for (const BlockShape& shape : shapes) {
    network->push_back(torch::nn::Conv2d(shape.convolution()));
    network->push_back(torch::nn::BatchNorm2d(shape.to));
    network->push_back(torch::nn::ReLU());
    if (shape.is_pooled) {
      network->push_back(torch::nn::MaxPool2d(2));
    }
  }
  return network;
}

CompressedChain make_chain(const std::vector<BlockShape>& shapes, const Options& options = {}) {
  std::vector<ConvBatchNormReLU> blocks;
  for (const BlockShape& shape : shapes) {
    blocks.push_back(ConvBatchNormReLU(shape.convolution(), shape.is_pooled));
  }
  return CompressedChain(blocks, options);
}

// Parameters and buffers, which both kinds of network have in the same order.
void copy_state(const torch::nn::Module& from, torch::nn::Module& to) {
  const torch::NoGradGuard no_grad;
  const auto copy = [](const std::vector<at::Tensor>& source, std::vector<at::Tensor> target) {
    REQUIRE(source.size() == target.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      target[i].copy_(source[i]);
    }
  };
  copy(from.parameters(), to.parameters());
  copy(from.buffers(), to.buffers());
}

// γ of either sign, none near 0, and β: not those of a newborn network.
void stir(torch::nn::Sequential& network) {
  const torch::NoGradGuard no_grad;
  for (const auto& module : network->children()) {
    if (auto* const batch_norm = module->as<torch::nn::BatchNorm2dImpl>()) {
      batch_norm->weight.uniform_(0.5, 1.5).mul_(at::randn_like(batch_norm->weight).sign_());
      batch_norm->bias.uniform_(-0.3, 0.3);
    }
  }
}

at::Tensor flat_gradients(const torch::nn::Module& network) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& parameter : network.parameters()) {
    flat.push_back(parameter.grad().reshape(-1));
  }
  return at::cat(flat).to(at::kDouble);
}

// With respect to all parameters, of Σ output · direction.
template <class Network>
at::Tensor gradient_of(Network& network, const at::Tensor& x, const at::Tensor& direction) {
  network->zero_grad();
  (network->forward(x) * direction).sum().backward();
  return flat_gradients(*network);
}

at::Tensor direction_for(torch::nn::Sequential& network, const at::Tensor& x) {
  const torch::NoGradGuard no_grad;
  return at::randn_like(network->forward(x));
}

// ---- Statistics ---------------------------------------------------------------------------------

// Of the mean of k independent errors: k · ‖mean‖² over the mean of ‖error‖², which is 1 on average
// if there is no bias and grows like k if there is. For a mean of many errors that are normal by
// the central limit theorem its standard deviation is √(2 tr Σ²) / tr Σ with Σ the errors'
// covariance; products of different errors estimate tr Σ².
class ErrorsOfMeans {
 public:
  // `draws`: one gradient a row.
  ErrorsOfMeans(const at::Tensor& draws, const at::Tensor& exact)
      : errors_(draws - exact), norm_(exact.norm().item<double>()) {
    const at::Tensor products = errors_.matmul(errors_.t());
    const double n = static_cast<double>(errors_.size(0));
    const double diagonal = products.diag().square().sum().item<double>();
    trace_ = products.trace().item<double>() / n;
    deviation_ =
        std::sqrt(2 * (products.square().sum().item<double>() - diagonal) / (n * (n - 1))) / trace_;
  }

  double ratio(std::int64_t k) const {
    return static_cast<double>(k) * errors_.narrow(0, 0, k).mean(0).square().sum().item<double>() /
           trace_;
  }
  double deviation() const { return deviation_; }
  double relative_error() const { return std::sqrt(trace_) / norm_; }  // of one draw

 private:
  at::Tensor errors_;
  double norm_;
  double trace_;
  double deviation_;
};

constexpr double sigmas = 5;
constexpr std::int64_t draws_of_gradients = 64;

template <class Draw>
at::Tensor draw_gradients(const Draw& draw, std::int64_t draws = draws_of_gradients) {
  std::vector<at::Tensor> rows;
  for (std::int64_t i = 0; i < draws; ++i) {
    rows.push_back(draw());
  }
  return at::stack(rows);
}

// The error of the mean of k gradients falls as 1/√k.
void check_unbiased(const ErrorsOfMeans& errors) {
  for (const std::int64_t k : {1, 4, 16, 64}) {
    const double ratio = errors.ratio(k);
    CAPTURE(k);
    CAPTURE(ratio);
    CAPTURE(errors.deviation());
    CHECK(std::abs(ratio - 1) < sigmas * errors.deviation());
  }
}

// Errors are proportional to steps, which are 1/3 and 1/255 of a range. 64 draws give each to 0.5 %
// (half of deviation() / √64); the rest of the 5 % is for where in the coarse steps values lie.
void check_steps(double error_at_2_bits, double error_at_8_bits) {
  CHECK(std::abs(error_at_8_bits / error_at_2_bits * 255 / 3 - 1) < 0.05);
}

// ---- Bytes and messages -------------------------------------------------------------------------

// What `make` leaves alive.
template <class Make>
std::int64_t bytes_kept(const Make& make) {
  const std::int64_t before = allocator.live_bytes();
  const auto result = make();
  return allocator.live_bytes() - before;
}

struct StepBytes {
  std::int64_t saved;
  std::int64_t peak;
};

template <class Network>
StepBytes bytes_of_step(Network& network, const at::Tensor& x, const at::Tensor& direction) {
  gradient_of(network, x, direction);  // gradients exist before the step that counts
  const std::int64_t before = allocator.live_bytes();
  allocator.restart_peak();
  const at::Tensor loss = (network->forward(x) * direction).sum();
  const std::int64_t saved = allocator.live_bytes() - before;
  loss.backward();
  return {saved, allocator.peak_bytes() - before};
}

double ratio(std::int64_t full, std::int64_t packed) {
  return static_cast<double>(full) / static_cast<double>(packed);
}

template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---- Packed tensors -----------------------------------------------------------------------------

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
  // Elements are independent: the sum of all errors against its own standard deviation.
  const double variance = sum_of_squares.sum().item<double>();
  CHECK(std::abs(sum.sum().item<double>()) < sigmas * std::sqrt(variance));
  // And each element's sum: of Σ sum², a sum of squares of normal numbers, the mean is Σ variance
  // and the variance Σ 2 · variance².
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

// ---- The scope ----------------------------------------------------------------------------------

TEST_CASE("libtorch: outside of scopes nothing changes") {
  torch::manual_seed(5);
  torch::nn::Sequential network = make_plain(small_shapes);
  const at::Tensor x = small_input();
  const at::Tensor direction = direction_for(network, x);
  const at::Tensor before = gradient_of(network, x, direction);
  const std::int64_t bytes = bytes_of_step(network, x, direction).saved;
  {
    const CompressSavedTensors scope(*network);
    CHECK(!at::equal(gradient_of(network, x, direction), before));
    CHECK(bytes_of_step(network, x, direction).saved < bytes / 2);
  }
  CHECK(at::equal(gradient_of(network, x, direction), before));
  CHECK(bytes_of_step(network, x, direction).saved == bytes);
}

TEST_CASE("libtorch: dropout, max pooling, selection and ReLU have exact gradients in a scope") {
  const auto gradient = [](bool is_packed) {
    torch::manual_seed(6);
    const at::Tensor x = torch::randn({4, 8, 16, 16}, torch::requires_grad());
    const at::Tensor is_left = torch::rand({4, 8, 8, 8}) < 0.5;
    const at::Tensor direction = torch::randn({4, 8, 8, 8});
    std::optional<CompressSavedTensors> scope;
    if (is_packed) {
      scope.emplace(std::vector<at::Tensor>{}, Options{});
    }
    const at::Tensor pooled = at::max_pool2d(at::dropout(at::relu(x + 0.5), 0.3, true), 2);
    (at::where(is_left, pooled, pooled + x.narrow(2, 0, 8).narrow(3, 0, 8)) * direction)
        .sum()
        .backward();
    return x.grad();
  };
  CHECK(at::equal(gradient(true), gradient(false)));
}

TEST_CASE("libtorch: a dropout mask takes a bit, a pooling index of 256 takes eight") {
  torch::manual_seed(7);
  const at::Tensor x = torch::randn({4, 8, 16, 16}, torch::requires_grad());
  const CompressSavedTensors scope(std::vector<at::Tensor>{});
  const std::int64_t numel = x.numel();
  const std::int64_t dropped =
      bytes_kept([&] { return at::dropout(x, 0.3, true); }) - 4 * numel;  // less the result
  CHECK(dropped <= numel / 8 + 16);
  const std::int64_t pooled = bytes_kept([&] { return at::max_pool2d(x, 2); }) - numel;
  CHECK(pooled <= numel / 4 + 16);
}

TEST_CASE("libtorch: results that are not used linearly stay exact in a scope") {
  const auto gradient = [](const auto& function, bool is_packed) {
    torch::manual_seed(8);
    const at::Tensor x = torch::randn({64, 40}, torch::requires_grad());
    const at::Tensor direction = torch::randn({64, 40});
    std::optional<CompressSavedTensors> scope;
    if (is_packed) {
      scope.emplace(std::vector<at::Tensor>{}, Options{});
    }
    (function(x) * direction).sum().backward();
    return x.grad();
  };
  const auto check = [&](const auto& function) {
    CHECK(at::equal(gradient(function, true), gradient(function, false)));
  };
  check([](const at::Tensor& x) { return x.log_softmax(1); });
  check([](const at::Tensor& x) { return (x + 1).softmax(1); });
  check([](const at::Tensor& x) { return at::tanh((2 * x).sigmoid()); });
  check([](const at::Tensor& x) { return (x - 1).exp(); });
  // Nor does one keep itself alive, through the node that keeps it.
  const std::int64_t before = allocator.live_bytes();
  {
    const CompressSavedTensors scope(std::vector<at::Tensor>{});
    torch::ones({64, 40}, torch::requires_grad()).exp();
  }
  CHECK(allocator.live_bytes() == before);
}

TEST_CASE("libtorch: parameters, buffers, their views and the caller's data stay as they are") {
  torch::manual_seed(9);
  torch::nn::Linear linear(64, 64);
  const at::Tensor x = torch::randn({64, 64});
  const at::Tensor wanted = torch::randn({64, 64}, torch::requires_grad());
  const at::Tensor computed = linear->weight * 2;
  const CompressSavedTensors scope({linear->weight, linear->bias, computed});
  // Saved are x and a view of the weight; wanted and its view; nothing is copied.
  const std::int64_t result = 64 * 64 * 4;
  CHECK(bytes_kept([&] { return linear->forward(x); }) == result);
  CHECK(bytes_kept([&] { return at::mm(wanted.t(), x); }) == result);
  CHECK(bytes_kept([&] { return wanted * computed.t(); }) == result);
  // Only what was computed is packed: 3.125 bits and the group parameters.
  const at::Tensor hidden = linear->forward(x);
  CHECK(bytes_kept([&] { return at::mm(hidden, wanted); }) == result + 64 * 64 * 25 / 64);
}

TEST_CASE("libtorch: what shares memory is packed once, and anew when it has changed") {
  torch::manual_seed(10);
  const at::Tensor x = torch::randn({16, 256}, torch::requires_grad());
  const at::Tensor weight = torch::randn({256, 8}, torch::requires_grad());
  const at::Tensor other = torch::randn({4096}, torch::requires_grad());
  const CompressSavedTensors scope(std::vector<at::Tensor>{});
  const std::int64_t packed = 4096 * 25 / 64;
  const std::int64_t bytes = bytes_kept([&] {
    const at::Tensor y = at::relu(x + 1);                               // saves its result,
    return (at::mm(y, weight).sum() + (y.view({4096}) * other).sum());  // which both save again
  });
  CHECK(bytes >= packed);
  CHECK(bytes <= packed + 64);  // and the few numbers of the sums

  // Of two values, so that it is packed exactly.
  const at::Tensor y = (x > 0).to(at::kFloat) * at::ones({1}, torch::requires_grad());
  const at::Tensor first = y * other.view({16, 256});
  y.detach().add_(1);
  const at::Tensor direction = torch::randn({16, 256});
  ((y * other.view({16, 256})) * direction).sum().backward();
  CHECK(at::equal(other.grad().view({16, 256}), y.detach() * direction));
}

TEST_CASE("libtorch: a scope's gradients are unbiased, and fine at 8 bits") {
  torch::manual_seed(11);
  torch::nn::Sequential network = make_plain(small_shapes);
  stir(network);
  const at::Tensor x = small_input();
  const at::Tensor direction = direction_for(network, x);
  const at::Tensor exact = gradient_of(network, x, direction);
  double error_at_2_bits = 0;
  for (const int bits : {2, 8}) {
    CAPTURE(bits);
    Options options;
    options.bits = bits;
    options.min_numel = 1;
    const CompressSavedTensors scope(*network, options);
    const ErrorsOfMeans errors(draw_gradients([&] { return gradient_of(network, x, direction); }),
                               exact);
    check_unbiased(errors);
    if (bits == 2) {
      error_at_2_bits = errors.relative_error();
    } else {
      check_steps(error_at_2_bits, errors.relative_error());
    }
  }
}

// Keeps a ReLU's result as anybody would: rounded, and the mask with it.
class ReadBack final : public torch::autograd::SavedVariableHooks {
 public:
  explicit ReadBack(std::uint64_t number) : number_(number) {}
  void call_pack_hook(const at::Tensor& tensor) override {
    const actpack::Layout layout = flat_layout(tensor.numel(), Options{});
    buffer_ = std::make_unique<actpack::SignMagnitudeBuffer>(layout);
    sizes_ = tensor.sizes().vec();
    actpack::encode(values_of<const float>(tensor), buffer_->view(),
                    actpack::Rounding::stochastic(1, number_));
  }
  at::Tensor call_unpack_hook() override {
    at::Tensor values = at::empty(sizes_);
    actpack::decode(buffer_->view(), values_of<float>(values));
    return values;
  }

 private:
  std::uint64_t number_;
  std::unique_ptr<actpack::SignMagnitudeBuffer> buffer_;
  std::vector<std::int64_t> sizes_;
};

TEST_CASE("libtorch: a mask read back from rounded values is stuck, a scope's is exact") {
  torch::manual_seed(12);
  torch::nn::Linear linear(40, 50);
  const at::Tensor x = torch::randn({64, 40});
  const at::Tensor direction = torch::randn({64, 50});
  const auto gradient = [&](const auto& hook) {
    linear->zero_grad();
    const at::Tensor y = at::relu(linear->forward(x));
    hook(*dynamic_cast<torch::autograd::generated::ReluBackward0*>(y.grad_fn().get()));
    (y * direction).sum().backward();
    return flat_gradients(*linear);
  };
  const auto leave = [](torch::autograd::generated::ReluBackward0&) {};
  const at::Tensor exact = gradient(leave);
  std::uint64_t number = 0;
  const ErrorsOfMeans read_back(
      draw_gradients([&] {
        return gradient(
            [&](auto& relu) { relu.result_.register_hooks(std::make_unique<ReadBack>(number++)); });
      }),
      exact);
  CHECK(read_back.ratio(64) > 1 + sigmas * read_back.deviation());
  const CompressSavedTensors scope(*linear);
  CHECK(at::equal(gradient(leave), exact));
}

TEST_CASE("libtorch: noise depends on the seed and the step, and is fresh every time") {
  torch::manual_seed(13);
  torch::nn::Sequential network = make_plain(small_shapes);
  const at::Tensor x = small_input();
  const at::Tensor direction = direction_for(network, x);
  const auto gradients = [&](std::uint64_t seed, std::uint64_t step) {
    Options options;
    options.seed = seed;
    options.step = step;
    const CompressSavedTensors scope(*network, options);
    CompressedChain chain = make_chain(small_shapes, options);
    copy_state(*network, *chain);
    std::vector<at::Tensor> all;
    for (int i = 0; i < 2; ++i) {
      all.push_back(gradient_of(network, x, direction));
      all.push_back(gradient_of(chain, x, direction));
    }
    return all;
  };
  const std::vector<at::Tensor> once = gradients(1, 0);
  const std::vector<at::Tensor> again = gradients(1, 0);
  const std::vector<at::Tensor> other_seed = gradients(2, 0);
  const std::vector<at::Tensor> other_step = gradients(1, 1);
  for (std::size_t i = 0; i < once.size(); ++i) {
    CAPTURE(i);
    CHECK(at::equal(once[i], again[i]));
    CHECK(!at::equal(once[i], other_seed[i]));
    CHECK(!at::equal(once[i], other_step[i]));
  }
  CHECK(!at::equal(once[0], once[2]));
  CHECK(!at::equal(once[1], once[3]));
}

TEST_CASE("libtorch: of nested scopes the innermost counts") {
  torch::manual_seed(14);
  const at::Tensor x = torch::randn({64, 64}, torch::requires_grad());
  const at::Tensor hidden = x + 1;
  const auto bytes = [&] { return bytes_kept([&] { return at::mm(hidden, x); }) - 4 * 4096; };
  Options eight_bits;
  eight_bits.bits = 8;
  const CompressSavedTensors outer(std::vector<at::Tensor>{});
  const std::int64_t at_2_bits = 4096 * 25 / 64;
  CHECK(bytes() == at_2_bits);
  {
    const CompressSavedTensors inner(std::vector<at::Tensor>{}, eight_bits);
    CHECK(bytes() == at_2_bits + 4096 * 6 / 8);
  }
  CHECK(bytes() == at_2_bits);
}

TEST_CASE("libtorch: a scope is its thread's alone, and its tensors outlive it") {
  const auto gradient = [](std::optional<std::uint64_t> seed) {
    at::Tensor result;
    std::thread([&] {
      torch::nn::Linear first(64, 64);
      torch::nn::Linear second(64, 64);
      for (at::Tensor parameter : {first->weight, first->bias, second->weight, second->bias}) {
        parameter.detach().copy_(at::arange(parameter.numel()).view(parameter.sizes()).sin());
      }
      at::Tensor loss;
      {
        std::optional<CompressSavedTensors> scope;
        if (seed) {
          Options options;
          options.seed = *seed;
          scope.emplace({first->weight, second->weight}, options);
        }
        const at::Tensor x = at::arange(64 * 64).view({64, 64}).cos();
        loss = second->forward(at::relu(first->forward(x))).square().sum();
      }
      loss.backward();
      result = at::cat({first->weight.grad(), second->weight.grad()});
    }).join();
    return result;
  };
  const at::Tensor exact = gradient(std::nullopt);
  const at::Tensor with_seed_1 = gradient(1);
  const at::Tensor with_seed_2 = gradient(2);
  CHECK(!at::equal(with_seed_1, exact));
  CHECK(!at::equal(with_seed_1, with_seed_2));
  const CompressSavedTensors scope_of_this_thread(std::vector<at::Tensor>{});
  std::vector<at::Tensor> results(3);
  std::thread a([&] { results[0] = gradient(1); });
  std::thread b([&] { results[1] = gradient(2); });
  std::thread c([&] { results[2] = gradient(std::nullopt); });
  a.join();
  b.join();
  c.join();
  CHECK(at::equal(results[0], with_seed_1));
  CHECK(at::equal(results[1], with_seed_2));
  CHECK(at::equal(results[2], exact));
}

// ---- The chain ----------------------------------------------------------------------------------

TEST_CASE("libtorch: a chain's outputs and running statistics are torch's") {
  torch::manual_seed(15);
  std::vector<BlockShape> shapes = small_shapes;
  torch::nn::Sequential plain = make_plain(shapes);
  stir(plain);
  CompressedChain chain = make_chain(shapes);
  copy_state(*plain, *chain);
  const auto check_equal = [&] {
    const at::Tensor x = small_input();
    CHECK(at::allclose(chain->forward(x), plain->forward(x), 1e-5, 1e-5));
    const auto expected = plain->buffers();
    const auto found = chain->buffers();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(at::allclose(found[i], expected[i], 1e-5, 1e-6));
    }
  };
  check_equal();
  check_equal();
  {
    const torch::NoGradGuard no_grad;
    check_equal();
  }
  plain->eval();
  chain->eval();
  check_equal();
  plain->train();
  chain->train();
  for (auto* const network : {static_cast<torch::nn::Module*>(plain.get()),
                              static_cast<torch::nn::Module*>(chain.get())}) {
    network->apply([](torch::nn::Module& module) {
      if (auto* const batch_norm = module.as<torch::nn::BatchNorm2dImpl>()) {
        batch_norm->options.momentum(c10::nullopt);  // a plain average over all batches
      }
    });
  }
  check_equal();
}

TEST_CASE("libtorch: a block's context has the noise of subtractive decoding, half of plain") {
  torch::manual_seed(24);
  const at::Tensor y = torch::randn({32, 16, 16, 16});
  const at::Tensor channels = at::tensor({1.0f, 0.0f, 0.0f, 1.0f}).repeat({16, 1});  // y = x
  BlockContext context(
      {y.sizes().vec(), flat_layout(y.numel(), Options{}), noise(Options{}, Origin::chain, 0, 0),
       actpack::batch_norm::SavedValue::output,
       /*is_pooled=*/false},
      {{}, {}, channels});
  const at::Tensor relu = context.keep(y.clone());
  CHECK(at::equal(relu, at::relu(y)));
  // Known for normal values in groups of 256: a step's square, whose noise is proportional to it,
  // is that of a side's largest value, which varies by 30 % over 1024 sides: 1 %, times sigmas.
  const auto noise_of = [](const at::Tensor& found, const at::Tensor& exact) {
    return ((found - exact).square().sum() / exact.square().sum()).item<double>();
  };
  const Samples all{0, 32};
  const at::Tensor decoded = at::empty_like(y);
  context.decode(0, values_of<float>(decoded));
  CHECK(std::abs(noise_of(decoded, y) / 0.0757 - 1) < sigmas * 0.01);
  CHECK(std::abs(noise_of(context.output(all), relu) / 0.0757 - 1) < sigmas * 0.01);
  CHECK(at::equal(context.output(all) == 0, relu == 0));
}

// Gradients of chain and plain modules of equal weights, with respect to the input too.
void check_chain(const std::vector<BlockShape>& shapes, torch::nn::Sequential& plain) {
  const at::Tensor x = small_input().requires_grad_();
  const at::Tensor direction = direction_for(plain, x);
  const auto gradient = [&](auto& network) {
    x.mutable_grad() = at::Tensor();
    const at::Tensor parameters = gradient_of(network, x, direction);
    return at::cat({parameters, x.grad().reshape(-1).to(at::kDouble)});
  };
  const at::Tensor exact = gradient(plain);
  double error_at_2_bits = 0;
  for (const int bits : {2, 8}) {
    CAPTURE(bits);
    Options options;
    options.bits = bits;
    CompressedChain chain = make_chain(shapes, options);
    copy_state(*plain, *chain);
    const ErrorsOfMeans errors(draw_gradients([&] { return gradient(chain); }), exact);
    check_unbiased(errors);
    if (bits == 2) {
      error_at_2_bits = errors.relative_error();
    } else {
      check_steps(error_at_2_bits, errors.relative_error());
    }
  }
}

TEST_CASE("libtorch: a chain's gradients are unbiased, and fine at 8 bits") {
  torch::manual_seed(16);
  torch::nn::Sequential plain = make_plain(small_shapes);
  stir(plain);
  check_chain(small_shapes, plain);
}

TEST_CASE("libtorch: so they are where a gamma is 0 or nearly so") {
  torch::manual_seed(17);
  torch::nn::Sequential plain = make_plain(small_shapes);
  stir(plain);
  {
    const torch::NoGradGuard no_grad;
    plain[1]->as<torch::nn::BatchNorm2dImpl>()->weight[2] = 0;      // behind it a pooled block,
    plain[5]->as<torch::nn::BatchNorm2dImpl>()->weight[1] = 1e-3f;  // and one that is not
  }
  check_chain(small_shapes, plain);
}

TEST_CASE("libtorch: a block's convolution may have strides, groups and dilation") {
  torch::manual_seed(18);
  const auto options = torch::nn::Conv2dOptions(4, 8, {3, 2})
                           .stride({2, 1})
                           .padding({1, 0})
                           .dilation({1, 2})
                           .groups(2)
                           .bias(false);
  torch::nn::Sequential plain(torch::nn::Conv2d(options), torch::nn::BatchNorm2d(8),
                              torch::nn::ReLU());
  Options eight_bits;
  eight_bits.bits = 8;
  CompressedChain chain(std::vector<ConvBatchNormReLU>{ConvBatchNormReLU(options)}, eight_bits);
  copy_state(*plain, *chain);
  const at::Tensor x = torch::randn({9, 4, 10, 9});
  const at::Tensor direction = direction_for(plain, x);
  const at::Tensor exact = gradient_of(plain, x, direction);
  const ErrorsOfMeans errors(draw_gradients([&] { return gradient_of(chain, x, direction); }),
                             exact);
  check_unbiased(errors);
  CHECK(errors.relative_error() < 0.01);
}

// ---- Bytes --------------------------------------------------------------------------------------

TEST_CASE("libtorch: a scope keeps an eighth, a chain an eighteenth of what torch keeps") {
  torch::manual_seed(19);
  const std::vector<BlockShape> shapes{{1, 16, true}, {16, 16}, {16, 32, true}};
  torch::nn::Sequential plain = make_plain(shapes);
  CompressedChain chain = make_chain(shapes);
  const at::Tensor x = torch::randn({16, 1, 28, 28});
  const at::Tensor direction = direction_for(plain, x);
  const std::int64_t full = bytes_of_step(plain, x, direction).saved;
  CHECK(ratio(full, bytes_of_step(chain, x, direction).saved) > 18);
  const CompressSavedTensors scope(*plain);
  CHECK(ratio(full, bytes_of_step(plain, x, direction).saved) > 8);
}

TEST_CASE("libtorch: 32 layers deep, a chain's peak is an eighth of torch's") {
  torch::manual_seed(20);
  std::vector<BlockShape> shapes{{1, 16}};
  shapes.insert(shapes.end(), 31, {16, 16});
  torch::nn::Sequential plain = make_plain(shapes);
  CompressedChain chain = make_chain(shapes);
  const at::Tensor x = torch::randn({32, 1, 14, 14});
  const at::Tensor direction = direction_for(plain, x);
  const StepBytes full = bytes_of_step(plain, x, direction);
  const StepBytes packed = bytes_of_step(chain, x, direction);
  CHECK(ratio(full.saved, packed.saved) > 18);
  CHECK(ratio(full.peak, packed.peak) > 8);
  const std::int64_t before = allocator.live_bytes();
  gradient_of(chain, x, direction);
  CHECK(allocator.live_bytes() == before);  // a step leaves nothing behind
}

// ---- Wrong use ----------------------------------------------------------------------------------

TEST_CASE("libtorch: a tensor changed in place after it was saved is refused by name") {
  torch::manual_seed(21);
  torch::nn::Linear linear(64, 32);
  const at::Tensor x = torch::randn({64, 64});
  const CompressSavedTensors scope(*linear);
  at::Tensor hidden = linear->forward(x);
  const at::Tensor loss = (hidden * hidden).sum();
  hidden.add_(1);
  const std::string packed = refusal_of([&] { loss.backward(); });
  CAPTURE(packed);
  CHECK(has(packed, "Float [64, 32], output of AddmmBackward0, was changed in place"));
  CHECK(has(packed, "at version 1, saved was version 0"));

  const at::Tensor input = torch::randn({64, 64}, torch::requires_grad());
  const at::Tensor other = linear->forward(input).sum();
  {
    const torch::NoGradGuard no_grad;
    linear->weight.mul_(2);
  }
  const std::string kept = refusal_of([&] { other.backward(); });
  CAPTURE(kept);
  CHECK(has(kept, "was changed in place"));
  CHECK(has(kept, "Float [64, 32]"));
}

TEST_CASE("libtorch: a second backward pass needs retain_graph, with which it is the first again") {
  torch::manual_seed(22);
  torch::nn::Sequential plain = make_plain(small_shapes);
  CompressedChain chain = make_chain(small_shapes);
  const at::Tensor x = small_input();
  const auto check = [&](auto& network, const std::string& name) {
    network->zero_grad();
    const at::Tensor loss = network->forward(x).sum();
    loss.backward({}, /*retain_graph=*/true);
    const at::Tensor once = flat_gradients(*network);
    network->zero_grad();
    loss.backward();
    CHECK(at::equal(flat_gradients(*network), once));
    const std::string refusal = refusal_of([&] { loss.backward(); });
    CAPTURE(refusal);
    CHECK(has(refusal, "backward through the graph a second time"));
    CHECK(has(refusal, name));
  };
  check(chain, "ConvBatchNormReLU block of input [12, 6, 5, 4]");
  const CompressSavedTensors scope(*plain);
  check(plain, "");
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
}

TEST_CASE("libtorch: a chain refuses what it cannot do") {
  torch::manual_seed(23);
  CompressedChain chain = make_chain(small_shapes);
  const at::Tensor x = small_input();
  const auto refusal = [&](const at::Tensor& input) {
    return refusal_of([&] { chain->forward(input); });
  };
  CHECK(has(refusal(x.to(at::kDouble)), "Double [12, 2, 10, 9], a leaf, on cpu, its weight Float"));
  CHECK(has(refusal(x.to(at::kMeta)), "Float [12, 2, 10, 9], a leaf, on meta"));
  CHECK(has(refusal(x[0]), "takes a batch"));
  CHECK(has(refusal(torch::randn({1, 2, 1, 1})), "more than one value a channel"));
  CHECK(has(refusal_of([] { ConvBatchNormReLU(torch::nn::Conv2dOptions(2, 3, 3)); }), "bias"));
  CHECK(has(refusal_of([] {
              ConvBatchNormReLU(
                  torch::nn::Conv2dOptions(2, 3, 3).bias(false).padding(torch::kSame));
            }),
            "pads with zeros"));

  // Between blocks: the next one would believe its context, not its input.
  ConvBatchNormReLU first(small_shapes[0].convolution());
  ConvBatchNormReLU second(small_shapes[1].convolution());
  const BlockOutput output = first->forward({x, nullptr}, Options{}, 0, 0);
  output.values.detach().add_(1);
  const std::string changed = refusal_of([&] { second->forward(output, Options{}, 0, 1); });
  CAPTURE(changed);
  CHECK(has(changed, "Float [12, 6, 10, 9]"));
  CHECK(has(changed, "was changed in place after the block that made it"));

  // A weight changed between the passes, and second derivatives.
  const at::Tensor loss = chain->forward(x).sum();
  const std::string twice = refusal_of([&] {
    torch::autograd::grad({loss}, chain->parameters(), {}, /*retain_graph=*/true,
                          /*create_graph=*/true);
  });
  CHECK(has(twice, "can be differentiated once only"));
  {
    const torch::NoGradGuard no_grad;
    chain->parameters()[0].add_(1);
  }
  const std::string weight = refusal_of([&] { loss.backward(); });
  CAPTURE(weight);
  CHECK(has(weight, "modified by an inplace operation"));
  CHECK(has(weight, "ConvBatchNormReLU block of input [12, 2, 10, 9]"));
}

}  // namespace
