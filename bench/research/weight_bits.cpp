// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Rounds one layer's weights after training, each row to a width of its own, and shows the accuracy
// beside that of the same bytes spent without looking.
//
// Per bit, the step from 1 to 2 bits saves 17 times the error that the step from 2 to 4 saves. Rows
// that differ by less have nothing to trade at 2 bits on average, and the bytes that store their
// widths are taken from the codes. Between the widths, allocation decides which row is wider.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "actpack/actpack.hpp"
#include "common/program.hpp"
#include "train_fashion_mnist/experiment.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;

constexpr std::int64_t gradient_batches = 32;  // at most; they tell which rows matter

struct Layer {
  Parameter& weight;
  actpack::Layout rows;
};

// The largest convolution. A row is what lies next to each other in memory: the weights, one for
// each output channel, of one tap and input channel.
Layer largest_convolution(Network& network) {
  const std::vector<Parameter*> parameters = network.parameters();
  const auto largest = std::ranges::max_element(
      parameters, {}, [](const Parameter* parameter) { return parameter->value.numel(); });
  const std::int64_t weights = (*largest)->value.numel();
  const Parameter& gamma = **std::next(largest);  // of the batch norm behind it, by channel
  const std::int64_t channels = gamma.value.numel();
  return {**largest,
          {.rows = weights / channels,
           .row_size = channels,
           .group_size = static_cast<std::int32_t>(channels)}};
}

// The rise in loss from rounding a row's weights to one bit, up to a factor for all rows: the
// rounding errors that its range leads to, times the mean square of its weights' gradients over
// some batches, which stands for the loss's second derivative.
std::vector<double> measure_sensitivity(const Layer& layer, Network& network, BatchStream batches) {
  Contexts contexts(Codec::full_precision(), 0);
  const std::span<const float> weights = layer.weight.value.span();
  const std::span<const float> gradient = layer.weight.gradient.span();
  const std::size_t row_size = static_cast<std::size_t>(layer.rows.row_size);
  std::vector<double> gain(static_cast<std::size_t>(layer.rows.rows));
  for (auto left = std::min(gradient_batches, batches.batches_per_epoch()); left > 0; --left) {
    run_step(network, batches, contexts);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      gain[i / row_size] += std::pow(double{gradient[i]}, 2);
    }
  }
  std::vector<double> sensitivity;
  for (std::size_t row = 0; row < gain.size(); ++row) {
    const auto [min, max] = std::ranges::minmax(weights.subspan(row * row_size, row_size));
    // To nearest: half the error of stochastic rounding.
    sensitivity.push_back(
        gain[row] *
        actpack::rounding_sensitivity(std::pow(max - min, 2), static_cast<double>(row_size)) / 2);
  }
  return sensitivity;
}

// The network with its layer's weights rounded in one way or another.
class RoundedNetwork {
 public:
  struct Outcome {
    std::size_t bytes = 0;  // of codes, parameters and widths
    double squared_error = 0;
    double accuracy = 0;
  };

  RoundedNetwork(Network& network, const Layer& layer, const Experiment& experiment)
      : network_(network), layer_(layer), experiment_(experiment),
        weights_(layer.weight.value.span().begin(), layer.weight.value.span().end()) {}

  // Rounds the weights into `packed` and decodes them for the network.
  Outcome round(actpack::PackedBuffer packed) {
    const std::span<float> rounded = layer_.weight.value.span();
    actpack::quantize(weights_, packed.view(), actpack::Rounding::nearest());
    actpack::dequantize(packed.view(), rounded);
    Outcome outcome{.bytes = packed.size_bytes(), .accuracy = accuracy()};
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      outcome.squared_error += std::pow(double{rounded[i]} - double{weights_[i]}, 2);
    }
    return outcome;
  }

  double accuracy() { return experiment_.test_accuracy(network_); }

  void print(const std::string& name, const Outcome& outcome) const {
    std::printf("%-28s %11.3f %13.1f %10.2f %%\n", name.c_str(),
                8 * static_cast<double>(outcome.bytes) / static_cast<double>(weights_.size()),
                outcome.squared_error, outcome.accuracy);
  }

 private:
  Network& network_;
  const Layer& layer_;
  const Experiment& experiment_;
  const std::vector<float> weights_;
};

using Widths = std::vector<std::uint8_t>;

// One half of the rows at one width and the other half at another, by their place alone.
Widths halves(std::int64_t rows, int first, int second) {
  Widths bits(static_cast<std::size_t>(rows), static_cast<std::uint8_t>(first));
  std::fill(bits.begin() + rows / 2, bits.end(), static_cast<std::uint8_t>(second));
  return bits;
}

