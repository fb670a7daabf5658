// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Convolution, batch norm and ReLU with one context: autograd's node, and the module.
#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "actpack/batch_norm.hpp"
#include "actpack_torch/block_context.hpp"
#include "actpack_torch/dense_tensor.hpp"
#include "actpack_torch/options.hpp"

namespace actpack_torch {

// A block's convolution: without a bias, padded with zeros.
struct Convolution {
  torch::nn::Conv2dOptions options;

  // Goes piece by piece, since oneDNN makes a copy of its output.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& weight) const {
    at::Tensor output;
    for_each_piece_of(x.size(0), [&](Samples piece) {
      const at::Tensor part = at::conv2d(slice(x, piece), weight, {}, options.stride(), padding(),
                                         options.dilation(), options.groups());
      if (!output.defined()) {
        output = at::empty({x.size(0), part.size(1), part.size(2), part.size(3)});
      }
      slice(output, piece).copy_(part);
    });
    return output;
  }

  // Returns the gradients of x (undefined unless wanted) and of the weight.
  std::pair<at::Tensor, at::Tensor> gradients(const at::Tensor& output_gradient,
                                              const at::Tensor& x, const at::Tensor& weight,
                                              bool wants_x) const {
    auto [of_x, of_weight, of_bias] = at::convolution_backward(
        output_gradient, x, weight, at::OptionalIntArrayRef(), options.stride(), padding(),
        options.dilation(), /*transposed=*/false, /*output_padding=*/{0, 0}, options.groups(),
        {wants_x, true, false});
    return {std::move(of_x), std::move(of_weight)};
  }

 private:
  at::IntArrayRef padding() const { return c10::get<torch::ExpandingArray<2>>(options.padding()); }
};

// Values that pass from one block to the next, and the context from which they can be decoded.
struct BlockOutput {
  at::Tensor values;
  std::shared_ptr<const BlockContext> context;  // null where no block made the values
  std::int64_t version = 0;                     // of the values that the context describes
};

// The block's node in autograd's graph.
class ConvBatchNormReLUFunction : public torch::autograd::Function<ConvBatchNormReLUFunction> {
 public:
  struct Call {
    Convolution convolution;
    torch::nn::BatchNorm2dImpl& batch_norm;
    bool is_pooled;
    const Options& options;
    actpack::Rounding rounding;
    std::shared_ptr<const BlockContext> of_input;   // null: x itself is saved
    std::shared_ptr<const BlockContext> of_output;  // set by forward
  };

  static at::Tensor forward(torch::autograd::AutogradContext* graph, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& gamma,
                            const at::Tensor& beta, Call* call) {
    const at::Tensor z = call->convolution.forward(x, weight);
    TORCH_CHECK(z.numel() > z.size(1), "actpack: batch norm needs more than one value a channel, ",
                "but the convolution's output is ", describe(z));
    TORCH_CHECK(!call->is_pooled || (z.size(2) > 1 && z.size(3) > 1),
                "actpack: pooling needs at least 2x2 values, but the convolution's output is ",
                describe(z));
    const auto [mean, variance] = update_statistics(call->batch_norm, z);
    const batch_norm::SavedValue saved =
        is_invertible(gamma) ? batch_norm::SavedValue::output : batch_norm::SavedValue::input;
    BlockContext context(
        {z.sizes().vec(), flat_layout(z.numel(), call->options), call->rounding, saved,
         call->is_pooled},
        {{},
         {},
         make_channels(mean, variance, call->batch_norm.options.eps(), gamma, beta, saved)});
    at::Tensor output = context.keep(z);
    save(graph, x, weight, context, *call);
    call->of_output = std::make_shared<const BlockContext>(std::move(context));
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* graph,
                                                 torch::autograd::variable_list gradients) {
    const Saved saved = load(graph);
    TORCH_CHECK(!at::GradMode::is_enabled(), "actpack: ", saved.name,
                ", can be differentiated once only, without create_graph");
    const BlockContext& context = saved.context;
    const at::Tensor output_gradient = gradients[0].contiguous().resolve_neg();
    const std::int64_t samples = context.format().samples();
    const batch_norm::Channels channels = context.format().channels();

    std::vector<double> sums(2 * static_cast<std::size_t>(channels.count));
    for_each_piece_of(samples, [&](Samples piece) {
      const at::Tensor gradient =
          context.relu_output_gradient(piece, slice(output_gradient, piece));
      batch_norm::add_gradient_sums(values_of<const float>(gradient), context.first(piece), context,
                                    channels, std::span(sums), torch_threads);
    });
    at::Tensor gamma_gradient = at::empty({channels.count});
    at::Tensor beta_gradient = at::empty({channels.count});
    const std::vector<batch_norm::InputGradient> input_gradients = batch_norm::finish_gradients(
        context.channels(), context.format().saved, sums, samples * channels.inner,
        gamma_gradient.data_ptr<float>(), beta_gradient.data_ptr<float>());

    const bool wants_x = graph->needs_input_grad(0);
    at::Tensor x_gradient = wants_x ? at::empty(saved.input_sizes) : at::Tensor();
    at::Tensor weight_gradient = at::zeros_like(saved.weight);
    for_each_piece_of(samples, [&](Samples piece) {
      const at::Tensor gradient =
          context.relu_output_gradient(piece, slice(output_gradient, piece));
      const at::Tensor dz = context.format().make_values(piece.count);
      batch_norm::input_gradient(values_of<const float>(gradient), context.first(piece), context,
                                 channels, input_gradients.data(), values_of<float>(dz),
                                 torch_threads);
      const at::Tensor x =
          saved.of_input ? saved.of_input->output(piece) : slice(saved.input, piece);
      const auto [of_x, of_weight] = saved.convolution.gradients(dz, x, saved.weight, wants_x);
      weight_gradient.add_(of_weight);
      if (wants_x) {
        slice(x_gradient, piece).copy_(of_x);
      }
    });
    return {x_gradient, weight_gradient, gamma_gradient, beta_gradient, at::Tensor()};
  }

