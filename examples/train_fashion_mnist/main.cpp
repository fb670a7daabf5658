// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Trains a small convolutional network on Fashion-MNIST with its activations kept in full
// precision, by actpack and by others, and shows what that does to accuracy, memory and time.
// packed_tensors.hpp is where actpack plugs in.

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "contexts.hpp"
#include "data.hpp"
#include "gradient_check.hpp"
#include "largest_that_fits.hpp"
#include "loss_curve.hpp"
#include "memory.hpp"
#include "network.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "training.hpp"
#include "variance_check.hpp"
#include "variance_picture.hpp"
#include "width_comparison.hpp"
#include "width_picture.hpp"

#ifndef ACTPACK_DOWNLOADED_DATA
#define ACTPACK_DOWNLOADED_DATA ""
#endif

namespace {

using namespace trainer;

constexpr std::int64_t classes = 10;
constexpr std::int64_t steps_before_checks = 300;  // of gradient and variance, the first of
constexpr std::int64_t cycle_of_checks = 938;      // two epochs of Fashion-MNIST
constexpr std::size_t batches_for_gains = 8;

// The runs that were asked for, with names and codecs and nothing measured yet.
std::vector<Run> planned_runs(const Options& options) {
  std::vector<Run> runs;
  const auto plan = [&](const std::string& name, const Codec& codec) {
    runs.emplace_back();
    runs.back().name = name;
    runs.back().codec = codec;
  };
  if (!options.compares) {
    plan(describe(options.codec), options.codec);
    return runs;
  }
  Codec full;
  full.form = Codec::Form::full_precision;
  Codec actnn;
  actnn.form = Codec::Form::affine;
  actnn.is_subtractive = false;
  Codec coarse = actnn;
  coarse.is_stochastic = false;
  coarse.has_tensor_range = true;
  plan("full precision", full);
  plan("actpack: " + describe(options.codec), options.codec);
  plan("ActNN's way: " + describe(actnn), actnn);
  plan(describe(coarse), coarse);
  return runs;
}

class Experiment {
 public:
  Experiment(const Options& options, const Data& data)
      : options_(options), data_(data), pixel_scale_(measure_pixels(data.train.pixels.span())) {
    Codec form;
    form.form = Codec::Form::full_precision;
    saved_bytes_fp32_ = measure_step(form).saved_bytes;
    form.form = Codec::Form::lean;
    saved_bytes_lean_ = measure_step(form).saved_bytes;
  }

  void execute(Run& run) {
    run.saved_bytes_fp32 = saved_bytes_fp32_;
    run.saved_bytes_lean = saved_bytes_lean_;
    Network network = make_network();
    Contexts contexts = make_contexts(run.codec);
    if (options_.epochs == 0) {
      const StepReport step = measure_step(run.codec);
      run.saved_bytes = step.saved_bytes;
      run.peak_bytes = step.peak_bytes;
    } else {
      const std::int64_t steps = options_.epochs * batches().batches_per_epoch();
      const TrainingReport report = train_steps(network, steps, steps, contexts, run.name);
      run.saved_bytes = report.saved_bytes;
      run.peak_bytes = report.peak_bytes;
      run.seconds_per_epoch = report.seconds / static_cast<double>(options_.epochs);
      run.codec_seconds_per_epoch = report.codec_seconds / static_cast<double>(options_.epochs);
      run.losses = report.losses;
    }
    const std::int64_t correct = network.count_correct(data_.test.pixels, data_.test.labels);
    run.test_accuracy =
        100 * static_cast<double>(correct) / static_cast<double>(data_.test.labels.size());
    if (options_.check_gradient > 0) {
      run.gradient_error = gradient_errors(run);
    }
    if (options_.memory_budget > 0) {
      fill_budget(run);
    }
  }

