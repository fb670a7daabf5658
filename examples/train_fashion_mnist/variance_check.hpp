// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Whether actpack/variance.hpp predicts what rounding does to real gradients: one layer's
// activations are rounded many times over while all else stays exact, and the variance of its
// gradient is held against the closed forms.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/variance.hpp"
#include "contexts.hpp"
#include "network.hpp"

namespace trainer {

// A summed variance, over all entries of a gradient and about the exact one, from gradients drawn
// at random.
struct DrawnVariance {
  double measured = 0;
  double standard_error = 0;  // of `measured`
  double mean_error = 0;      // draws · ‖mean − exact‖² / measured: about 1 without bias
  double mean_error_deviation = 0;  // how far chance takes `mean_error` from 1
};

// The variance of one layer's gradient, and what the formulas make of it.
struct VarianceReport : DrawnVariance {
  enum class Quantity {
    weight_gradient,        // the layer's input is rounded
    gradient_one_rounding,  // batch norm's input gradient: x̂ is rounded once, as in the trainer
    gradient_two_roundings  // the same, with a rounding of its own for each place that x̂ stands at
  };

  std::string layer;
  Quantity quantity = Quantity::weight_gradient;
  Codec codec;
  double from_ranges = 0;     // ActNN's model: mean gain · noise as the groups' ranges have it
  double from_mean_gain = 0;  // mean gain · measured noise, sample by sample
  double from_values = 0;     // gain · measured noise, value by value, and no term left out
};

inline double sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}
inline double squared_norm(std::span<const float> values) {
  return std::transform_reduce(values.begin(), values.end(), 0.0, std::plus<>(),
                               [](float value) { return double{value} * double{value}; });
}

// The place of a width in tables by width.
inline std::size_t width_index(int bits) {
  return static_cast<std::size_t>(std::ranges::find(actpack::widths, bits) -
                                  actpack::widths.begin());
}

// What the exact passes of one step leave behind a block.
struct BlockRecord {
  explicit BlockRecord(const BlockSetting& block)
      : setting(block), batch_norm_input(block.images, block.pooling.input().numel()),
        relu_input(block.images, block.pooling.input().numel()),
        output(block.images, block.pooling.output().numel()),
        argmax(block.images, block.pooling.argmax_numel()),
        output_gradient(block.images, block.pooling.output().numel()) {}

  BlockValues values(std::int64_t image) const {
    return {batch_norm_input.image(image), relu_input.image(image), output.image(image),
            argmax.image(image)};
  }

  // Σ ∇y² of an image, by channel.
  std::vector<double> squared_gradients(std::int64_t image) const {
    std::vector<double> squares(static_cast<std::size_t>(setting.pooling.output().channels), 0.0);
    const std::span<const float> gradient = output_gradient.image(image);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      squares[i % squares.size()] += double{gradient[i]} * double{gradient[i]};
    }
    return squares;
  }

  BlockSetting setting;
  Tensor<float> batch_norm_input;
  Tensor<float> relu_input;
  Tensor<float> output;
  Tensor<std::uint8_t> argmax;
  Tensor<float> output_gradient;  // behind the ReLU
};

// Listens in on a block's context: all that is to be known passes through it.
class RecordingContext final : public BlockContext {
 public:
  RecordingContext(std::unique_ptr<BlockContext> context, BlockRecord& record)
      : context_(std::move(context)), record_(record) {}

  void save(std::int64_t first_image, const BlockValues& values) override {
    const auto copy = [=](auto from, auto& to) {
      std::ranges::copy(from, to.from(first_image).begin());
    };
    copy(values.batch_norm_input, record_.batch_norm_input);
    copy(values.relu_input, record_.relu_input);
    copy(values.output, record_.output);
    copy(values.argmax, record_.argmax);
    context_->save(first_image, values);
  }
  void finish(Tensor<float> batch_norm_input,
              std::shared_ptr<const Tensor<float>> output) override {
    context_->finish(std::move(batch_norm_input), std::move(output));
  }
  void load_argmax(std::int64_t image, std::span<std::uint8_t> argmax) const override {
    context_->load_argmax(image, argmax);
  }
  void load_output(std::int64_t image, std::span<const std::uint8_t> argmax,
                   std::span<float> output, std::span<float> normalized,
                   std::span<float> scratch) const override {
    context_->load_output(image, argmax, output, normalized, scratch);
  }
  void relu_backward(std::int64_t image, std::span<const std::uint8_t> argmax,
                     std::span<float> gradient) const override {
    context_->relu_backward(image, argmax, gradient);
    std::ranges::copy(gradient, record_.output_gradient.image(image).begin());
  }
  void load_normalized(std::int64_t image, std::span<float> normalized) const override {
    context_->load_normalized(image, normalized);
  }

