// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Makes plans of widths, and measures the variance that each leaves.

#include "research/width_comparison.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <span>

#include "actpack/auto_precision.hpp"
#include "actpack/bit_allocation.hpp"
#include "actpack/variance.hpp"
#include "train_fashion_mnist/training.hpp"

namespace research {
namespace {

// Calls visit(row, group's values) for each group of a recorded tensor, several rows at a time.
template <class Visit>
void for_each_group(const StepRecord& record, std::size_t tensor, const actpack::Layout& layout,
                    const Visit& visit) {
  const std::span<const float> values = saved_tensor(record, tensor).span();
  const std::size_t group_size = static_cast<std::size_t>(layout.group_size);
  for_each_chunk(layout.rows, [&](const Chunk& chunk) {
    for (std::int64_t row = chunk.first; row < chunk.last; ++row) {
      std::span<const float> rest =
          values.subspan(static_cast<std::size_t>(row * layout.row_size),
                         static_cast<std::size_t>(layout.size_of_row(row)));
      while (!rest.empty()) {
        const std::size_t size = std::min(group_size, rest.size());
        visit(static_cast<std::size_t>(row), rest.first(size));
        rest = rest.subspan(size);
      }
    }
  });
}

// Σ of the squared ranges of each row's groups.
std::vector<double> squared_range_norms(const StepRecord& record, std::size_t tensor,
                                        const actpack::Layout& layout) {
  std::vector<double> norms(static_cast<std::size_t>(layout.rows));
  for_each_group(record, tensor, layout, [&](std::size_t row, std::span<const float> group) {
    const auto [low, high] = std::ranges::minmax(group);
    const double range = double{high} - double{low};
    norms[row] += range * range;
  });
  return norms;
}

// The gains of a tensor's images, up to a factor that they share, since the formulas leave out what
// reaches earlier layers through a batch norm.
std::vector<double> image_gains(const StepRecord& record, std::size_t tensor) {
  std::vector<double> gains(static_cast<std::size_t>(record.images()));
  if (tensor % 2 == 0) {
    const WeightedLayer layer(record, tensor / 2);
    for (std::size_t image = 0; image < gains.size(); ++image) {
      gains[image] = layer.mean_gain(static_cast<std::int64_t>(image));
    }
    return gains;
  }
  const BlockRecord& block = record.blocks()[tensor / 2];
  const BatchNorm& batch_norm = block.setting.batch_norm;
  const double pixels = static_cast<double>(block.setting.pooling.input().pixels());
  for (std::size_t image = 0; image < gains.size(); ++image) {
    const std::vector<double> squared_gradients =
        block.squared_gradients(static_cast<std::int64_t>(image));
    for (std::size_t c = 0; c < squared_gradients.size(); ++c) {
      gains[image] += actpack::batch_norm_gain(
          batch_norm.gamma.value.span()[c], 1 / double{batch_norm.normalize().scale[c]},
          pixels * static_cast<double>(gains.size()), squared_gradients[c] / pixels,
          batch_norm.gamma.gradient.span()[c]);
    }
  }
  return gains;
}

}  // namespace

std::vector<actpack::Layout> make_layouts(const StepRecord& record, Rows rows,
                                          std::int32_t group_size) {
  std::vector<actpack::Layout> layouts;
  for (std::size_t tensor = 0; tensor <= 2 * record.blocks().size(); ++tensor) {
    const std::int64_t row_size = saved_tensor(record, tensor).row_size();
    actpack::Layout layout{.rows = record.images(), .row_size = row_size};
    layout.group_size = group_size;
    if (rows == Rows::of_a_group) {
      const std::int64_t numel = layout.numel();
      layout.rows = (numel + group_size - 1) / group_size;
      layout.row_size = group_size;
      layout.last_row_size = numel % group_size;
    }
    layouts.push_back(layout);
  }
  return layouts;
}

RowVariances measure_noise(const StepRecord& record, std::size_t tensor,
                           const actpack::Layout& layout, const Codec& codec) {
  RowVariances noise(static_cast<std::size_t>(layout.rows));
  const bool is_masked = codec.is_subtractive && tensor > 0 && tensor % 2 == 0;
  for_each_group(record, tensor, layout, [&](std::size_t row, std::span<const float> group) {
    const actpack::RoundingNoise measured =
        actpack::measure_rounding_noise(group, layout.group_size);
    const std::ptrdiff_t zeros = is_masked ? std::ranges::count(group, 0.0f) : 0;
    const double share = 1 - static_cast<double>(zeros) / static_cast<double>(group.size());
    for (std::size_t width = 0; width < 4; ++width) {
      noise[row][width] +=
          codec.is_subtractive ? share * measured.subtractive[width] : measured.plain[width];
    }
  });
  return noise;
}

WidthComparison::ActnnStatistics::ActnnStatistics(const StepRecord& record,
                                                  const std::vector<actpack::Layout>& layouts) {
  for (std::size_t tensor = 0; tensor < layouts.size(); ++tensor) {
    range_norms.push_back(squared_range_norms(record, tensor, layouts[tensor]));
  }
  for (std::size_t index = 0; index <= record.blocks().size(); ++index) {
    const WeightedLayer layer(record, index);
    double factor = 0;
    for (std::int64_t image = 0; image < record.images(); ++image) {
      factor += layer.squared_gradient_norm(image) / static_cast<double>(record.images());
    }
    for (const actpack::ConvAxis& axis : layer.axes()) {
      factor *= static_cast<double>(axis.kernel) / static_cast<double>(axis.input);
    }
    layer_factors.push_back(factor);
  }
}

WidthComparison::WidthComparison(Network& network, const Batch& batch,
                                 const std::vector<Batch>& others, ContextFactory& exact_contexts,
                                 const Codec& codec, std::uint64_t seed)
    : network_(network), batch_(batch), others_(others), codec_(codec), contexts_(codec, seed) {
  for (const Batch& other : others) {
    observe(StepRecord(network, copy_of(other), exact_contexts));
  }
  const StepRecord record(network, copy_of(batch), exact_contexts);
  observe(record);
  for (std::size_t tensor = 0; tensor < by_image_.layouts.size(); ++tensor) {
    image_gains_.push_back(
        relative_to_mean(image_gains(record, tensor), by_image_.noise.back()[tensor]));
  }
  exact_ = gradient_of(network, batch, exact_contexts);
}

std::vector<WidthReport> WidthComparison::compare(double average_bits, std::int64_t draws,
                                                  const std::function<void()>& progress) {
  const WidthPlan uniform = make_uniform_plan(average_bits);
  const std::vector<double> gains = measure_gains(uniform);
  std::vector<WidthReport> reports;
  for (const WidthPolicy policy : all_policies) {
    const WidthPlan plan = make_plan(policy, uniform, gains);
    WidthReport& report = reports.emplace_back();
    report.policy = policy;
    report.codec = codec_;
    report.average_bits = average_bits;
    report.stored_bytes = stored_bytes(plan);
    report.predicted = predict(plan, row_variances(policy, gains));
    report.bits_by_tensor = mean_bits(plan);
    contexts_.use_plan(as_plan(plan));
    DrawnGradients gradients(exact_);
    for (std::int64_t draw = 0; draw < draws; ++draw) {
      gradients.add(gradient_of(network_, batch_, contexts_));
      progress();
    }
    gradients.report(report);
    if (const WidthReport& reference = reports.front(); &report != &reference) {
      report.ratio = report.measured / reference.measured;
      report.ratio_error = report.ratio * std::hypot(report.standard_error / report.measured,
                                                     reference.standard_error / reference.measured);
    }
  }
  return reports;
}

WidthPlan WidthComparison::make_uniform_plan(double average_bits) const {
  actpack::AutoPrecision precision({.average_bits = average_bits});
  WidthPlan plan;
  for (const actpack::Layout& layout : by_image_.layouts) {
    precision.add_tensor(layout);
  }
  for (std::size_t tensor = 0; tensor < by_image_.layouts.size(); ++tensor) {
    plan.emplace_back(by_image_.layouts[tensor], precision.row_bits(tensor));
  }
  return plan;
}

std::vector<double> WidthComparison::measure_gains(const WidthPlan& plan) {
  std::vector<double> gains(plan.size(), 0.0);
  contexts_.use_plan(as_plan(plan));
  for (std::size_t step = 0; step < others_.size(); ++step) {
    perturb_tensors(network_, others_[step], contexts_,
                    [&](std::size_t tensor, double squared_difference) {
                      // Both gradients vary.
                      gains[tensor] += squared_difference / 2 /
                                       sum_at_widths(plan[tensor], by_image_.noise[step][tensor]) /
                                       static_cast<double>(others_.size());
                    });
  }
  return gains;
}

WidthPlan WidthComparison::make_plan(WidthPolicy policy, const WidthPlan& uniform,
                                     const std::vector<double>& gains) const {
  const std::int64_t bytes = stored_bytes(uniform);
  switch (policy) {
    case WidthPolicy::uniform: return uniform;
    case WidthPolicy::actnn: return make_actnn_plan(bytes);
    case WidthPolicy::gradients_known: return make_plan_by_image(bytes, gains);
    default: return make_controlled_plan(policy, bytes, gains);
  }
}

void WidthComparison::observe(const StepRecord& record) {
  for (Cut* cut : {&by_image_, &by_group_}) {
    cut->layouts = make_layouts(record, cut->rows, codec_.group_size);
    std::vector<RowVariances>& noise = cut->noise.emplace_back();
    for (std::size_t tensor = 0; tensor < cut->layouts.size(); ++tensor) {
      noise.push_back(measure_noise(record, tensor, cut->layouts[tensor], codec_));
    }
  }
  actnn_.emplace_back(record, by_image_.layouts);
}

const WidthComparison::Cut& WidthComparison::cut_of(WidthPolicy policy) const {
  return policy == WidthPolicy::per_group ? by_group_ : by_image_;
}

std::vector<double> WidthComparison::relative_to_mean(std::vector<double> gains,
                                                      const RowVariances& noise) {
  const std::size_t width = width_index(2);
  double noise_sum = 0;
  double product_sum = 0;
  for (std::size_t row = 0; row < noise.size(); ++row) {
    noise_sum += noise[row][width];
    product_sum += gains[row] * noise[row][width];
  }
  for (double& gain : gains) {
    gain *= noise_sum / product_sum;
  }
  return gains;
}

std::vector<RowVariances> WidthComparison::row_variances(WidthPolicy policy,
                                                         const std::vector<double>& gains) const {
  std::vector<RowVariances> variances = cut_of(policy).noise.back();
  for (std::size_t tensor = 0; tensor < variances.size(); ++tensor) {
    for (std::size_t row = 0; row < variances[tensor].size(); ++row) {
      const double share = policy == WidthPolicy::gradients_known ? image_gains_[tensor][row] : 1;
      for (double& variance : variances[tensor][row]) {
        variance *= share * gains[tensor];
      }
    }
  }
  return variances;
}

double WidthComparison::sum_at_widths(const TensorWidths& tensor, const RowVariances& variances) {
  double sum = 0;
  for (std::size_t row = 0; row < variances.size(); ++row) {
    sum += variances[row][width_index(tensor.bits(static_cast<std::int64_t>(row)))];
  }
  return sum;
}

double WidthComparison::predict(const WidthPlan& plan, const std::vector<RowVariances>& variances) {
  double sum = 0;
  for (std::size_t tensor = 0; tensor < plan.size(); ++tensor) {
    sum += sum_at_widths(plan[tensor], variances[tensor]);
  }
  return sum;
}

std::vector<double> WidthComparison::mean_bits(const WidthPlan& plan) {
  std::vector<double> means;
  for (const TensorWidths& tensor : plan) {
    double bits = 0;
    for (std::int64_t row = 0; row < tensor.layout.rows; ++row) {
      bits += tensor.bits(row) * static_cast<double>(tensor.layout.size_of_row(row));
    }
    means.push_back(bits / static_cast<double>(tensor.layout.numel()));
  }
  return means;
}

WidthPlan WidthComparison::make_controlled_plan(WidthPolicy policy, std::int64_t bytes,
                                                const std::vector<double>& gains) const {
  const Cut& cut = cut_of(policy);
  const bool is_per_layer = policy == WidthPolicy::per_layer;
  actpack::AutoPrecision precision({.byte_budget = bytes});
  for (std::size_t tensor = 0; tensor < cut.layouts.size(); ++tensor) {
    precision.add_tensor(cut.layouts[tensor],
                         is_per_layer ? actpack::PrecisionPer::tensor : actpack::PrecisionPer::row);
    for (std::size_t step = 0; step < others_.size(); ++step) {
      precision.observe_noise(tensor, cut.noise[step][tensor]);
    }
    precision.observe_gains(
        tensor, std::vector(static_cast<std::size_t>(cut.layouts[tensor].rows), gains[tensor]));
  }
  precision.step();
  WidthPlan plan;
  for (std::size_t tensor = 0; tensor < cut.layouts.size(); ++tensor) {
    const std::span<const std::uint8_t> row_bits = precision.row_bits(tensor);
    std::vector<std::uint8_t> bits(row_bits.begin(), row_bits.end());
    if (!is_per_layer) {
      precision.allocate_rows(tensor, cut.noise.back()[tensor], bits);
    }
    plan.emplace_back(cut.layouts[tensor], bits);
  }
  return plan;
}

std::int64_t WidthComparison::code_bits(std::int64_t bytes) const {
  std::int64_t bits = 8 * bytes;
  for (const actpack::Layout& layout : by_image_.layouts) {
    std::int64_t most = 0;
    for (const int width : actpack::widths) {
      const actpack::PackedBuffer buffer(
          layout.with_bits(width),
          std::vector(static_cast<std::size_t>(layout.rows), static_cast<std::uint8_t>(width)));
      most = std::max(most, 8 * stored_bytes(buffer) - width * layout.numel());
    }
    bits -= most;
  }
  return bits;
}

WidthPlan WidthComparison::make_actnn_plan(std::int64_t bytes) const {
  const std::vector<actpack::Layout>& layouts = by_image_.layouts;
  const std::size_t images = static_cast<std::size_t>(layouts.front().rows);
  const ActnnStatistics& before = actnn_[actnn_.size() - 2];
  std::vector<double> sensitivity;
  std::vector<std::int64_t> numel;
  for (std::size_t tensor = 0; tensor < layouts.size(); tensor += 2) {
    for (const double norm : before.range_norms[tensor]) {
      sensitivity.push_back(before.layer_factors[tensor / 2] *
                            actpack::rounding_sensitivity(norm, layouts[tensor].group_size));
      numel.push_back(layouts[tensor].row_size +
                      (tensor + 1 < layouts.size() ? layouts[tensor + 1].row_size : 0));
    }
  }
  const std::vector<std::uint8_t> last_bits =
      actpack::allocate_bits({sensitivity, numel, code_bits(bytes)}).bits;
  WidthPlan plan;
  for (std::size_t tensor = 0; tensor < layouts.size(); ++tensor) {
    const auto layer_bits = std::span(last_bits).subspan(tensor / 2 * images, images);
    const std::int64_t budget =
        std::accumulate(layer_bits.begin(), layer_bits.end(), std::int64_t{0});
    const std::vector<std::int64_t> ones(images, 1);
    plan.emplace_back(
        layouts[tensor],
        actpack::allocate_bits({actnn_.back().range_norms[tensor], ones, budget}).bits);
  }
  return plan;
}

WidthPlan WidthComparison::make_plan_by_image(std::int64_t bytes,
                                              const std::vector<double>& gains) const {
  const std::vector<actpack::Layout>& layouts = by_image_.layouts;
  RowVariances variance;
  std::vector<std::int64_t> numel;
  for (const RowVariances& rows : row_variances(WidthPolicy::gradients_known, gains)) {
    variance.insert(variance.end(), rows.begin(), rows.end());
  }
  for (const actpack::Layout& layout : layouts) {
    numel.insert(numel.end(), static_cast<std::size_t>(layout.rows), layout.row_size);
  }
  const std::vector<std::uint8_t> bits =
      actpack::allocate_measured_bits({variance, numel, code_bits(bytes)}).bits;
  WidthPlan plan;
  const std::size_t images = static_cast<std::size_t>(layouts.front().rows);
  for (std::size_t tensor = 0; tensor < layouts.size(); ++tensor) {
    plan.emplace_back(layouts[tensor], std::span(bits).subspan(tensor * images, images));
  }
  return plan;
}

std::vector<WidthReport> compare_widths(Network& network, const Batch& batch,
                                        const std::vector<Batch>& others,
                                        ContextFactory& exact_contexts, const Codec& codec,
                                        std::uint64_t seed, std::int64_t draws,
                                        const std::function<void(std::int64_t)>& progress) {
  WidthComparison comparison(network, batch, others, exact_contexts, codec, seed);
  std::int64_t done = 0;
  std::vector<WidthReport> reports;
  for (const double average_bits : compared_average_bits) {
    std::ranges::move(comparison.compare(average_bits, draws, [&] { progress(++done); }),
                      std::back_inserter(reports));
  }
  return reports;
}

}  // namespace research