  // Steps of `run`'s codec whose peak is within the budget. More than the data has no batch.
  void fill_budget(Run& run) const {
    constexpr std::int64_t deepest = 1000;
    const std::int64_t budget_bytes = options_.memory_budget << 20;
    const auto images = static_cast<std::int64_t>(data_.train.labels.size());
    Progress progress(run.name + ": memory budget", 2, "searches");
    run.largest_batch = largest_that_fits(images, [&](std::int64_t batch) {
      return measure_step(run.codec, options_.depth, batch).peak_bytes <= budget_bytes;
    });
    progress(1);
    run.largest_depth = largest_that_fits(deepest, [&](std::int64_t depth) {
      return measure_step(run.codec, depth, batch_size).peak_bytes <= budget_bytes;
    });
    progress(2);
  }

  // At the width and group size that were asked for, with both contexts and both ways to decode.
  std::vector<VarianceReport> variances() {
    Network& network = trained_network();
    Contexts exact = make_exact_contexts();
    std::optional<Progress> progress;
    return check_variance(network, batches().next(), exact,
                          codecs_to_check(options_.codec.bits, options_.codec.group_size),
                          options_.seed, options_.check_variance,
                          [&](std::int64_t done, std::int64_t all) {
                            if (!progress) {
                              progress.emplace("variance check", all, "draws");
                            }
                            (*progress)(done);
                          });
  }

  // With affine copies, decoded and in groups as was asked for.
  std::vector<WidthReport> widths() {
    Codec codec;
    codec.form = Codec::Form::affine;
    codec.is_subtractive = options_.codec.is_subtractive;
    codec.group_size = options_.codec.group_size;
    const Batch batch = batches().next();
    BatchStream stream{data_.train, ~options_.seed};
    std::vector<Batch> others;
    while (others.size() < batches_for_gains) {
      Batch other = stream.next();
      if (other.labels.size() == batch.labels.size()) {  // the last of an epoch may be smaller
        others.push_back(std::move(other));
      }
    }
    Network& network = trained_network();
    Contexts exact = make_exact_contexts();
    Progress progress("comparison of widths", options_.compare_widths * compared_variances,
                      "draws");
    return compare_widths(network, batch, others, exact, codec, options_.seed,
                          options_.compare_widths, progress);
  }

 private:
  Network make_network() const {
    return {net_a(options_.depth), classes, pixel_scale_, options_.seed};
  }
  Contexts make_contexts(const Codec& codec) const { return {codec, options_.seed}; }
  BatchStream batches() const { return {data_.train, options_.seed}; }

  StepReport measure_step(const Codec& codec) const {
    return measure_step(codec, options_.depth, batch_size);
  }
  StepReport measure_step(const Codec& codec, std::int64_t depth, std::int64_t batch) const {
    Network network(net_a(depth), classes, pixel_scale_, options_.seed);
    Contexts contexts = make_contexts(codec);
    BatchStream stream(data_.train, options_.seed, batch);
    return run_step(network, stream, contexts);
  }

  TrainingReport train_steps(Network& network, std::int64_t steps, std::int64_t cycle,
                             Contexts& contexts, const std::string& name) const {
    Progress progress(name, steps * batch_size, "images");
    return train(network, data_.train, options_.seed, steps, cycle, contexts,
                 [&](std::int64_t done) { progress(done * batch_size); });
  }

  Contexts make_exact_contexts() const {
    Codec full;
    full.form = Codec::Form::full_precision;
    return make_contexts(full);
  }

  // One network for all checks, trained for a while in full precision.
  Network& trained_network() {
    if (!trained_) {
      trained_.emplace(make_network());
      Contexts exact = make_exact_contexts();
      train_steps(*trained_, steps_before_checks, cycle_of_checks, exact,
                  "training for the checks");
    }
    return *trained_;
  }