 private:
  std::unique_ptr<BlockContext> context_;
  BlockRecord& record_;
};

// The exact passes of one step. Reads the network's batch norms until its next forward pass.
class StepRecord final : private ContextFactory {
 public:
  StepRecord(Network& network, Batch batch, ContextFactory& exact_contexts)
      : contexts_(exact_contexts), images_(batch.pixels.images()) {
    SavedActivations saved = network.forward(std::move(batch), *this);
    logit_gradient_ = Tensor<float>(images_, saved.probabilities.row_size());
    for (std::int64_t image = 0; image < images_; ++image) {
      Classifier::loss_gradient(saved.probabilities.image(image),
                                saved.labels[static_cast<std::size_t>(image)],
                                1 / static_cast<float>(images_), logit_gradient_.image(image));
    }
    network.backward(std::move(saved));
  }

  std::int64_t images() const { return images_; }
  const std::deque<BlockRecord>& blocks() const { return blocks_; }
  const Tensor<float>& logit_gradient() const { return logit_gradient_; }

  // Of layer `index`: blocks, then the classifier.
  const Tensor<float>& input(std::size_t index) const {
    return index == 0 ? input_ : blocks_[index - 1].output;
  }

  // The gradient of a block's batch norm input, which is its convolution's output.
  Tensor<float> convolution_gradient(std::size_t index) const {
    const BlockRecord& block = blocks_[index];
    const auto& [images, pooling, batch_norm] = block.setting;
    Tensor<float> gradient(images, pooling.input().numel());
    for (std::int64_t image = 0; image < images; ++image) {
      const std::span<float> values = gradient.image(image);
      batch_norm.normalize()(block.batch_norm_input.image(image), values);
      batch_norm.backward()(values, values);
      pooling.scatter_add(block.output_gradient.image(image), block.argmax.image(image),
                          batch_norm.gain(), values);
    }
    return gradient;
  }

  // Keeps the network's input, or the values of one block, as `contexts` does.
  std::unique_ptr<InputContext> keep_input_again(ContextFactory& contexts) const {
    Tensor<std::uint8_t> pixels(images_, pixels_.row_size());
    std::ranges::copy(pixels_.span(), pixels.span().begin());
    return contexts.keep_input(std::move(pixels), pixel_scale_);
  }
  std::unique_ptr<BlockContext> save_again(std::size_t index, ContextFactory& contexts) const {
    const BlockRecord& block = blocks_[index];
    std::unique_ptr<BlockContext> context = contexts.make_block_context(block.setting);
    for_each_chunk(images_, [&](const Chunk& chunk) {
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        context->save(image, block.values(image));
      }
    });
    return context;
  }

 private:
  void begin_step() override { contexts_.begin_step(); }
  std::unique_ptr<InputContext> keep_input(Tensor<std::uint8_t> pixels, PixelScale scale) override {
    pixel_scale_ = scale;
    pixels_ = Tensor<std::uint8_t>(images_, pixels.row_size());
    input_ = Tensor<float>(images_, pixels.row_size());
    std::ranges::copy(pixels.span(), pixels_.span().begin());
    scale(pixels.span(), input_.span());
    return contexts_.keep_input(std::move(pixels), scale);
  }
  std::unique_ptr<BlockContext> make_block_context(const BlockSetting& block) override {
    blocks_.emplace_back(block);
    return std::make_unique<RecordingContext>(contexts_.make_block_context(block), blocks_.back());
  }

  ContextFactory& contexts_;
  std::int64_t images_;
  PixelScale pixel_scale_;
  Tensor<std::uint8_t> pixels_;
  Tensor<float> input_;
  std::deque<BlockRecord> blocks_;  // never moved: contexts refer to them
  Tensor<float> logit_gradient_;
};

