// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small transformer on bytes of text with its activations kept in full precision and by
// actpack, and shows what that does to loss, memory and time; or checks the gradient kind by kind
// of tensor; or fills a memory budget. saved_tensor.hpp is where actpack plugs in.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "activation_store.hpp"
#include "budget.hpp"
#include "gradient_check.hpp"
#include "keeping.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "ranks.hpp"
#include "report.hpp"
#include "text.hpp"
#include "training.hpp"

namespace {

using namespace gpt;
using trainer::Progress;

const Keeping full_precision = Keeping::all(Keeping::full_precision);
constexpr std::int64_t steps_before_check = 300;  // of gradients, the first of the run's

// The ways that were asked for, with nothing measured yet.
std::vector<Way> planned_ways(const Options& options) {
  std::vector<Way> ways;
  const auto plan = [&](const std::string& name, const Keeping& keeping) {
    ways.emplace_back();
    ways.back().name = name;
    ways.back().keeping = options.adapted(keeping);
  };
  if (options.average_bits > 0) {
    plan(format("%g bits on average", options.average_bits),
         Keeping::on_average(options.average_bits));
  } else if (options.bits != 0) {
    plan(options.bits == Keeping::full_precision ? "full precision"
                                                 : format("%d bits", options.bits),
         Keeping::shipped(options.bits));
  } else {
    plan("full precision", full_precision);
    for (const int bits : {8, 4, 2}) {
      plan(format("%d bits", bits), Keeping::shipped(bits));
    }
    plan("2 bits on average", Keeping::on_average(2));
  }
  return ways;
}

// What is rounded in the check of gradients, all other tensors being exact; then all together.
std::vector<std::pair<std::string, Keeping>> roundings_to_check() {
  std::vector<std::pair<std::string, Keeping>> all;
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    for (const int bits : {2, 4, 8}) {
      Keeping keeping = full_precision;
      keeping.bits[kind] = bits;
      all.emplace_back(std::string(kind_names[kind]) + format(" alone, %d bits", bits), keeping);
    }
  }
  for (const auto& [name, gelu] : {std::pair{"GELU's input", Keeping::Gelu::input},
                                   {"with its sign", Keeping::Gelu::input_with_sign}}) {
    for (const int bits : {2, 4, 8}) {
      Keeping keeping = full_precision;
      keeping.bits_of(Kind::gelu) = bits;
      keeping.gelu = gelu;
      all.emplace_back(std::string(name) + format(" alone, %d bits", bits), keeping);
    }
  }
  for (const int bits : {2, 4, 8}) {
    all.emplace_back(format("all, %d bits", bits), Keeping::all(bits));
    all.emplace_back(format("all as --bits %d", bits), Keeping::shipped(bits));
  }
  return all;
}

class Experiment {
 public:
  Experiment(const Options& options, const Text& text, const Ranks& ranks)
      : options_(options), text_(text), ranks_(ranks) {
    const Way exact = measured(full_precision);
    stored_bytes_ = exact.stored_bytes;
    peak_bytes_ = exact.peak_bytes;
  }

  std::int64_t full_stored_bytes() const { return stored_bytes_; }
  std::int64_t full_peak_bytes() const { return peak_bytes_; }

  void execute(Way& way) const {
    if (options_.training.steps == 0) {
      const Way step = measured(way.keeping);
      way.stored_bytes = step.stored_bytes;
      way.peak_bytes = step.peak_bytes;
    }
    for (const std::uint64_t seed : options_.seeds) {
      Model model(options_.shape, seed);
      ActivationStore store = make_store(way.keeping, seed);
      TrainingSetting setting = options_.training;
      setting.seed = seed;
      Progress progress(way.name + ", seed " + std::to_string(seed), setting.steps, "steps");
      way.reports.push_back(train(model, text_.training(), setting, store, ranks_,
                                  [&](std::int64_t done) { progress(done); }));
      way.stored_bytes = std::max(way.stored_bytes, way.reports.back().stored_bytes);
      way.peak_bytes = std::max(way.peak_bytes, way.reports.back().peak_bytes);
      way.validation_losses.push_back(
          validation_loss(model, text_.validation(), options_.validation_windows, ranks_));
    }
  }

