// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A scope against libtorch without one: exact where it must be, unbiased elsewhere, and small.
#include "actpack_torch/scope.hpp"

#include <torch/csrc/autograd/generated/Functions.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actpack_torch/chain.hpp"
#include "support.hpp"

namespace {

using namespace actpack_torch;
using namespace support;

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
  // A result does not keep itself alive through the node that saves it.
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
  // Autograd saves x and a view of the weight, and `wanted` and its view; nothing is copied.
  const std::int64_t result = 64 * 64 * 4;
  CHECK(bytes_kept([&] { return linear->forward(x); }) == result);
  CHECK(bytes_kept([&] { return at::mm(wanted.t(), x); }) == result);
  CHECK(bytes_kept([&] { return wanted * computed.t(); }) == result);
  // Only computed tensors are packed: 3.125 bits with the group parameters.
  const at::Tensor hidden = linear->forward(x);
  CHECK(bytes_kept([&] { return at::mm(hidden, wanted); }) == result + 64 * 64 * 25 / 64);
}

TEST_CASE("libtorch: tensors without elements stay as they are") {
  Options options;
  options.min_numel = 0;
  const CompressSavedTensors scope(std::vector<at::Tensor>{}, options);
  const at::Tensor x = torch::ones({0, 3}, torch::requires_grad());
  ((x * 2) * (x > 0)).mul(x).sum().backward();
  CHECK(x.grad().numel() == 0);
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

  // y has two values, so it is packed exactly.
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

// Saves a ReLU's result rounded, and the mask with it, as one would at first.
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

}  // namespace