// A convolution or the classifier in one recorded step. Its weights play no part.
class WeightedLayer {
 public:
  WeightedLayer(const StepRecord& record, std::size_t index)
      : record_(record), index_(index), columns_(static_cast<std::size_t>(omp_get_max_threads())) {
    std::mt19937_64 any_weights;
    const std::int64_t inputs = record.input(index).row_size();
    if (index < record.blocks().size()) {
      name_ = "convolution " + std::to_string(index + 1);
      const Shape output = record.blocks()[index].setting.pooling.input();
      const Shape input{output.height, output.width, inputs / output.pixels()};
      const auto convolution = std::make_shared<Convolution>(input, output.channels, any_weights);
      weight_ = std::shared_ptr<Parameter>(convolution, &convolution->weight);
      output_gradient_ = record.convolution_gradient(index);
      for (const std::int64_t size : {output.height, output.width}) {
        axes_.push_back({.input = size, .output = size, .kernel = 3, .padding = 1});
      }
      for (Array<float>& columns : columns_) {
        columns = Array<float>(convolution->columns_numel());
      }
      add_weight_gradient_ = [convolution](auto... arguments) {
        convolution->add_weight_gradient(arguments...);
      };
    } else {
      name_ = "classifier";
      const std::int64_t classes = record.logit_gradient().row_size();
      const auto classifier = std::make_shared<Classifier>(inputs, classes, any_weights);
      weight_ = std::shared_ptr<Parameter>(classifier, &classifier->weight);
      output_gradient_ = Tensor<float>(record.images(), classes);
      std::ranges::copy(record.logit_gradient().span(), output_gradient_.span().begin());
      for (Array<float>& columns : columns_) {
        columns = Array<float>(classes + inputs);  // for the gradients that nobody asks for
      }
      add_weight_gradient_ = [classifier, classes](std::span<const float> input,
                                                   std::span<const float> output_gradient,
                                                   std::span<float> weight_gradient,
                                                   std::span<float> columns) {
        const std::size_t biases = static_cast<std::size_t>(classes);
        std::ranges::fill(columns.first(biases), 0.0f);
        classifier->backward(input, output_gradient, weight_gradient, columns.first(biases),
                             columns.subspan(biases));
      };
    }
  }

  const std::string& name() const { return name_; }
  std::size_t index() const { return index_; }
  std::span<const actpack::ConvAxis> axes() const { return axes_; }  // none for the classifier
  std::span<const float> output_gradient(std::int64_t image) const {
    return output_gradient_.image(image);
  }
  double squared_gradient_norm(std::int64_t image) const {
    return squared_norm(output_gradient(image));
  }

  // Of an input value of the image, as the formulas have it.
  double mean_gain(std::int64_t image) const {
    return axes_.empty() ? actpack::linear_gain(squared_gradient_norm(image))
                         : actpack::conv_gain(squared_gradient_norm(image), axes_);
  }

  // Its weight gradient if load(chunk, image) is its input. Summed as the network sums its own.
  template <class Load>
  std::span<const float> weight_gradient(const Load& load) {
    GradientSum sum(record_.images(), *weight_);
    for_each_chunk(record_.images(), [&](const Chunk& chunk) {
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        add_weight_gradient_(load(chunk, image), output_gradient_.image(image), sum.of(chunk),
                             columns_[chunk.thread].span());
      }
    });
    sum.store(*weight_);
    return weight_->gradient.span();
  }
  std::span<const float> exact_weight_gradient() {
    return weight_gradient(
        [&](const Chunk&, std::int64_t image) { return record_.input(index_).image(image); });
  }

 private:
  const StepRecord& record_;
  std::size_t index_;
  std::string name_;
  std::vector<actpack::ConvAxis> axes_;
  Tensor<float> output_gradient_;
  std::shared_ptr<Parameter> weight_;
  std::function<void(std::span<const float>, std::span<const float>, std::span<float>,
                     std::span<float>)>
      add_weight_gradient_;
  std::vector<Array<float>> columns_;  // each thread's scratch
};

// Gathers gradients that were drawn at random, and tells how they scatter about the exact one.
class DrawnGradients {
 public:
  explicit DrawnGradients(std::span<const float> exact)
      : exact_(exact.begin(), exact.end()), error_sum_(exact.size(), 0.0) {}

