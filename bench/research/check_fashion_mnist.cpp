// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the codecs that train_fashion_mnist compares, without training with them: how far the
// means of compressed gradients are from the exact gradient, and how much fits into a memory
// budget.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "common/files.hpp"
#include "common/json.hpp"
#include "common/program.hpp"
#include "common/progress.hpp"
#include "research/gradient_check.hpp"
#include "research/largest_that_fits.hpp"
#include "research/options.hpp"
#include "research/trained_experiment.hpp"
#include "train_fashion_mnist/report.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using namespace research;

struct Check {
  Run run;
  std::vector<GradientError> gradient_error = {};
  std::int64_t largest_batch = 0;  // within the memory budget, at the depth that was asked for
  std::int64_t largest_depth = 0;  // the same with batches of the usual size
};

// On one batch and one network for all codecs.
void measure_gradient_error(Check& check, std::int64_t draws, TrainedExperiment& experiment) {
  constexpr std::size_t probed_batches = 8;
  Network& network = experiment.network();
  Contexts exact = experiment.make_contexts(Codec::full_precision());
  Contexts contexts = experiment.make_contexts(check.run.codec);
  if (contexts.width_control() != nullptr) {
    for (const Batch& other : experiment.other_batches(probed_batches)) {
      probe_tensors(network, other, contexts);
    }
    contexts.width_control()->step();
  }
  const Batch batch = experiment.batches().next();
  Progress progress(check.run.name + ": gradient check", draws, "gradients");
  check.gradient_error = errors_of_means(
      gradient_of(network, batch, exact), [&] { return gradient_of(network, batch, contexts); },
      draws, std::ref(progress));
}

// Real steps whose peak is within the budget. The data has no larger batch than all of it.
void fill_budget(Check& check, const CheckOptions& options, const Experiment& experiment) {
  constexpr std::int64_t deepest = 1000;
  const std::int64_t budget_bytes = options.memory_budget << 20;
  const auto images = static_cast<std::int64_t>(experiment.data().train.labels.size());
  const auto fits = [&](std::int64_t depth, std::int64_t batch) {
    return experiment.measure_step(check.run.codec, depth, batch).peak_bytes <= budget_bytes;
  };
  Progress progress(check.run.name + ": memory budget", 2, "searches");
  check.largest_batch =
      largest_that_fits(images, [&](std::int64_t batch) { return fits(options.depth, batch); });
  progress(1);
  check.largest_depth =
      largest_that_fits(deepest, [&](std::int64_t depth) { return fits(depth, batch_size); });
  progress(2);
}

void print_gradient_errors(const std::vector<Check>& checks, int width, std::ostream& out) {
  out << format("%-*s", width, "gradient error, mean of k =");
  for (const GradientError& error : checks.front().gradient_error) {
    out << format(" %8lld", static_cast<long long>(error.k));
  }
  out << "\n";
  for (const Check& check : checks) {
    out << format("%-*s", width, check.run.name.c_str());
    for (const GradientError& error : check.gradient_error) {
      out << format(" %8.4f", error.error);
    }
    out << "\n";
  }
}

void print_budget(const std::vector<Check>& checks, int width, const CheckOptions& options,
                  std::ostream& out) {
  out << format("%-*s %14s %16s\n", width,
                format("within %lld MiB", static_cast<long long>(options.memory_budget)).c_str(),
                format("batch, depth %lld", static_cast<long long>(options.depth)).c_str(),
                format("depth, batch %lld", static_cast<long long>(batch_size)).c_str());
  for (const Check& check : checks) {
    out << format("%-*s %14lld %16lld\n", width, check.run.name.c_str(),
                  static_cast<long long>(check.largest_batch),
                  static_cast<long long>(check.largest_depth));
  }
}

std::string check_object(const Check& check, const CheckOptions& options) {
  JsonMembers members{{"name", quoted(check.run.name)},
                      {"codec", quoted(describe(check.run.codec))}};
  if (options.check_gradient > 0) {
    std::vector<std::string> errors;
    for (const GradientError& error : check.gradient_error) {
      errors.push_back(
          json_object({{"k", std::to_string(error.k)}, {"error", number(error.error)}}));
    }
    members.emplace_back("gradient_error", json_array(errors));
  }
  if (options.memory_budget > 0) {
    members.emplace_back("memory_budget_mib", std::to_string(options.memory_budget));
    members.emplace_back("largest_batch", std::to_string(check.largest_batch));
    members.emplace_back("largest_depth", std::to_string(check.largest_depth));
  }
  return json_object(members, 6);
}

void check_all(const CheckOptions& options) {
  require_writable(options.json);  // before the work, not after it
  TrainedExperiment experiment(options);
  std::vector<Check> checks;
  std::vector<std::string> objects;
  const std::vector<Run> runs = planned_runs(options);
  for (const Run& run : runs) {
    Check& check = checks.emplace_back(Check{run});
    if (options.check_gradient > 0) {
      measure_gradient_error(check, options.check_gradient, experiment);
    }
    if (options.memory_budget > 0) {
      fill_budget(check, options, experiment);
    }
    objects.push_back(check_object(check, options));
  }
  if (options.check_gradient > 0) {
    print_gradient_errors(checks, name_width(runs), std::cout);
  }
  if (options.memory_budget > 0) {
    print_budget(checks, name_width(runs), options, std::cout);
  }
  write_file(options.json, [&](std::ostream& out) {
    out << json_object({{"data", quoted(experiment.data().origin)},
                        {"seed", std::to_string(options.seed)},
                        {"depth", std::to_string(options.depth)},
                        {"threads", std::to_string(options.threads)},
                        {"checks", json_array(objects, 4)}},
                       2)
        << "\n";
  });
  std::cout << "Results in " << options.json << std::endl;
}

}  // namespace

int main(int count, char** arguments) {
  return run_program("check_fashion_mnist", count, arguments, [](auto own_arguments) {
    const CheckOptions options = parse_check_options(own_arguments);
    if (options.help.empty()) {
      check_all(options);
    }
    std::cout << options.help;
    return EXIT_SUCCESS;
  });
}