 private:
  // A node's data beside its tensors.
  struct Record : torch::CustomClassHolder {
    Convolution convolution;
    ContextFormat format;
    std::optional<ContextFormat> input_format;
    std::vector<std::int64_t> input_sizes;

    Record(const Convolution& of_block, ContextFormat of_context)
        : convolution(of_block), format(std::move(of_context)) {}
  };
  struct Saved {
    Convolution convolution;
    BlockContext context;
    std::optional<BlockContext> of_input;
    at::Tensor input;  // undefined where of_input has it
    std::vector<std::int64_t> input_sizes;
    at::Tensor weight;
    std::string name;
  };

  // Returns mean and variance of the batch, and updates the running ones as torch does.
  static std::tuple<at::Tensor, at::Tensor> update_statistics(
      torch::nn::BatchNorm2dImpl& batch_norm, const at::Tensor& z) {
    batch_norm.num_batches_tracked += 1;
    const auto momentum = batch_norm.options.momentum();
    return at::batch_norm_update_stats(
        z, batch_norm.running_mean, batch_norm.running_var,
        momentum ? *momentum : 1 / batch_norm.num_batches_tracked.item<double>());
  }

  static at::Tensor make_channels(const at::Tensor& mean, const at::Tensor& variance,
                                  double epsilon, const at::Tensor& gamma, const at::Tensor& beta,
                                  batch_norm::SavedValue saved) {
    at::Tensor channels = at::empty({mean.numel(), 4});
    batch_norm::write_channels(
        {.channels = {.count = mean.numel(), .inner = 1},
         .saved = saved,
         .epsilon = static_cast<float>(epsilon),
         .smallest_gamma = 0,
         .mean = mean.data_ptr<float>(),
         .variance = variance.data_ptr<float>(),
         .gamma = gamma.data_ptr<float>(),
         .beta = beta.data_ptr<float>(),
         .by_channel = static_cast<batch_norm::Channel*>(channels.data_ptr())});
    return channels;
  }

  // Whether x̂ can be recovered from a rounded y in every channel. Where |γ| is far below the
  // others', the rounding of y exceeds x̂ itself; where γ = 0, nothing of x̂ is left.
  static bool is_invertible(const at::Tensor& gamma) {
    const at::Tensor magnitudes = gamma.abs();
    const float smallest = magnitudes.min().item<float>();
    return smallest > 0 && smallest >= 0x1p-6f * magnitudes.max().item<float>();
  }

  static void save(torch::autograd::AutogradContext* graph, const at::Tensor& x,
                   const at::Tensor& weight, const BlockContext& context, const Call& call) {
    auto record = c10::make_intrusive<Record>(call.convolution, context.format());
    record->input_sizes = x.sizes().vec();
    torch::autograd::variable_list tensors{weight};
    const auto add = [&](const BlockContext::Tensors& of) {
      tensors.insert(tensors.end(), {of.bytes, of.argmax, of.channels});
    };
    add(context.tensors());
    if (call.of_input) {
      record->input_format = call.of_input->format();
      add(call.of_input->tensors());
    } else {
      tensors.push_back(x);
    }
    graph->saved_data["record"] = at::IValue::make_capsule(std::move(record));
    graph->save_for_backward(std::move(tensors));
  }