  void add(std::span<const float> drawn) {
    const double square = sum_by_block([&](std::size_t i) {
      const double error = double{drawn[i]} - double{exact_[i]};
      error_sum_[i] += error;
      return error * error;
    });
    ++draws_;
    squares_.push_back(square);
  }

  void report(DrawnVariance& report) const {
    const double draws = static_cast<double>(draws_);
    const double mean = std::reduce(squares_.begin(), squares_.end()) / draws;
    double scatter = 0;
    for (const double square : squares_) {
      scatter += (square - mean) * (square - mean) / (draws - 1);
    }
    const double mean_error =
        sum_by_block([&](std::size_t i) { return error_sum_[i] / draws * error_sum_[i] / draws; });
    report.measured = mean;
    report.standard_error = std::sqrt(scatter / draws);
    report.mean_error = draws * mean_error / mean;
    // The mean's error times √draws is distributed as a single error is, but for being more normal.
    report.mean_error_deviation = std::sqrt(scatter) / mean;
  }

 private:
  // Σ term(i), several blocks at a time and yet always in the same order.
  template <class Term>
  double sum_by_block(const Term& term) const {
    constexpr std::size_t block_size = 1024;
    const std::size_t blocks = (exact_.size() + block_size - 1) / block_size;
    Tensor<double> sums(chunks_for(static_cast<std::int64_t>(blocks)), 1);
    for_each_chunk(static_cast<std::int64_t>(blocks), [&](const Chunk& chunk) {
      double& sum = sums.image(chunk.index)[0];
      sum = 0;
      const std::size_t last =
          std::min(static_cast<std::size_t>(chunk.last) * block_size, exact_.size());
      for (std::size_t i = static_cast<std::size_t>(chunk.first) * block_size; i < last; ++i) {
        sum += term(i);
      }
    });
    return sum_chunks(sums)[0];
  }

  std::vector<float> exact_;
  std::vector<double> error_sum_;
  std::vector<double> squares_;  // ‖error‖² of each draw
  std::int64_t draws_ = 0;
};

// The variance that rounding gives the values of one stored row.
struct RowNoise {
  std::vector<double> from_ranges;  // by value, as if it lay anywhere between two codes
  std::vector<double> by_value;     // by value, from where it lies
  double total = 0;                 // of all values, as the library measures it
};

// Who reads a row of a sign-magnitude context: of the ReLU's output only the positive values carry
// noise.
enum class Reader { relu, whole };

inline RowNoise measure_row_noise(std::span<const float> row, const Codec& codec, Reader reader) {
  const bool is_affine = codec.form == Codec::Form::affine;
  const std::size_t width = width_index(codec.bits);
  const auto total = [&](const actpack::RoundingNoise& noise) {
    return (codec.is_subtractive ? noise.subtractive : noise.plain)[width];
  };
  RowNoise noise;
  if (is_affine) {
    noise.total = total(actpack::measure_rounding_noise(row, codec.group_size));
  } else {
    const auto sides = actpack::measure_sign_magnitude_noise(row, codec.group_size);
    noise.total = total(reader == Reader::relu ? sides.relu : sides.whole);
  }
  // Rounding by the textbook, from nothing but the group's parameters: levels `step` apart from 0.
  const auto add = [&](double distance, double range, double step) {
    const double position = step > 0 ? distance / step : 0;
    const double fraction = position - std::floor(position);
    noise.from_ranges.push_back(
        actpack::variance_at(actpack::rounding_sensitivity(range * range, 1), codec.bits) /
        (codec.is_subtractive ? 2 : 1));
    noise.by_value.push_back(step * step *
                             (codec.is_subtractive ? 1.0 / 12 : fraction * (1 - fraction)));
  };
  const std::size_t group_size = static_cast<std::size_t>(codec.group_size);
  for (std::size_t first = 0; first < row.size(); first += group_size) {
    const auto group = row.subspan(first, std::min(group_size, row.size() - first));
    const auto [low, high] = std::ranges::minmax(group);
    const float positive_range = std::max(high, 0.0f);
    const float negative_range = std::max(-low, 0.0f);
    const actpack::GroupParams affine = actpack::fit_params(low, high, codec.bits);
    const float positive_step = actpack::fit_params(0, positive_range, codec.bits).scale;
    const float negative_step = actpack::fit_params(0, negative_range, codec.bits).scale;
    for (const float x : group) {
      if (is_affine) {
        add(double{x} - float{affine.min}, double{high} - double{low}, float{affine.scale});
      } else if (x > 0) {
        add(x, positive_range, positive_step);
      } else if (reader == Reader::whole) {
        add(-x, negative_range, negative_step);
      } else {
        add(0, 0, 0);
      }
    }
  }
  return noise;
}

