// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small transformer on bytes of text with its activations saved in full precision and by
// actpack, and shows what that does to loss, memory and time.

#include <omp.h>

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
#include "common/memory.hpp"
#include "common/progress.hpp"
#include "train_gpt/activation_store.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/options.hpp"
#include "train_gpt/ranks.hpp"
#include "train_gpt/report.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/text.hpp"
#include "train_gpt/training.hpp"

namespace {

using namespace gpt;
using trainer::Checkpoint;
using trainer::Progress;

const SavePolicy full_precision = SavePolicy::all(SavePolicy::full_precision);

class Experiment {
 public:
  Experiment(const Options& options, const Text& text, const Ranks& ranks)
      : options_(options), text_(text), ranks_(ranks), ways_(planned_ways(options)) {
    for (const std::string& file : {options.json, options.checkpoint.file}) {
      if (!file.empty() && ranks.rank() == 0) {
        trainer::require_writable(file);  // before the work, not after it
      }
    }
    if (!options.checkpoint.resumed_file.empty()) {
      resumed_.emplace(options.checkpoint.resumed_file);
      visit(*resumed_);
    }
    const Way exact = measured(full_precision);
    saved_bytes_ = exact.saved_bytes;
    peak_bytes_ = exact.peak_bytes;
  }

  void execute() {
    for (; done_ < ways_.size(); ++done_) {
      execute(ways_[done_]);
    }
    print_table(ways_, saved_bytes_, peak_bytes_, std::cout);
    if (!options_.json.empty() && ranks_.rank() == 0) {
      trainer::write_file(options_.json, [&](std::ostream& out) {
        write_json(options_, text_.origin, ways_, out);
      });
    }
  }

 private:
  void execute(Way& way) {
    if (options_.training.steps == 0) {
      const Way step = measured(way.policy);
      way.saved_bytes = step.saved_bytes;
      way.peak_bytes = step.peak_bytes;
    }
    while (way.reports.size() < options_.seeds.size()) {
      const std::uint64_t seed = options_.seeds[way.reports.size()];
      Model model(options_.shape, seed);
      way.reports.push_back(train(way, seed, model));
      way.saved_bytes = std::max(way.saved_bytes, way.reports.back().saved_bytes);
      way.peak_bytes = std::max(way.peak_bytes, way.reports.back().peak_bytes);
      way.validation_losses.push_back(
          validation_loss(model, text_.validation(), options_.validation_windows, ranks_));
    }
  }

  TrainingReport train(const Way& way, std::uint64_t seed, Model& model) {
    ActivationStore store = make_store(way.policy, seed);
    TrainingSetting setting = options_.training;
    setting.seed = seed;
    Training training(model, text_.training(), setting, store, ranks_);
    if (resumed_) {
      training.visit(*resumed_);
      resumed_->require_end();
      resumed_.reset();
    }
    Progress progress(way.name + ", seed " + std::to_string(seed), setting.steps, "steps",
                      training.done());
    while (!training.is_over()) {
      training.step();
      progress(training.done());
      if (options_.checkpoint.is_due(training.done(), setting.steps)) {
        Checkpoint checkpoint;
        visit(checkpoint);
        training.visit(checkpoint);
        if (ranks_.rank() == 0) {
          checkpoint.write(options_.checkpoint.file);
        }
      }
    }
    return training.report();
  }

  // All but the training that is under way.
  void visit(Checkpoint& checkpoint) {
    Options same = options_;
    checkpoint.require_same("program", "train_gpt");
    checkpoint.require_same(flags(same));
    checkpoint.require_same("a number of ranks of", std::to_string(ranks_.size()));
    checkpoint.require_same("a checksum of data",
                            std::to_string(trainer::checksum_of(text_.bytes)));
    checkpoint.visit("ways", done_);
    for (std::size_t way = 0; way < std::min(done_ + 1, ways_.size()); ++way) {
      ways_[way].visit(checkpoint);
    }
  }

  ActivationStore make_store(const SavePolicy& policy, std::uint64_t seed) const {
    SavePolicy own = policy;
    own.is_stochastic = options_.is_stochastic;
    own.is_subtractive = options_.is_subtractive;
    return {options_.shape, own, seed, ranks_.rank(),
            [this](std::span<double> values) { ranks_.sum(values); }};
  }

  Batch next_batch(std::uint64_t seed) const {
    WindowStream stream(text_.training(), options_.shape.context, seed);
    return stream.next(options_.training.batch / ranks_.size());
  }

  // One step, without training.
  Way measured(const SavePolicy& policy) const {
    Model model(options_.shape, 0);
    ActivationStore store = make_store(policy, 0);
    const trainer::StepReport step = model.forward_backward(next_batch(0), store);
    Way way;
    way.saved_bytes = step.saved_bytes;
    way.peak_bytes = step.peak_bytes;
    return way;
  }

  const Options& options_;
  const Text& text_;
  const Ranks& ranks_;
  std::vector<Way> ways_;
  std::size_t done_ = 0;  // ways
  std::optional<Checkpoint> resumed_;
  std::int64_t saved_bytes_ = 0;
  std::int64_t peak_bytes_ = 0;
};

void work(const Options& options, const Ranks& ranks) {
  if (options.training.batch % ranks.size() != 0) {
    throw trainer::OptionError("--batch " + std::to_string(options.training.batch) +
                               ": expected a multiple of the " + std::to_string(ranks.size()) +
                               " ranks");
  }
  omp_set_num_threads(options.threads);
  trainer::memory::keep_freed_memory();
  const Text text = load_text(options.data, std::cout);
  Experiment(options, text, ranks).execute();
}

}  // namespace

int main(int count, char** arguments) {
  return run_on_ranks("train_gpt", count, arguments, [](auto own_arguments, const Ranks& ranks) {
    const Options options = parse_options(own_arguments);
    if (options.wants_help) {
      std::cout << help();
    } else {
      work(options, ranks);
    }
    return EXIT_SUCCESS;
  });
}