  // On one batch for all runs.
  std::vector<GradientError> gradient_errors(const Run& run) {
    Network& network = trained_network();
    Contexts exact = make_exact_contexts();
    Contexts contexts = make_contexts(run.codec);
    if (contexts.width_control() != nullptr) {
      BatchStream others{data_.train, ~options_.seed};
      for (std::size_t i = 0; i < batches_for_gains; ++i) {
        probe_tensors(network, others.next(), contexts);
      }
      contexts.width_control()->step();
    }
    Progress progress(run.name + ": gradient check", options_.check_gradient, "gradients");
    return check_gradient(network, batches().next(), exact, contexts, options_.check_gradient,
                          progress);
  }

  const Options& options_;
  const Data& data_;
  PixelScale pixel_scale_;
  std::int64_t saved_bytes_fp32_ = 0;
  std::int64_t saved_bytes_lean_ = 0;
  std::optional<Network> trained_;
};

std::ofstream open_for_writing(const std::filesystem::path& path) {
  std::ofstream file(path);
  if (!file) {
    throw std::runtime_error("--json " + path.string() + ": cannot be written");
  }
  return file;
}

void run_program(const Options& options) {
  omp_set_num_threads(options.threads);
  memory::keep_freed_memory();
  const char* environment = std::getenv("ACTPACK_DATA_DIR");
  Data data =
      load_data(options.data, environment == nullptr ? "" : environment, ACTPACK_DOWNLOADED_DATA);
  limit(data.train, options.train_limit);
  std::cout << "Data: " << data.origin << ", " << data.train.labels.size() << " + "
            << data.test.labels.size() << " images" << std::endl;
  const std::filesystem::path json_path = options.json;
  const auto picture_path_of = [&](const std::string& what) {
    return json_path.parent_path() / (json_path.stem().string() + what + ".svg");
  };
  const std::filesystem::path picture_path = picture_path_of("");
  const std::filesystem::path variance_picture_path = picture_path_of("_variance");
  const std::filesystem::path width_picture_path = picture_path_of("_widths");
  std::ofstream json = open_for_writing(json_path);  // before the work, not after it
  std::ofstream picture = open_for_writing(picture_path);
  std::ofstream variance_picture;
  if (options.check_variance > 0) {
    variance_picture = open_for_writing(variance_picture_path);
  }
  std::ofstream width_picture;
  if (options.compare_widths > 0) {
    width_picture = open_for_writing(width_picture_path);
  }
  std::vector<Run> runs = planned_runs(options);
  Experiment experiment(options, data);
  for (Run& run : runs) {
    experiment.execute(run);
  }
  print_table(runs, std::cout);
  if (options.check_gradient > 0) {
    print_gradient_errors(runs, std::cout);
  }
  if (options.memory_budget > 0) {
    print_budget(runs, options.memory_budget, options.depth, batch_size, std::cout);
  }
  std::vector<VarianceReport> variances;
  if (options.check_variance > 0) {
    variances = experiment.variances();
    print_variances(variances, std::cout);
    VariancePicture(variances).write(variance_picture);
  }
  std::vector<WidthReport> widths;
  if (options.compare_widths > 0) {
    widths = experiment.widths();
    print_widths(widths, std::cout);
    WidthPicture(widths).write(width_picture);
  }
  write_json(options, data.origin, runs, json, variances, widths);
  LossCurve(runs).write(picture);
  std::cout << "Results in " << json_path.string() << ", loss curves in " << picture_path.string();
  if (options.check_variance > 0) {
    std::cout << ", variances in " << variance_picture_path.string();
  }
  if (options.compare_widths > 0) {
    std::cout << ", widths in " << width_picture_path.string();
  }
  std::cout << std::endl;
}

}  // namespace

int main(int argument_count, char** arguments) {
  try {
    const Options options = parse_options(
        std::span<const char* const>(arguments, static_cast<std::size_t>(argument_count))
            .subspan(1));
    if (options.wants_help) {
      std::cout << help();
    } else {
      run_program(options);
    }
  } catch (const std::exception& error) {
    std::cerr << "train_fashion_mnist: " << error.what() << "\n";
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