// What a codec stores of one image for the layer that reads its input from there.
class StoredInput {
 public:
  StoredInput(const StepRecord& record, std::size_t layer, const Codec& codec)
      : record_(record), layer_(layer), codec_(codec) {}

  RowNoise row_noise(std::int64_t image) const {
    return measure_row_noise(row(image), codec_, Reader::relu);
  }

  // The noise of every input value: what the stored row's is at its place. The affine copy is of
  // the input itself; where its decoding is subtractive, the ReLU's mask takes the noise from its
  // zeros, of which the model of ranges knows nothing. A sign-magnitude context lies before pooling
  // and gives the values at the maxima, the noise of all others being read by no one.
  RowNoise input_noise(const RowNoise& row, std::int64_t image) const {
    if (codec_.form == Codec::Form::affine) {
      RowNoise noise = row;
      const std::span<const float> input = record_.input(layer_).image(image);
      for (std::size_t i = 0; codec_.is_subtractive && layer_ > 0 && i < input.size(); ++i) {
        noise.by_value[i] = input[i] > 0 ? noise.by_value[i] : 0;
      }
      return noise;
    }
    const BlockRecord& block = record_.blocks()[layer_ - 1];
    RowNoise noise;
    noise.from_ranges.resize(block.output.image(image).size());
    noise.by_value.resize(noise.from_ranges.size());
    block.setting.pooling.for_each_place(block.argmax.image(image),
                                         [&](std::int64_t, std::int64_t at, std::int64_t place) {
                                           const std::size_t to = static_cast<std::size_t>(at);
                                           const std::size_t from = static_cast<std::size_t>(place);
                                           noise.from_ranges[to] = row.from_ranges[from];
                                           noise.by_value[to] = row.by_value[from];
                                         });
    return noise;
  }

 private:
  std::span<const float> row(std::int64_t image) const {
    return codec_.form == Codec::Form::affine
               ? record_.input(layer_).image(image)
               : record_.blocks()[layer_ - 1].relu_input.image(image);
  }

  const StepRecord& record_;
  std::size_t layer_;
  const Codec& codec_;
};

// Sets what is predicted of a layer's weight gradient.
inline void predict_weight_gradient(const StepRecord& record, const WeightedLayer& layer,
                                    VarianceReport& report) {
  const StoredInput stored(record, layer.index(), report.codec);
  std::size_t pixels = 1;
  for (const actpack::ConvAxis& axis : layer.axes()) {
    pixels *= static_cast<std::size_t>(axis.input);
  }
  std::vector<double> squared_gradient_norms(pixels);
  std::vector<double> gains(pixels);
  for (std::int64_t image = 0; image < record.images(); ++image) {
    const std::span<const float> gradient = layer.output_gradient(image);
    const RowNoise row = stored.row_noise(image);
    const RowNoise input = stored.input_noise(row, image);

    const double mean_gain = layer.mean_gain(image);
    report.from_ranges += mean_gain * sum(input.from_ranges);
    const double whole = sum(row.by_value);
    if (whole > 0) {
      report.from_mean_gain += mean_gain * row.total * sum(input.by_value) / whole;
    }

    const std::size_t channels = gradient.size() / pixels;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      squared_gradient_norms[pixel] = squared_norm(gradient.subspan(pixel * channels, channels));
    }
    actpack::conv_gain_map(squared_gradient_norms, gains, layer.axes());
    const std::span<const double> noise = input.by_value;
    const std::size_t input_channels = noise.size() / pixels;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      report.from_values +=
          gains[pixel] * sum(noise.subspan(pixel * input_channels, input_channels));
    }
  }
}

