// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks train_gpt's ways to save activations: the gradient's noise and bias, kind by kind of
// tensor; or the largest batch and depth that fit into a memory budget.

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "common/json.hpp"
#include "common/memory.hpp"
#include "common/progress.hpp"
#include "research/gpt_budget.hpp"
#include "research/gpt_options.hpp"
#include "research/gradient_check.hpp"
#include "train_gpt/ranks.hpp"
#include "train_gpt/report.hpp"
#include "train_gpt/text.hpp"
#include "train_gpt/training.hpp"

namespace {

using namespace research;
using gpt::Kind;
using gpt::kind_names;
using gpt::kinds;
using trainer::format;
using trainer::Progress;

constexpr std::int64_t steps_before_check = 300;  // the first of the training run's

// Each kind of tensor rounded alone, all others being exact; then all together.
std::vector<std::pair<std::string, SavePolicy>> roundings_to_check() {
  std::vector<std::pair<std::string, SavePolicy>> all;
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    for (const int bits : {2, 4, 8}) {
      SavePolicy policy = SavePolicy::all(SavePolicy::full_precision);
      policy.bits[kind] = bits;
      all.emplace_back(std::string(kind_names[kind]) + format(" alone, %d bits", bits), policy);
    }
  }
  for (const auto& [name, gelu] : {std::pair{"GELU's input", SavePolicy::Gelu::input},
                                   {"with its sign", SavePolicy::Gelu::input_with_sign}}) {
    for (const int bits : {2, 4, 8}) {
      SavePolicy policy = SavePolicy::all(SavePolicy::full_precision);
      policy.bits_of(Kind::gelu) = bits;
      policy.gelu = gelu;
      all.emplace_back(std::string(name) + format(" alone, %d bits", bits), policy);
    }
  }
  for (const int bits : {2, 4, 8}) {
    all.emplace_back(format("all, %d bits", bits), SavePolicy::all(bits));
    all.emplace_back(format("all as --bits %d", bits), SavePolicy::shipped(bits));
  }
  return all;
}

// The gradient under one policy.
struct GradientReport : GradientBias {
  std::string name;
  std::int64_t saved_bytes = 0;
};

void print_gradient_heading(std::int64_t draws) {
  std::cout << format("%-34s %9s %9s %12s %9s %8s %5s\n", "rounded", "stored MB", "error",
                      format("mean of %lld", static_cast<long long>(draws)).c_str(), "bias",
                      "excess", "+-");
}
void print_gradient_report(const GradientReport& report) {
  std::cout << format("%-34s %9.3f %9.4f %12.4f %9.4f %8.2f %5.2f\n", report.name.c_str(),
                      1e-6 * static_cast<double>(report.saved_bytes), report.error_of_one,
                      report.error_of_mean, report.bias(), report.excess, report.excess_deviation);
  std::cout.flush();
}
void print_gradient_legend() {
  std::cout
      << "Relative to the exact gradient's norm. error: of one rounding; bias: what remains of the "
         "mean's\n"
         "error without its noise. excess: the mean's squared error over what noise alone makes "
         "of it:\n"
         "1 without bias, +- its standard deviation.\n";
}

void check_gradients(const GptCheckOptions& options, const gpt::Ranks& ranks) {
  const gpt::Text text = gpt::load_text(options.data, std::cout);
  const std::uint64_t seed = options.seeds.front();
  const auto make_store = [&](SavePolicy policy) {
    policy.is_stochastic = options.is_stochastic;
    policy.is_subtractive = options.is_subtractive;
    return ActivationStore(options.shape, policy, seed);
  };
  Model model(options.shape, seed);
  ActivationStore exact_store = make_store(SavePolicy::all(SavePolicy::full_precision));
  {
    gpt::TrainingSetting setting = options.training;
    setting.seed = seed;
    setting.steps = std::min(setting.steps, steps_before_check);
    Progress progress("training for the check", setting.steps, "steps");
    gpt::train(model, text.training(), setting, exact_store, ranks,
               [&](std::int64_t done) { progress(done); });
  }
  const Batch batch =
      gpt::WindowStream(text.training(), options.shape.context, ~seed).next(options.training.batch);
  const std::vector<float> exact = gpt::gradient_of(model, batch, exact_store);
  const auto roundings = roundings_to_check();
  const std::int64_t draws = options.check_gradient;
  const std::int64_t all_draws = draws * static_cast<std::int64_t>(roundings.size());
  print_gradient_heading(draws);
  std::int64_t done = 0;
  for (const auto& [name, policy] : roundings) {
    ActivationStore store = make_store(policy);
    Progress progress("gradient check", all_draws, "gradients");
    GradientReport report;
    report.name = name;
    const auto draw = [&] {
      std::vector<float> gradient = gpt::gradient_of(model, batch, store);
      report.saved_bytes = store.saved_bytes();
      return gradient;
    };
    static_cast<GradientBias&>(report) =
        measure_bias(exact, draw, draws, [&] { progress(++done); });
    print_gradient_report(report);
  }
  print_gradient_legend();
}

void print_budget(const GptCheckOptions& options) {
  const double bytes = options.memory_budget * 1024 * 1024;
  std::cout << format(
                   "The most whose step fits in %g MiB beyond parameters, optimizer and scratch\n",
                   options.memory_budget)
            << format("%-26s %10s %10s\n", "activations kept in", "sequences", "layers");
  for (const gpt::Way& way : gpt::planned_ways(options)) {
    const BudgetReport report = fill_budget(options.shape, options.training.batch, way.policy,
                                            static_cast<std::int64_t>(bytes));
    std::cout << format("%-26s %10lld %10lld\n", way.name.c_str(),
                        static_cast<long long>(report.sequences),
                        static_cast<long long>(report.layers))
              << std::flush;
  }
  std::cout << format("sequences of %lld tokens with %lld layers; layers with %lld sequences\n",
                      static_cast<long long>(options.shape.context),
                      static_cast<long long>(options.shape.layers),
                      static_cast<long long>(options.training.batch));
}

}  // namespace

int main(int count, char** arguments) {
  return gpt::run_on_ranks("check_gpt", count, arguments,
                           [](auto own_arguments, const auto& ranks) {
                             const GptCheckOptions options = parse_gpt_check_options(own_arguments);
                             std::cout << options.help;
                             if (!options.help.empty()) {
                               return EXIT_SUCCESS;
                             }
                             omp_set_num_threads(options.threads);
                             trainer::memory::keep_freed_memory();
                             if (options.memory_budget > 0) {
                               print_budget(options);
                             } else {
                               check_gradients(options, ranks);
                             }
                             return EXIT_SUCCESS;
                           });
}
