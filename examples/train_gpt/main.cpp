// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small transformer on bytes of text with its activations saved in full precision and by
// actpack, and shows what that does to loss, memory and time.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "common/memory.hpp"
#include "common/program.hpp"
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
using trainer::Progress;

const SavePolicy full_precision = SavePolicy::all(SavePolicy::full_precision);

class Experiment {
 public:
  Experiment(const Options& options, const Text& text, const Ranks& ranks)
      : options_(options), text_(text), ranks_(ranks) {
    const Way exact = measured(full_precision);
    saved_bytes_ = exact.saved_bytes;
    peak_bytes_ = exact.peak_bytes;
  }

  std::int64_t full_saved_bytes() const { return saved_bytes_; }
  std::int64_t full_peak_bytes() const { return peak_bytes_; }

  void execute(Way& way) const {
    if (options_.training.steps == 0) {
      const Way step = measured(way.policy);
      way.saved_bytes = step.saved_bytes;
      way.peak_bytes = step.peak_bytes;
    }
    for (const std::uint64_t seed : options_.seeds) {
      Model model(options_.shape, seed);
      ActivationStore store = make_store(way.policy, seed);
      TrainingSetting setting = options_.training;
      setting.seed = seed;
      Progress progress(way.name + ", seed " + std::to_string(seed), setting.steps, "steps");
      way.reports.push_back(train(model, text_.training(), setting, store, ranks_,
                                  [&](std::int64_t done) { progress(done); }));
      way.saved_bytes = std::max(way.saved_bytes, way.reports.back().saved_bytes);
      way.peak_bytes = std::max(way.peak_bytes, way.reports.back().peak_bytes);
      way.validation_losses.push_back(
          validation_loss(model, text_.validation(), options_.validation_windows, ranks_));
    }
  }

 private:
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
  std::int64_t saved_bytes_ = 0;
  std::int64_t peak_bytes_ = 0;
};

void run_trainings(const Options& options, const Text& text, const Ranks& ranks) {
  std::ofstream json;
  if (!options.json.empty() && ranks.rank() == 0) {
    json = trainer::open_for_writing(options.json);  // before the work, not after it
  }
  const Experiment experiment(options, text, ranks);
  std::vector<Way> ways = planned_ways(options);
  for (Way& way : ways) {
    experiment.execute(way);
  }
  print_table(ways, experiment.full_saved_bytes(), experiment.full_peak_bytes(), std::cout);
  if (json.is_open()) {
    write_json(options, text.origin, ways, json);
  }
}

void work(const Options& options, const Ranks& ranks) {
  if (options.training.batch % ranks.size() != 0) {
    throw trainer::OptionError("--batch " + std::to_string(options.training.batch) +
                               ": expected a multiple of the " + std::to_string(ranks.size()) +
                               " ranks");
  }
  omp_set_num_threads(options.threads);
  trainer::memory::keep_freed_memory();
  const Text text = load_text(options.data, std::cout);
  run_trainings(options, text, ranks);
}

}  // namespace

int main(int count, char** arguments) {
  const Ranks ranks(&count, &arguments);
  if (ranks.rank() != 0) {
    std::cout.setstate(std::ios::failbit);  // one rank speaks for all
  }
  const int status = trainer::run_program("train_gpt", count, arguments, [&](auto own_arguments) {
    const Options options = parse_options(own_arguments);
    if (options.wants_help) {
      std::cout << help();
    } else {
      work(options, ranks);
    }
    return EXIT_SUCCESS;
  });
  if (status != EXIT_SUCCESS) {
    ranks.abort();
  }
  return status;
}