  static Saved load(torch::autograd::AutogradContext* graph) {
    const auto capsule = graph->saved_data["record"].toCapsule();
    const Record& record = static_cast<const Record&>(*capsule);
    const std::string name =
        c10::str("the ConvBatchNormReLU block of input ", at::IntArrayRef(record.input_sizes));
    torch::autograd::variable_list tensors;
    try {
      tensors = graph->get_saved_variables();
    } catch (c10::Error& error) {  // changed in place, or a second backward pass
      error.add_context("actpack: in the backward pass of " + name);
      throw;
    }
    const auto context_at = [&](std::size_t i, const ContextFormat& format) {
      return BlockContext(format, {tensors[i], tensors[i + 1], tensors[i + 2]});
    };
    Saved saved{record.convolution,
                context_at(1, record.format),
                std::nullopt,
                {},
                record.input_sizes,
                tensors[0],
                name};
    if (record.input_format) {
      saved.of_input = context_at(4, *record.input_format);
    } else {
      saved.input = tensors[4];
    }
    return saved;
  }
};

// Convolution, batch norm and ReLU, followed by 2×2 maximum pooling if `is_pooled`. In training
// they share one context; in evaluation and without gradients they are torch's own. The weights,
// the statistics and their names are those of its Conv2d `convolution` and BatchNorm2d
// `batch_norm`.
class ConvBatchNormReLUImpl : public torch::nn::Module {
 public:
  explicit ConvBatchNormReLUImpl(const torch::nn::Conv2dOptions& options, bool is_pooled = false)
      : convolution(register_module("convolution", torch::nn::Conv2d(options))),
        batch_norm(register_module("batch_norm", torch::nn::BatchNorm2d(options.out_channels()))),
        geometry_{options}, is_pooled_(is_pooled) {
    TORCH_CHECK(!options.bias(), "actpack: a ConvBatchNormReLU's convolution has no bias, for ",
                "batch norm would take it out again: set bias(false)");
    TORCH_CHECK(c10::get_if<torch::ExpandingArray<2>>(&options.padding()) &&
                    c10::get_if<torch::enumtype::kZeros>(&options.padding_mode()),
                "actpack: a ConvBatchNormReLU's convolution pads with zeros, by a number");
  }

  // The noise depends on `number`, the step and the options' seed.
  BlockOutput forward(const BlockOutput& input, const Options& options, std::uint64_t step,
                      std::uint64_t number) {
    const at::Tensor& x = input.values;
    const at::Tensor& weight = convolution->weight;
    TORCH_CHECK(x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.device().is_cpu() && weight.device().is_cpu() && x.dim() == 4 &&
                    x.size(0) > 0,
                "actpack: a ConvBatchNormReLU takes a batch of Float on the CPU; its input is ",
                describe(x), ", on ", x.device(), ", its weight ", describe(weight), ", on ",
                weight.device());
    TORCH_CHECK(!input.context || input.version == x._version(), "actpack: ", describe(x),
                ", was changed in place after the block that made it had kept its context: it is ",
                "at version ", x._version(), ", kept was version ", input.version);
    if (!batch_norm->is_training() || !at::GradMode::is_enabled()) {
      const at::Tensor y = at::relu(batch_norm->forward(convolution->forward(x)));
      return {is_pooled_ ? at::max_pool2d(y, 2) : y, nullptr};
    }
    for (const at::Tensor& of_channels : {batch_norm->weight, batch_norm->bias,
                                          batch_norm->running_mean, batch_norm->running_var}) {
      TORCH_CHECK(of_channels.scalar_type() == at::kFloat && of_channels.device().is_cpu() &&
                      of_channels.numel() == weight.size(0) && of_channels.is_contiguous() &&
                      !of_channels.is_neg(),
                  "actpack: a ConvBatchNormReLU's batch norm keeps ", weight.size(0),
                  " contiguous Floats on the CPU of each kind, but one is ", describe(of_channels),
                  ", on ", of_channels.device());
    }
    ConvBatchNormReLUFunction::Call call{.convolution = geometry_,
                                         .batch_norm = *batch_norm,
                                         .is_pooled = is_pooled_,
                                         .options = options,
                                         .rounding = noise(options, Origin::chain, step, number),
                                         .of_input = input.context,
                                         .of_output = nullptr};
    at::Tensor output =
        ConvBatchNormReLUFunction::apply(x, weight, batch_norm->weight, batch_norm->bias, &call);
    const std::int64_t version = output._version();
    return {std::move(output), std::move(call.of_output), version};
  }

  torch::nn::Conv2d convolution;
  torch::nn::BatchNorm2d batch_norm;

 private:
  Convolution geometry_;
  bool is_pooled_;
};
TORCH_MODULE(ConvBatchNormReLU);

}  // namespace actpack_torch