// The best widths for a packed tensor of at most so many bytes.
actpack::Allocation allocate(const Layer& layer, const std::vector<double>& sensitivity,
                             std::size_t bytes) {
  const actpack::Layout& rows = layer.rows;
  const std::vector<std::int64_t> numel(sensitivity.size(), rows.row_size);
  const std::int64_t other_bytes = 4 * rows.num_groups() + rows.rows;
  return actpack::allocate_bits(
      {.sensitivity = sensitivity,
       .numel = numel,
       .bit_budget = 8 * (static_cast<std::int64_t>(bytes) - other_bytes)});
}

// Prints the table. Returns whether allocated widths are what they claim to be: not worse, by the
// measure they were chosen by, than widths by place, and not larger.
bool compare(RoundedNetwork& network, const Layer& layer, const std::vector<double>& sensitivity) {
  bool is_right = true;
  const auto packed = [&](const Widths& bits) {
    return actpack::PackedBuffer(layer.rows.with_bits(8), bits);
  };
  const auto print_uniform = [&](const std::string& name, int bits) {
    const RoundedNetwork::Outcome outcome =
        network.round(actpack::PackedBuffer(layer.rows.with_bits(bits)));
    network.print(name, outcome);
    return outcome.bytes;
  };
  const auto print_allocated = [&](std::size_t bytes) {
    const actpack::Allocation allocation = allocate(layer, sensitivity, bytes);
    const RoundedNetwork::Outcome outcome = network.round(packed(allocation.bits));
    network.print("  allocated", outcome);
    is_right &= outcome.bytes <= bytes;
    return allocation.variance;
  };
  // The better of both: the test set itself chooses.
  const auto print_halves = [&](const std::string& name, int narrow, int wide) {
    RoundedNetwork::Outcome best;
    double least_variance = INFINITY;
    for (const Widths& bits :
         {halves(layer.rows.rows, narrow, wide), halves(layer.rows.rows, wide, narrow)}) {
      const RoundedNetwork::Outcome outcome = network.round(packed(bits));
      if (outcome.accuracy >= best.accuracy) best = outcome;
      double variance = 0;
      for (std::size_t row = 0; row < bits.size(); ++row) {
        variance += actpack::variance_at(sensitivity[row], bits[row]);
      }
      least_variance = std::min(least_variance, variance);
    }
    network.print(name + ", one half wider", best);
    is_right &= print_allocated(best.bytes) <= least_variance;
  };
  print_uniform("1 bit", 1);
  print_halves("1.5 bits", 1, 2);
  print_allocated(print_uniform("2 bits", 2));
  print_halves("3 bits", 2, 4);
  print_uniform("4 bits", 4);
  return is_right;
}

bool round_and_compare(const Options& options) {
  const Experiment experiment(options);
  Network network = experiment.make_network();
  Contexts contexts = experiment.make_contexts(options.codec);
  const BatchStream batches = experiment.batches();
  const std::int64_t steps = options.epochs * batches.batches_per_epoch();
  experiment.train(network, steps, steps, contexts, "training");
  const Layer layer = largest_convolution(network);
  const std::vector<double> sensitivity = measure_sensitivity(layer, network, batches);
  const auto [least, most] = std::ranges::minmax(sensitivity);
  std::printf("%lld weights in rows of %lld, the most sensitive row %.0f times the least\n",
              static_cast<long long>(layer.rows.numel()),
              static_cast<long long>(layer.rows.row_size), most / least);
  std::printf("%-28s %11s %13s %12s\n", "bits on average, by row", "stored", "squared error",
              "accuracy");
  RoundedNetwork rounded(network, layer, experiment);
  const std::size_t float_bytes = static_cast<std::size_t>(4 * layer.rows.numel());
  rounded.print("float", {.bytes = float_bytes, .accuracy = rounded.accuracy()});
  return compare(rounded, layer, sensitivity);
}

}  // namespace

int main(int count, char** arguments) {
  return run_program("weight_bits", count, arguments, [](auto own_arguments) {
    std::vector<const char*> all = {"--epochs", "1", "--bits", "32"};  // the defaults here
    all.insert(all.end(), own_arguments.begin(), own_arguments.end());
    Options options;
    std::vector<Flag> known = flags(options);
    std::erase_if(known, [](const Flag& flag) { return flag.name == "--json"; });
    if (!set_options(options, known, all)) {
      std::cout << "Rounds the weights of a trained layer. Takes the flags of train_fashion_mnist; "
                   "trains one\nepoch in full precision unless they say otherwise.\n\n"
                << describe(known);
      return EXIT_SUCCESS;
    }
    return round_and_compare(options) ? EXIT_SUCCESS : EXIT_FAILURE;
  });
}
