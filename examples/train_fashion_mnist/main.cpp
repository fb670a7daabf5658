// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small convolutional network on Fashion-MNIST with its activations saved in full
// precision, by actpack and by others, and shows what that does to accuracy, memory and time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/files.hpp"
#include "common/loss_curve.hpp"
#include "common/program.hpp"
#include "common/progress.hpp"
#include "train_fashion_mnist/experiment.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_fashion_mnist/report.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;

class Comparison {
 public:
  explicit Comparison(const Options& options)
      : options_(options), files_(options.json), experiment_(options),
        runs_(planned_runs(options_)) {
    if (!options.checkpoint.file.empty()) {
      require_writable(options.checkpoint.file);
    }
    if (!options.checkpoint.resumed_file.empty()) {
      resumed_.emplace(options.checkpoint.resumed_file);
      visit(*resumed_);
    }
  }

  // Executes what is left of the runs, and leaves the results.
  void execute() {
    Codec lean;
    lean.context = Codec::Context::lean;
    const std::int64_t saved_bytes_fp32 =
        experiment_.measure_step(Codec::full_precision()).saved_bytes;
    const std::int64_t saved_bytes_lean = experiment_.measure_step(lean).saved_bytes;
    for (; done_ < runs_.size(); ++done_) {
      execute(runs_[done_]);
    }
    std::vector<LossCurve> curves;
    for (Run& run : runs_) {
      run.saved_bytes_fp32 = saved_bytes_fp32;
      run.saved_bytes_lean = saved_bytes_lean;
      curves.push_back({run.name, run.losses});
    }
    print_table(runs_, std::cout);
    files_.write(
        [&](std::ostream& out) { write_json(options_, experiment_.data().origin, runs_, out); },
        [&](std::ostream& out) { write_loss_curves(curves, out); });
  }

 private:
  // Trains or, without epochs, measures one step; then tests.
  void execute(Run& run) {
    Network network = experiment_.make_network();
    Contexts contexts = experiment_.make_contexts(run.codec);
    if (options_.epochs == 0) {
      const StepReport step = experiment_.measure_step(run.codec);
      run.saved_bytes = step.saved_bytes;
      run.peak_bytes = step.peak_bytes;
    } else {
      train(run, network, contexts);
    }
    run.test_accuracy = experiment_.test_accuracy(network);
  }

  void train(Run& run, Network& network, Contexts& contexts) {
    const std::int64_t steps = options_.epochs * experiment_.batches().batches_per_epoch();
    Training training = experiment_.make_training(network, steps, contexts);
    if (resumed_) {
      training.visit(*resumed_);
      resumed_->require_end();
      resumed_.reset();
    }
    Progress progress(run.name, steps * batch_size, "images", training.done() * batch_size);
    while (!training.is_over()) {
      training.step();
      progress(training.done() * batch_size);
      if (options_.checkpoint.is_due(training.done(), steps)) {
        Checkpoint checkpoint;
        visit(checkpoint);
        training.visit(checkpoint);
        checkpoint.write(options_.checkpoint.file);
      }
    }
    static_cast<TrainingReport&>(run) = training.report();
    run.seconds_per_epoch = run.seconds / static_cast<double>(options_.epochs);
    run.codec_seconds_per_epoch = run.codec_seconds / static_cast<double>(options_.epochs);
  }

  // All but the training that is under way.
  void visit(Checkpoint& checkpoint) {
    checkpoint.require_same("program", "train_fashion_mnist");
    checkpoint.require_same(flags(options_));
    checkpoint.require_same("a checksum of data", std::to_string(experiment_.data().checksum()));
    checkpoint.visit("runs", done_);
    for (std::size_t run = 0; run < std::min(done_, runs_.size()); ++run) {
      runs_[run].visit(checkpoint);
    }
  }

  Options options_;
  ResultFiles files_;
  Experiment experiment_;
  std::vector<Run> runs_;
  std::size_t done_ = 0;  // runs
  std::optional<Checkpoint> resumed_;
};

}  // namespace

int main(int count, char** arguments) {
  return run_program("train_fashion_mnist", count, arguments, [](auto own_arguments) {
    const Options options = parse_options(own_arguments);
    if (options.wants_help) {
      std::cout << help();
    } else {
      Comparison(options).execute();
    }
    return EXIT_SUCCESS;
  });
}
