// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The worth of choosing widths: the variance of the whole gradient under several policies, each as
// a ratio to the variance that one width for all gives in as many stored bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "actpack/layout.hpp"
#include "research/drawn_gradients.hpp"
#include "research/recorded_step.hpp"
#include "research/width_plan.hpp"

namespace research {

using namespace trainer;

// The policies that decide on widths. When a batch is packed, a policy knows the batch's values and
// their noise, but gradients only from other batches, which give gains by tensor. The last policy
// alone knows more than it could in training.
enum class WidthPolicy {
  uniform,         // rows of the two widths next to the average, spread evenly
  per_layer,       // one width for each tensor
  per_sample,      // one for each image of each tensor
  per_group,       // one for each group of each tensor
  actnn,           // per sample, by ActNN's sensitivities
  gradients_known  // per sample, by the batch's own gradients, which come after its widths: a bound
};
inline constexpr std::array all_policies{WidthPolicy::uniform,    WidthPolicy::per_layer,
                                         WidthPolicy::per_sample, WidthPolicy::per_group,
                                         WidthPolicy::actnn,      WidthPolicy::gradients_known};
inline constexpr std::array compared_average_bits{1.25, 1.5, 2.0, 3.0};

// The variance of the whole gradient under one policy.
struct WidthReport : DrawnVariance {
  WidthPolicy policy = WidthPolicy::uniform;
  Codec codec;
  double average_bits = 0;  // of the uniform widths, whose stored bytes are the budget
  std::int64_t stored_bytes = 0;
  double predicted = 0;                // Σ gain · noise, with the gains that the policy knows
  double ratio = 1;                    // to uniform's variance
  double ratio_error = 0;              // its standard error
  std::vector<double> bits_by_tensor;  // means over the values
};

// The variances of a tensor's rows at every width.
using RowVariances = std::vector<std::array<double, 4>>;

// The tensors that affine contexts save, in their order: a layer's input, then its batch norm's.
inline const Tensor<float>& saved_tensor(const StepRecord& record, std::size_t tensor) {
  return tensor % 2 == 0 ? record.input(tensor / 2) : record.blocks()[tensor / 2].batch_norm_input;
}

// A batch's tensors cut into rows: of an image each, or, with the tensor as one long line, of a
// group each. Groups then cross from image to image, so that but for the tensor's last none is
// short, and no word is left half empty.
enum class Rows { of_an_image, of_a_group };

std::vector<actpack::Layout> make_layouts(const StepRecord& record, Rows rows,
                                          std::int32_t group_size);

// The noise that rounding adds to the rows of a tensor, as it is read. Where decoding is
// subtractive, the ReLU's mask takes the noise from the zeros of its output again.
RowVariances measure_noise(const StepRecord& record, std::size_t tensor,
                           const actpack::Layout& layout, const Codec& codec);

// One batch that is compressed over and over, and others, for whatever is known of gradients.
class WidthComparison {
 public:
  WidthComparison(Network& network, const Batch& batch, const std::vector<Batch>& others,
                  ContextFactory& exact_contexts, const Codec& codec, std::uint64_t seed);

  // Runs every policy within the bytes that uniform widths of `average_bits` take. Calls progress()
  // after each draw.
  std::vector<WidthReport> compare(double average_bits, std::int64_t draws,
                                   const std::function<void()>& progress);

  // Rows of an image with the widths that the controller starts with.
  WidthPlan make_uniform_plan(double average_bits) const;

  // The gain of each tensor in the variance of the whole gradient, and thus with all that its noise
  // does to earlier layers: by perturbation in the other batches.
  std::vector<double> measure_gains(const WidthPlan& plan);

  // In no more bytes than `uniform` takes.
  WidthPlan make_plan(WidthPolicy policy, const WidthPlan& uniform,
                      const std::vector<double>& gains) const;

 private:
  // One way to cut tensors into rows, and the rows' noise in each batch, the compressed one last.
  struct Cut {
    Rows rows;
    std::vector<actpack::Layout> layouts = {};
    std::vector<std::vector<RowVariances>> noise = {};
  };

  // ActNN's knowledge of a step.
  struct ActnnStatistics {
    ActnnStatistics(const StepRecord& record, const std::vector<actpack::Layout>& layouts);

    std::vector<std::vector<double>> range_norms;  // [tensor][image]
    std::vector<double> layer_factors;  // kernel area / pixels · mean squared norm of the gradient
  };

  void observe(const StepRecord& record);

  const Cut& cut_of(WidthPolicy policy) const;

  // So that Σ gain · noise is Σ noise; at 2 bits, but widths make little difference here.
  static std::vector<double> relative_to_mean(std::vector<double> gains, const RowVariances& noise);

  // The variance that rounding the compressed batch's rows adds to the gradient, as far as the
  // policy knows.
  std::vector<RowVariances> row_variances(WidthPolicy policy,
                                          const std::vector<double>& gains) const;

  static double sum_at_widths(const TensorWidths& tensor, const RowVariances& variances);
  static double predict(const WidthPlan& plan, const std::vector<RowVariances>& variances);

  static std::vector<double> mean_bits(const WidthPlan& plan);

  // As in training, by actpack's controller: it knows the other batches, and rows that differ from
  // step to step are given what is best for the noise that they have now.
  WidthPlan make_controlled_plan(WidthPolicy policy, std::int64_t bytes,
                                 const std::vector<double>& gains) const;

  // The bits that `bytes` leave for codes if every row has a width of its own.
  std::int64_t code_bits(std::int64_t bytes) const;

  // ActNN's way. After each step it allocates bits to all images of all layers, and remembers each
  // layer's total alone. In the next forward pass each layer divides its total among the images by
  // their ranges, and each batch norm divides as many as the layer before it. Unlike in ActNN, that
  // layer also decides the batch norm's bits.
  WidthPlan make_actnn_plan(std::int64_t bytes) const;

  // For all images of all tensors at once.
  WidthPlan make_plan_by_image(std::int64_t bytes, const std::vector<double>& gains) const;

  Network& network_;
  const Batch& batch_;
  const std::vector<Batch>& others_;
  Codec codec_;
  Contexts contexts_;  // one for all policies: no two draws are rounded alike
  std::vector<float> exact_;
  Cut by_image_{Rows::of_an_image};
  Cut by_group_{Rows::of_a_group};
  std::vector<ActnnStatistics> actnn_;            // of each batch, the compressed one last
  std::vector<std::vector<double>> image_gains_;  // [tensor][image] relative to the mean
};

inline constexpr std::int64_t compared_variances =
    std::int64_t{all_policies.size()} * std::int64_t{compared_average_bits.size()};

// All policies at all averages; calls progress(draws done), compared_variances · draws at the end.
std::vector<WidthReport> compare_widths(Network& network, const Batch& batch,
                                        const std::vector<Batch>& others,
                                        ContextFactory& exact_contexts, const Codec& codec,
                                        std::uint64_t seed, std::int64_t draws,
                                        const std::function<void(std::int64_t)>& progress);

}  // namespace research
