// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small convolutional network on Fashion-MNIST with its activations saved in full
// precision, by actpack and by others, and shows what that does to accuracy, memory and time.

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "common/loss_curve.hpp"
#include "common/program.hpp"
#include "train_fashion_mnist/experiment.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_fashion_mnist/report.hpp"

namespace {

using namespace trainer;

// Trains or, without epochs, measures one step; then tests.
void execute(Run& run, const Options& options, const Experiment& experiment) {
  Network network = experiment.make_network();
  Contexts contexts = experiment.make_contexts(run.codec);
  if (options.epochs == 0) {
    const StepReport step = experiment.measure_step(run.codec);
    run.saved_bytes = step.saved_bytes;
    run.peak_bytes = step.peak_bytes;
  } else {
    const std::int64_t steps = options.epochs * experiment.batches().batches_per_epoch();
    static_cast<TrainingReport&>(run) = experiment.train(network, steps, steps, contexts, run.name);
    run.seconds_per_epoch = run.seconds / static_cast<double>(options.epochs);
    run.codec_seconds_per_epoch = run.codec_seconds / static_cast<double>(options.epochs);
  }
  run.test_accuracy = experiment.test_accuracy(network);
}

void compare(const Options& options) {
  ResultFiles files(options.json);  // before the work, not after it
  Experiment experiment(options);
  Codec lean;
  lean.context = Codec::Context::lean;
  const std::int64_t saved_bytes_fp32 =
      experiment.measure_step(Codec::full_precision()).saved_bytes;
  const std::int64_t saved_bytes_lean = experiment.measure_step(lean).saved_bytes;
  std::vector<Run> runs = planned_runs(options);
  std::vector<LossCurve> curves;
  for (Run& run : runs) {
    execute(run, options, experiment);
    run.saved_bytes_fp32 = saved_bytes_fp32;
    run.saved_bytes_lean = saved_bytes_lean;
    curves.push_back({run.name, run.losses});
  }
  print_table(runs, std::cout);
  write_json(options, experiment.data().origin, runs, files.json);
  write_loss_curves(curves, files.picture);
  std::cout << "Results in " << options.json << ", loss curves in " << files.picture_path
            << std::endl;
}

}  // namespace

int main(int count, char** arguments) {
  return run_program("train_fashion_mnist", count, arguments, [](auto own_arguments) {
    const Options options = parse_options(own_arguments);
    if (options.wants_help) {
      std::cout << help();
    } else {
      compare(options);
    }
    return EXIT_SUCCESS;
  });
}
