// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Draws gradients, and predicts their variances.

#include "research/variance_check.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <utility>

#include "actpack/affine.hpp"
#include "actpack/variance.hpp"

namespace research {

RowNoise measure_row_noise(std::span<const float> row, const Codec& codec, Reader reader) {
  const bool is_affine = codec.context == Codec::Context::affine;
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

namespace {

// Sets the predictions for a layer's weight gradient.
void predict_weight_gradient(const StepRecord& record, const WeightedLayer& layer,
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
VarianceReport check_weight_gradient(const StepRecord& record, WeightedLayer layer,
                                     const Codec& codec, std::uint64_t seed, std::int64_t draws,
                                     const std::function<void()>& progress) {
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
      const std::unique_ptr<InputContext> context = record.save_input_again(contexts);
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

// Batch norm's input gradient is w / s · (∇y − mean ∇y − x̂ · Σ x̂ ∇y / N): only the last term,
// the only one here, depends on the rounded values.
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
  std::vector<VarianceReport> check(const Codec& codec, std::uint64_t seed, std::int64_t draws,
                                    const std::function<void()>& progress) {
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
    const bool is_affine = report.codec.context == Codec::Context::affine;
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
    pooling_.for_each_maximum(block_.argmax.image(image),
                              [&](std::int64_t, std::int64_t at, std::int64_t maximum) {
                                const double value = gradient[static_cast<std::size_t>(at)];
                                squares[static_cast<std::size_t>(maximum)] = value * value;
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

}  // namespace

std::vector<Codec> codecs_to_check(int bits, std::int32_t group_size) {
  std::vector<Codec> codecs;
  for (const Codec::Context context : {Codec::Context::affine, Codec::Context::sign_magnitude}) {
    for (const bool is_subtractive : {false, true}) {
      codecs.emplace_back();
      codecs.back().context = context;
      codecs.back().bits = bits;
      codecs.back().is_subtractive = is_subtractive;
      codecs.back().group_size = group_size;
    }
  }
  return codecs;
}

std::vector<VarianceReport> check_variance(
    Network& network, Batch batch, ContextFactory& exact_contexts, const std::vector<Codec>& codecs,
    std::uint64_t seed, std::int64_t draws,
    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const StepRecord record(network, std::move(batch), exact_contexts);
  const std::size_t blocks = record.blocks().size();
  const auto is_rounded = [&](std::size_t block, const Codec& codec) {
    return codec.context == Codec::Context::affine ||
           record.blocks()[block].setting.batch_norm.is_invertible();
  };
  std::vector<std::pair<std::size_t, Codec>> weights;
  std::vector<std::pair<std::size_t, Codec>> batch_norms;
  for (std::size_t index = 0; index <= blocks; ++index) {
    for (const Codec& codec : codecs) {
      if (index == 0 ? codec.context == Codec::Context::affine : is_rounded(index - 1, codec)) {
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

}  // namespace research