// Rounds the layer's input over and over, and nothing else. Calls progress() after each draw.
template <class Progress>
VarianceReport check_weight_gradient(const StepRecord& record, WeightedLayer layer,
                                     const Codec& codec, std::uint64_t seed, std::int64_t draws,
                                     Progress&& progress) {
  VarianceReport report;
  report.layer = layer.name();
  report.codec = codec;
  predict_weight_gradient(record, layer, report);

  Contexts contexts(codec, seed);
  DrawnGradients gradients(layer.exact_weight_gradient());
  std::vector<Array<float>> inputs(static_cast<std::size_t>(omp_get_max_threads()));
  std::vector<Array<float>> normalized(inputs.size());
  std::vector<Array<float>> scratch(inputs.size());
  const std::size_t index = layer.index();
  for (std::size_t thread = 0; thread < inputs.size(); ++thread) {
    inputs[thread] = Array<float>(record.input(index).row_size());
    normalized[thread] = Array<float>(record.input(index).row_size());
    scratch[thread] =
        Array<float>(index == 0 ? 0 : record.blocks()[index - 1].relu_input.row_size());
  }
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    contexts.begin_step();
    if (index == 0) {
      const std::unique_ptr<InputContext> context = record.keep_input_again(contexts);
      gradients.add(layer.weight_gradient([&](const Chunk& chunk, std::int64_t image) {
        context->load(image, inputs[chunk.thread].span());
        return std::as_const(inputs[chunk.thread]).span();
      }));
    } else {
      const std::unique_ptr<BlockContext> context = record.save_again(index - 1, contexts);
      const Tensor<std::uint8_t>& argmax = record.blocks()[index - 1].argmax;
      gradients.add(layer.weight_gradient([&](const Chunk& chunk, std::int64_t image) {
        context->load_output(image, argmax.image(image), inputs[chunk.thread].span(),
                             normalized[chunk.thread].span(), scratch[chunk.thread].span());
        return std::as_const(inputs[chunk.thread]).span();
      }));
    }
    progress();
  }
  gradients.report(report);
  return report;
}

// Batch norm's input gradient is w / s · (∇y − mean ∇y − x̂ · Σ x̂ ∇y / N): only the last term, which
// is all that is looked at here, depends on what is rounded.
class BatchNormCheck {
 public:
  BatchNormCheck(const StepRecord& record, std::size_t index)
      : record_(record), block_(record.blocks()[index]), index_(index),
        batch_norm_(block_.setting.batch_norm), pooling_(block_.setting.pooling),
        exact_(record.images(), pooling_.input().numel()),
        drawn_(record.images(), pooling_.input().numel()),
        normalized_(record.images(), pooling_.input().numel()) {
    const ChannelMap term = product_with_normalized(dot_products());
    for_each_image([&](const Chunk&, std::int64_t image) {
      batch_norm_.normalize()(block_.batch_norm_input.image(image), exact_.image(image));
      term(exact_.image(image), exact_.image(image));
    });
  }

  // With one rounding, then with two. Calls progress() after each draw.
  template <class Progress>
  std::vector<VarianceReport> check(const Codec& codec, std::uint64_t seed, std::int64_t draws,
                                    Progress&& progress) {
    Contexts contexts(codec, seed);
    DrawnGradients two(exact_.span());
    DrawnGradients one(exact_.span());
    for (std::int64_t draw = 0; draw < draws; ++draw) {
      contexts.begin_step();
      const auto context = record_.save_again(index_, contexts);
      const auto other_context = record_.save_again(index_, contexts);
      for_each_image([&](const Chunk&, std::int64_t image) {
        context->load_normalized(image, normalized_.image(image));
      });
      for (const bool is_other : {false, true}) {
        const ChannelMap term =
            product_with_normalized(dot_products(is_other ? *other_context : *context));
        for_each_image([&](const Chunk&, std::int64_t image) {
          term(normalized_.image(image), drawn_.image(image));
        });
        (is_other ? two : one).add(drawn_.span());
      }
      progress();
    }
    VarianceReport report;
    report.layer = "batch norm " + std::to_string(index_ + 1);
    report.codec = codec;
    predict(report);
    std::vector<VarianceReport> reports(2, report);
    reports[0].quantity = VarianceReport::Quantity::gradient_one_rounding;
    one.report(reports[0]);
    reports[1].quantity = VarianceReport::Quantity::gradient_two_roundings;
    two.report(reports[1]);
    return reports;
  }

