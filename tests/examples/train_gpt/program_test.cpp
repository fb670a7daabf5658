// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks what surrounds the transformer: the text, the command line, training, and widths by
// tensor.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/files.hpp"
#include "examples/number_flags.hpp"
#include "examples/support.hpp"
#include "examples/train_gpt/support.hpp"
#include "train_gpt/options.hpp"
#include "train_gpt/text.hpp"
#include "train_gpt/training.hpp"

namespace {

using namespace gpt;
using namespace support;
using trainer::Checkpoint;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

const Ranks& one_rank() {
  static const Ranks ranks(nullptr, nullptr);
  return ranks;
}

std::string error_of(const std::vector<const char*>& arguments) {
  try {
    parse_options(arguments);
  } catch (const trainer::OptionError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("options: what is asked for is what is set") {
  const Options options = parse_options(std::vector<const char*>{
      "--layers", "3", "--channels", "96", "--heads", "6", "--seeds", "4,5,18446744073709551615",
      "--bits", "2", "--keep", "query=4,gelu=8", "--gelu", "input", "--decode", "plain"});
  CHECK(options.shape.layers == 3);
  CHECK(options.shape.channels == 96);
  CHECK(options.shape.heads == 6);
  CHECK(options.seeds == std::vector<std::uint64_t>{4, 5, ~std::uint64_t{0}});
  const SavePolicy policy = options.adapted(SavePolicy::shipped(options.bits));
  CHECK(policy.bits_of(Kind::query) == 4);
  CHECK(policy.bits_of(Kind::key) == 8);
  CHECK(policy.bits_of(Kind::gelu) == 8);
  CHECK(policy.bits_of(Kind::mlp_output) == 2);
  CHECK(policy.gelu == SavePolicy::Gelu::input);
  CHECK(!policy.is_subtractive);
  CHECK(policy.is_stochastic);
  CHECK(parse_options({}).bits == 0);  // the comparison
}

TEST_CASE("options: a wrong one is named, with its value and what was expected") {
  CHECK(error_of({"--layer", "2"}) == "--layer: unknown flag (--help lists them)");
  CHECK(error_of({"--layers"}) == "--layers: needs a value: a whole number from 1 to 1000");
  CHECK(error_of({"--layers", "0"}) == "--layers 0: expected a whole number from 1 to 1000");
  CHECK(error_of({"--steps", "9x"}) == "--steps 9x: expected a whole number from 0 to 1000000000");
  CHECK(error_of({"--bits", "3"}) == "--bits 3: expected 32, 8, 4, 2 or 1");
  CHECK(error_of({"--average-bits", "9"}) == "--average-bits 9: expected a number from 1 to 8");
  CHECK(error_of({"--seeds", "1,,2"}) ==
        "--seeds 1,,2: expected whole numbers from 0 to 2^64 - 1 with commas between them");
  CHECK(error_of({"--gelu", "output"}) ==
        "--gelu output: expected derivative, input or input-with-sign");
  CHECK(error_of({"--channels", "30"}) == "--channels 30: expected a multiple of --heads 4");
  CHECK(error_of({"--bits", "2", "--average-bits", "2"}) ==
        "--average-bits: does not go with --bits");
  CHECK(error_of({"--keep", "query=4"}) == "--keep: wants --bits");
  CHECK(error_of({"--gelu", "input"}) == "--gelu: wants --bits");
  for (const char* value : {"query", "query=3", "queries=4", "=4", "query=4,", ""}) {
    CHECK(error_of({"--bits", "2", "--keep", value})
              .starts_with("--keep " + std::string(value) + ": expected KIND=W"));
  }
}

TEST_CASE("text: the files of a folder in order, a tenth for validation, windows inside it") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "actpack_train_gpt_text_test";
  std::filesystem::create_directories(folder / "tinyshakespeare");
  std::ofstream(folder / "tinyshakespeare" / "b.txt") << "klmnopqrstuvwxyz0";
  std::ofstream(folder / "tinyshakespeare" / "a.txt") << "abcdefghij";
  for (const auto& [named, environment] : {std::pair{folder.string(), std::string()},
                                           {"", folder.string()},
                                           {(folder / "tinyshakespeare").string(), "none"}}) {
    const Text text = load_text(named, environment);
    CHECK(std::string(text.bytes.begin(), text.bytes.end()) == "abcdefghijklmnopqrstuvwxyz0");
    CHECK(text.training().size() == 25);
    CHECK(text.validation()[0] == 'z');
  }
  std::filesystem::remove_all(folder);
  CHECK_THROWS_WITH_AS(
      load_text(folder.string(), ""),
      ("--data " + folder.string() + ": neither it nor its folder tinyshakespeare has a text")
          .c_str(),
      TextError);
  CHECK(load_text("", "").origin ==
        "a generated text (no text: name a folder with --data or ACTPACK_DATA_DIR)");
  CHECK_THROWS_AS(WindowStream(std::vector<std::uint8_t>(10), 10, 0), TextError);
}

TEST_CASE("options: every number has two limits") {
  CHECK(support::check_number_flags(help(), parse_options) == 12);
}

TEST_CASE("options: what would ask for more than there can be is refused, with the limit") {
  const std::string huge = "9223372036854775807";
  for (const char* name : {"--layers", "--channels", "--heads", "--context", "--batch", "--steps",
                           "--validation-windows", "--threads", "--checkpoint-every"}) {
    CHECK(error_of({name, huge.c_str()})
              .starts_with(name + (" " + huge) + ": expected a whole number from "));
  }
  for (const char* rate : {"nan", "inf", "1e300", "-0.001"}) {
    CHECK(error_of({"--learning-rate", rate}) ==
          "--learning-rate " + std::string(rate) + ": expected a number from 0 to 10");
  }
}

TEST_CASE("options: every value that a training depends on is told in words that set it") {
  Options options;
  REQUIRE(set_options(
      options, flags(options),
      std::vector<const char*>{"--layers", "3", "--seeds", "4,18446744073709551615", "--bits", "2",
                               "--keep", "query=4,gelu=8", "--gelu", "input-with-sign", "--decode",
                               "plain", "--learning-rate", "0.1"}));
  std::vector<std::string> told;
  for (const trainer::Flag& flag : flags(options)) {
    if (flag.value && flag.name != "--average-bits") {
      told.insert(told.end(), {flag.name, flag.value()});
    }
  }
  std::vector<const char*> arguments;
  for (const std::string& word : told) arguments.push_back(word.c_str());
  Options again;
  REQUIRE(set_options(again, flags(again), arguments));
  CHECK(again.shape.layers == 3);
  CHECK(again.seeds == options.seeds);
  CHECK(again.bits == 2);
  CHECK(again.exceptions == options.exceptions);
  CHECK(again.gelu == options.gelu);
  CHECK(again.is_subtractive == options.is_subtractive);
  CHECK(again.training.learning_rate == 0.1);
  for (const char* name : {"--layers", "--channels", "--heads", "--context", "--batch", "--steps",
                           "--learning-rate", "--seeds", "--validation-windows", "--bits",
                           "--average-bits", "--keep", "--gelu", "--decode", "--rounding"}) {
    const std::vector<trainer::Flag> all = flags(options);
    CHECK(std::ranges::find(all, name, &trainer::Flag::name)->value);
  }
}

TEST_CASE("text: one file that cannot be read is an error, not a shorter text") {
  const Folder folder;
  std::ofstream(folder / "a.txt") << "abcdefghij";
  std::filesystem::create_directory(folder / "b");  // a folder in between is none of the text
  CHECK(load_text(folder.path.string(), "").bytes.size() == 10);
  const auto complaint = [&] {
    try {
      load_text("", folder.path.string());
    } catch (const trainer::FileError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  std::filesystem::create_symlink("nowhere", folder / "c.txt");
  CHECK(complaint() ==
        folder / "c.txt" + std::string(": cannot be opened: No such file or directory"));
  std::filesystem::remove(folder / "c.txt");
  std::filesystem::create_symlink("/proc/self/mem", folder / "c.txt");
  CHECK(complaint() == folder / "c.txt" + std::string(": cannot be read: Input/output error"));
}

TEST_CASE("text: ranks draw the same batch and share it") {
  const Text text = generate_text("a test");
  WindowStream whole(text.training(), 8, 1);
  WindowStream first(text.training(), 8, 1);
  WindowStream second(text.training(), 8, 1);
  for (int step = 0; step < 3; ++step) {
    const Batch all = whole.next(4);
    const Batch front = first.next(4, 0, 2);
    const Batch back = second.next(4, 2, 4);
    CHECK(std::ranges::equal(all.from(0).first(18), front.span()));
    CHECK(std::ranges::equal(all.from(2), back.span()));
    const auto training = text.training();
    const auto last = all.image(3);
    CHECK(std::search(training.begin(), training.end(), last.begin(), last.end()) !=
          training.end());  // a window of the text
  }
}

TEST_CASE("training: the loss falls alike in full precision and in 2 bits") {
  const Text text = generate_text("a test");
  const ModelShape shape = packing_shape();
  std::vector<double> validation;
  for (const SavePolicy& policy : {exact, SavePolicy::shipped(2), SavePolicy::on_average(2)}) {
    Model model(shape, 0);
    ActivationStore store(shape, policy, 0);
    const double before = validation_loss(model, text.validation(), 20, one_rank());
    const TrainingSetting setting{.steps = 150, .batch = 4, .learning_rate = 5e-3};
    std::int64_t done = 0;
    Training training(model, text.training(), setting, store, one_rank());
    trainer::finish(training, [&](std::int64_t steps) { CHECK(steps == ++done); });
    const TrainingReport report = training.report();
    CHECK(report.losses.size() == 150);
    CHECK(std::abs(report.losses[0] - std::log(256.0)) < 0.2);  // a newborn model guesses
    validation.push_back(validation_loss(model, text.validation(), 20, one_rank()));
    CHECK(validation.back() < 0.6 * before);
  }
  // Noise of 2 bits costs a little, if at all; that of a broken context costs more than this.
  CHECK(std::abs(validation[1] / validation[0] - 1) < 0.1);
  CHECK(std::abs(validation[2] / validation[0] - 1) < 0.1);
}

TEST_CASE(
    "training: resumed from a checkpoint, it ends as one that never stopped, to the last bit") {
  const Text text = generate_text("a test");
  const ModelShape shape = packing_shape();
  const Folder folder;
  SavePolicy by_input = SavePolicy::shipped(4);
  by_input.gelu = SavePolicy::Gelu::input_with_sign;
  for (const SavePolicy& policy :
       {exact, SavePolicy::shipped(2), by_input, SavePolicy::on_average(2)}) {
    // Of a process's own: a model, a store, and a training of `setting`.
    struct Process {
      Model model;
      ActivationStore store;
      Training training;
      Process(const Text& text, const ModelShape& shape, const SavePolicy& policy)
          : model(shape, 0), store(shape, policy, 7),
            training(model, text.training(), {.steps = 130, .batch = 2, .seed = 7}, store,
                     one_rank()) {}
    };
    const auto save = [&](Process& process, const std::string& name) {
      Checkpoint checkpoint;
      process.training.visit(checkpoint);
      checkpoint.write(folder / name);
    };
    Process straight(text, shape, policy);
    trainer::finish(straight.training, [](std::int64_t) {});
    save(straight, "straight");
    for (const int stop : {1, 99, 102}) {  // new widths come after the steps 1 and 100
      Process first(text, shape, policy);
      for (int step = 0; step < stop; ++step) first.training.step();
      save(first, "stopped");
      Process second(text, shape, policy);
      Checkpoint checkpoint(folder / "stopped");
      second.training.visit(checkpoint);
      checkpoint.require_end();
      CHECK(second.training.done() == stop);
      trainer::finish(second.training, [](std::int64_t) {});
      save(second, "resumed");
      CHECK(std::ranges::equal(second.model.values(), straight.model.values()));
      CHECK(second.training.report().losses == straight.training.report().losses);
      CHECK(second.training.report().widths == straight.training.report().widths);
      CHECK(entries_of(folder / "resumed") == entries_of(folder / "straight"));
    }
  }
}

TEST_CASE("validation: the loss is the mean over the windows, whatever the batch") {
  const ModelShape shape = small_shape();
  Model model = make_model(shape);
  const Text text = generate_text("a test");
  const Batch windows = spread_windows(text.validation(), shape.context, 21);
  double expected = 0;
  for (std::int64_t i = 0; i < 21; ++i) {
    Batch one(1, shape.context + 1);
    std::ranges::copy(windows.image(i), one.span().begin());
    expected += model.loss(one) / 21;
  }
  CHECK(std::abs(validation_loss(model, text.validation(), 21, one_rank()) - expected) < 1e-12);
}

TEST_CASE("widths: probes change neither weights nor later steps' rounding of other tensors") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(2, shape.context);
  ActivationStore store(shape, SavePolicy::on_average(2), 1);
  const std::vector<float> values(model.values().begin(), model.values().end());
  probe_tensors(model, batch, store);
  CHECK(std::ranges::equal(model.values(), values));
  CHECK(store.widths()->step());
  const std::vector<int> bits = store.widths()->bits();
  REQUIRE(bits.size() == 16);
  // In channels: MLP tensors are four times as wide.
  double sum = 0;
  for (std::size_t tensor = 0; tensor < bits.size(); ++tensor) {
    sum += bits[tensor] * (tensor % kinds >= index_of(Kind::gelu) ? 4 : 1);
  }
  CHECK(sum <= 2 * 28);
  CHECK(sum >= 2 * 28 - 4);  // what no step of any tensor would fit into
  require_same_widths(*store.widths(), one_rank());
}

TEST_CASE("widths: in the same bytes, the gradient's noise is less than with 2 bits for all") {
  const ModelShape shape = packing_shape();
  Model model = make_model(shape);
  const Batch batch = random_batch(4, shape.context);
  const std::vector<float> expected = gradient_of(model, batch, exact);
  const auto error_of_policy = [&](const SavePolicy& policy) {
    ActivationStore store(shape, policy, 1);
    if (store.widths() != nullptr) {
      for (std::uint64_t seed = 6; seed < 14; ++seed) {
        probe_tensors(model, random_batch(2, shape.context, seed), store);
      }
      store.widths()->step();
    }
    double squares = 0;
    for (int draw = 0; draw < 40; ++draw) {
      squares += std::pow(relative_error(gradient_of(model, batch, store), expected), 2);
    }
    return squares / 40;
  };
  // Measured: 0.4. The mean of 40 squared errors is good to some 5 %.
  CHECK(error_of_policy(SavePolicy::on_average(2)) < 0.8 * error_of_policy(SavePolicy::all(2)));
}

}  // namespace
