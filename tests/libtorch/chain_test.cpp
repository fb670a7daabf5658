// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A chain of blocks against the same modules of libtorch, in values, gradients and bytes.
#include "actpack_torch/chain.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "actpack_torch/scope.hpp"
#include "support.hpp"

namespace {

using namespace actpack_torch;
using namespace support;

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
  BlockContext context({y.sizes().vec(), flat_layout(y.numel(), Options{}),
                        noise(Options{}, Origin::chain, 0, 0), batch_norm::SavedValue::output,
                        /*is_pooled=*/false},
                       {{}, {}, channels});
  const at::Tensor relu = context.keep(y.clone());
  CHECK(at::equal(relu, at::relu(y)));
  // The noise is known for normal values in groups of 256. It is proportional to the square of a
  // step, hence of a side's largest value. That varies by 30 %, over 1024 sides by 1 %.
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

// Compares the gradients of chain and plain modules with equal weights, that of the input too.
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

TEST_CASE("libtorch: a gradient that torch negates as it reads is taken as it reads") {
  torch::manual_seed(24);
  ConvBatchNormReLU block(small_shapes[0].convolution(), /*is_pooled=*/false);
  const at::Tensor x = small_input();
  const at::Tensor direction = torch::randn({12, 6, 10, 9});
  const auto gradient = [&](const at::Tensor& of_output) {
    block->zero_grad();
    block->forward({x, nullptr}, Options{}, 0, 0).values.backward(of_output);
    return block->convolution->weight.grad().clone();
  };
  CHECK(at::equal(gradient(at::_neg_view(-direction)), gradient(direction)));
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
  CHECK(has(refusal(torch::randn({12, 2, 2, 2})), "pooling needs at least 2x2 values"));

  // A batch norm that the caller exchanged.
  ConvBatchNormReLU block(small_shapes[0].convolution());
  const auto refusal_of_weight = [&](const at::Tensor& gamma) {
    block->batch_norm->weight = gamma;
    return refusal_of([&] { block->forward({x, nullptr}, Options{}, 0, 0); });
  };
  CHECK(has(refusal_of_weight(torch::ones({3})), "keeps 6 contiguous Floats"));
  CHECK(has(refusal_of_weight(torch::ones({6}, at::kDouble)), "but one is Double [6]"));
  CHECK(has(refusal_of_weight(torch::ones({6, 2}).select(1, 0)), "but one is Float [6]"));
  CHECK(has(refusal_of_weight(torch::ones({6}, at::kMeta)), "on meta"));
  CHECK(refusal_of_weight(torch::ones({6})).empty());
  block->batch_norm->running_var = torch::ones({5});
  CHECK(has(refusal_of_weight(torch::ones({6})), "but one is Float [5]"));

  // A change between blocks: the next one would read its context, not its input.
  ConvBatchNormReLU first(small_shapes[0].convolution());
  ConvBatchNormReLU second(small_shapes[1].convolution());
  const BlockOutput output = first->forward({x, nullptr}, Options{}, 0, 0);
  output.values.detach().add_(1);
  const std::string changed = refusal_of([&] { second->forward(output, Options{}, 0, 1); });
  CAPTURE(changed);
  CHECK(has(changed, "Float [12, 6, 10, 9]"));
  CHECK(has(changed, "was changed in place after the block that made it"));

  // A second derivative, and a weight changed between the passes.
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