 private:
  template <class Body>
  void for_each_image(const Body& body) const {
    for_each_chunk(record_.images(), [&](const Chunk& chunk) {
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        body(chunk, image);
      }
    });
  }

  double count() const { return static_cast<double>(record_.images() * pooling_.input().pixels()); }

  // Σ x̂ ∇y by channel: exactly, as the network left it with γ, and with x̂ as `context` has it.
  std::vector<double> dot_products() const {
    const std::span<const float> exact = batch_norm_.gamma.gradient.span();
    return {exact.begin(), exact.end()};
  }
  std::vector<double> dot_products(const BlockContext& context) const {
    const std::size_t outputs = static_cast<std::size_t>(pooling_.output().numel());
    const std::size_t inputs = static_cast<std::size_t>(pooling_.input().numel());
    ChannelSums sums(record_.images(), pooling_.output().channels);
    for_each_chunk(record_.images(), [&](const Chunk& chunk) {
      std::vector<float> output(outputs);
      std::vector<float> normalized(outputs);
      std::vector<float> scratch(inputs);
      for (std::int64_t image = chunk.first; image < chunk.last; ++image) {
        context.load_output(image, block_.argmax.image(image), output, normalized, scratch);
        sums.add(chunk, block_.output_gradient.image(image), normalized);
      }
    });
    const std::vector<double> totals = sums.totals();
    return {totals.begin() + pooling_.output().channels, totals.end()};
  }

  // x̂ -> −w / s · x̂ · Σ x̂ ∇y / N.
  ChannelMap product_with_normalized(const std::vector<double>& dot_products) const {
    ChannelMap map(pooling_.input().channels);
    for (std::size_t c = 0; c < dot_products.size(); ++c) {
      map.scale[c] = static_cast<float>(-dot_products[c] / count() * batch_norm_.gain()[c]);
    }
    return map;
  }

  void predict(VarianceReport& report) const {
    const std::size_t channels = static_cast<std::size_t>(pooling_.input().channels);
    const bool is_affine = report.codec.form == Codec::Form::affine;
    const std::vector<double> dots = dot_products();
    std::vector<double> weights;
    std::vector<double> deviations;
    std::vector<double> noise_scales;  // from the noise of what is stored to that of x
    std::vector<double> mean_gains;
    const auto gain = [&](std::size_t c, double squared_gradient) {
      return actpack::batch_norm_gain(weights[c], deviations[c], count(), squared_gradient,
                                      dots[c]);
    };
    const std::vector<double> squared_gradients = squared_gradients_by_channel();
    for (std::size_t c = 0; c < channels; ++c) {
      weights.push_back(double{batch_norm_.gamma.value.span()[c]});
      deviations.push_back(1 / double{batch_norm_.normalize().scale[c]});
      // A sign-magnitude context holds y = w / s · (x − mean) + β.
      const double per_stored = is_affine ? 1 : deviations[c] / weights[c];
      noise_scales.push_back(per_stored * per_stored);
      mean_gains.push_back(gain(c, squared_gradients[c] / count()));
    }
    std::vector<double> input_noise(channels, 0.0);  // Σ Var x
    std::vector<double> dot_noise(channels, 0.0);    // Σ ∇y² Var x
    for (std::int64_t image = 0; image < record_.images(); ++image) {
      const RowNoise noise = measure_row_noise(
          is_affine ? block_.batch_norm_input.image(image) : block_.relu_input.image(image),
          report.codec, Reader::whole);
      const std::vector<double> squares = squared_gradients_by_value(image);
      const double by_value = sum(noise.by_value);
      const double library_share = by_value > 0 ? noise.total / by_value : 0;
      for (std::size_t i = 0; i < squares.size(); ++i) {
        const std::size_t c = i % channels;
        const double value_noise = noise_scales[c] * noise.by_value[i];
        report.from_ranges += mean_gains[c] * noise_scales[c] * noise.from_ranges[i];
        report.from_mean_gain += mean_gains[c] * library_share * value_noise;
        report.from_values += gain(c, squares[i]) * value_noise;
        input_noise[c] += value_noise;
        dot_noise[c] += squares[i] * value_noise;
      }
    }
    // A gain counts x̂ · Σ x̂ ∇y with one factor rounded at a time. Both at once add the product of
    // their variances, which is as large as x̂'s noise is beside its variance of 1.
    for (std::size_t c = 0; c < channels; ++c) {
      const double scale = weights[c] / (std::pow(deviations[c], 3) * count());
      report.from_values += scale * scale * input_noise[c] * dot_noise[c];
    }
  }

  std::vector<double> squared_gradients_by_channel() const {
    std::vector<double> squares(static_cast<std::size_t>(pooling_.output().channels), 0.0);
    for (std::int64_t image = 0; image < record_.images(); ++image) {
      std::ranges::transform(squares, block_.squared_gradients(image), squares.begin(),
                             std::plus<>());
    }
    return squares;
  }

  std::vector<double> squared_gradients_by_value(std::int64_t image) const {
    std::vector<double> squares(static_cast<std::size_t>(pooling_.input().numel()), 0.0);
    const std::span<const float> gradient = block_.output_gradient.image(image);
    pooling_.for_each_place(block_.argmax.image(image),
                            [&](std::int64_t, std::int64_t at, std::int64_t place) {
                              const double value = gradient[static_cast<std::size_t>(at)];
                              squares[static_cast<std::size_t>(place)] = value * value;
                            });
    return squares;
  }

  const StepRecord& record_;
  const BlockRecord& block_;
  std::size_t index_;
  const BatchNorm& batch_norm_;
  const Pooling& pooling_;
  Tensor<float> exact_;
  Tensor<float> drawn_;
  Tensor<float> normalized_;
};