  void check_gradients() const {
    const std::uint64_t seed = options_.seeds.front();
    Model model(options_.shape, seed);
    ActivationStore exact_store = make_store(full_precision, seed);
    {
      TrainingSetting setting = options_.training;
      setting.seed = seed;
      setting.steps = std::min(setting.steps, steps_before_check);
      Progress progress("training for the check", setting.steps, "steps");
      train(model, text_.training(), setting, exact_store, ranks_,
            [&](std::int64_t done) { progress(done); });
    }
    const Batch batch = next_batch(~seed);
    model.forward_backward(batch, exact_store);
    const std::vector<float> exact(model.gradients().begin(), model.gradients().end());
    const auto roundings = roundings_to_check();
    const std::int64_t draws = options_.check_gradient;
    const std::int64_t all_draws = draws * static_cast<std::int64_t>(roundings.size());
    print_gradient_heading(draws, std::cout);
    std::int64_t done = 0;
    for (const auto& [name, keeping] : roundings) {
      ActivationStore store = make_store(keeping, seed);
      Progress progress("gradient check", all_draws, "gradients");
      GradientReport report =
          check_gradient(model, batch, exact, store, draws, [&] { progress(++done); });
      report.name = name;
      print_gradient_report(report, std::cout);
    }
    print_gradient_legend(std::cout);
  }

 private:
  ActivationStore make_store(const Keeping& keeping, std::uint64_t seed) const {
    Keeping own = keeping;
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
  Way measured(const Keeping& keeping) const {
    Model model(options_.shape, 0);
    ActivationStore store = make_store(keeping, 0);
    const StepReport step = model.forward_backward(next_batch(0), store);
    Way way;
    way.stored_bytes = step.stored_bytes;
    way.peak_bytes = step.peak_bytes;
    return way;
  }

  const Options& options_;
  const Text& text_;
  const Ranks& ranks_;
  std::int64_t stored_bytes_ = 0;
  std::int64_t peak_bytes_ = 0;
};

void print_budget(const Options& options) {
  const double bytes = options.memory_budget * 1024 * 1024;
  std::cout << format(
                   "The most whose step fits in %g MiB beyond parameters, optimizer and scratch\n",
                   options.memory_budget)
            << format("%-26s %10s %10s\n", "activations kept in", "sequences", "layers");
  for (const Way& way : planned_ways(options)) {
    print_budget_row(way.name,
                     fill_budget(options.shape, options.training.batch, way.keeping,
                                 static_cast<std::int64_t>(bytes)),
                     std::cout);
  }
  std::cout << format("sequences of %lld tokens with %lld layers; layers with %lld sequences\n",
                      static_cast<long long>(options.shape.context),
                      static_cast<long long>(options.shape.layers),
                      static_cast<long long>(options.training.batch));
}

void run_trainings(const Options& options, const Text& text, const Ranks& ranks) {
  std::ofstream json;
  if (!options.json.empty() && ranks.rank() == 0) {
    json.open(options.json);  // before the work, not after it
    if (!json) {
      throw std::runtime_error("--json " + options.json + ": cannot be written");
    }
  }
  const Experiment experiment(options, text, ranks);
  std::vector<Way> ways = planned_ways(options);
  for (Way& way : ways) {
    experiment.execute(way);
  }
  print_table(ways, experiment.full_stored_bytes(), experiment.full_peak_bytes(), std::cout);
  if (json.is_open()) {
    write_json(options, text.origin, ways, json);
  }
}

void run_program(const Options& options, const Ranks& ranks) {
  if (options.training.batch % ranks.size() != 0) {
    throw OptionError("--batch " + std::to_string(options.training.batch) +
                      ": expected a multiple of the " + std::to_string(ranks.size()) + " ranks");
  }
  omp_set_num_threads(options.threads);
  trainer::memory::keep_freed_memory();
  const char* environment = std::getenv("ACTPACK_DATA_DIR");
  const Text text = load_text(options.data, environment == nullptr ? "" : environment);
  std::cout << "Text: " << text.origin << ", " << text.training().size() << " + "
            << text.validation().size() << " bytes" << std::endl;
  if (options.memory_budget > 0) {
    print_budget(options);
  } else if (options.check_gradient > 0) {
    Experiment(options, text, ranks).check_gradients();
  } else {
    run_trainings(options, text, ranks);
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  const Ranks ranks(&argument_count, &arguments);
  if (ranks.rank() != 0) {
    std::cout.setstate(std::ios::failbit);  // one rank speaks for all
  }
  try {
    const Options options = parse_options(
        std::span<const char* const>(arguments, static_cast<std::size_t>(argument_count))
            .subspan(1));
    if (options.wants_help) {
      std::cout << help();
    } else {
      run_program(options, ranks);
    }
  } catch (const std::exception& error) {
    std::cerr << "train_gpt: " << error.what() << "\n";
    ranks.abort();
  }
  return EXIT_SUCCESS;
}