// Both contexts, each plainly and subtractively decoded, at one width and group size.
inline std::vector<Codec> codecs_to_check(int bits, std::int32_t group_size) {
  std::vector<Codec> codecs;
  for (const Codec::Form form : {Codec::Form::affine, Codec::Form::sign_magnitude}) {
    for (const bool is_subtractive : {false, true}) {
      codecs.emplace_back();
      codecs.back().form = form;
      codecs.back().bits = bits;
      codecs.back().is_subtractive = is_subtractive;
      codecs.back().group_size = group_size;
    }
  }
  return codecs;
}

// Every layer of the network under every codec, in one step; calls progress(draws done, all draws).
// Left out is what is not rounded in the form that is predicted: the network's input beside
// sign-magnitude contexts, which is kept as it is, and blocks that cannot have such a context.
template <class Progress>
std::vector<VarianceReport> check_variance(Network& network, Batch batch,
                                           ContextFactory& exact_contexts,
                                           const std::vector<Codec>& codecs, std::uint64_t seed,
                                           std::int64_t draws, Progress&& progress) {
  const StepRecord record(network, std::move(batch), exact_contexts);
  const std::size_t blocks = record.blocks().size();
  const auto is_rounded = [&](std::size_t block, const Codec& codec) {
    return codec.form == Codec::Form::affine ||
           record.blocks()[block].setting.batch_norm.is_invertible();
  };
  std::vector<std::pair<std::size_t, Codec>> weights;
  std::vector<std::pair<std::size_t, Codec>> batch_norms;
  for (std::size_t index = 0; index <= blocks; ++index) {
    for (const Codec& codec : codecs) {
      if (index == 0 ? codec.form == Codec::Form::affine : is_rounded(index - 1, codec)) {
        weights.emplace_back(index, codec);
      }
      if (index < blocks && is_rounded(index, codec)) {
        batch_norms.emplace_back(index, codec);
      }
    }
  }
  const std::int64_t all = draws * static_cast<std::int64_t>(weights.size() + batch_norms.size());
  std::int64_t done = 0;
  const auto count = [&] { progress(++done, all); };
  std::vector<VarianceReport> reports;
  for (const auto& [index, codec] : weights) {
    reports.push_back(
        check_weight_gradient(record, WeightedLayer(record, index), codec, seed, draws, count));
  }
  for (const auto& [index, codec] : batch_norms) {
    std::ranges::move(BatchNormCheck(record, index).check(codec, seed, draws, count),
                      std::back_inserter(reports));
  }
  std::ranges::stable_sort(reports, {}, &VarianceReport::quantity);
  return reports;
}

}  // namespace trainer
