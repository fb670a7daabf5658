// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the trainer's command line, and the files that it leaves.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "common/json.hpp"
#include "common/loss_curve.hpp"
#include "examples/number_flags.hpp"
#include "train_fashion_mnist/options.hpp"
#include "train_fashion_mnist/report.hpp"

namespace {

using namespace trainer;

std::string complaint(const std::vector<const char*>& arguments) {
  try {
    parse_options(arguments);
  } catch (const OptionError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("options: the defaults are the comparison") {
  const Options options = parse_options({});
  CHECK(options.compares);
  CHECK(options.epochs == 2);
  CHECK(options.seed == 0);
  CHECK(options.depth == 0);
  CHECK(options.threads >= 1);
  CHECK(options.codec.context == Codec::Context::sign_magnitude);
  CHECK(options.codec.bits == 2);
  CHECK(options.codec.is_subtractive);
  CHECK(options.codec.is_stochastic);
  CHECK_FALSE(options.codec.has_tensor_range);
  CHECK(options.codec.group_size == 256);
}

TEST_CASE("options: every flag reaches its field") {
  const std::vector<const char*> arguments{
      "--data",        "folder",  "--epochs",     "0",
      "--train-limit", "500",     "--seed",       "18446744073709551615",
      "--threads",     "3",       "--depth",      "32",
      "--bits",        "4",       "--context",    "affine",
      "--decode",      "plain",   "--rounding",   "nearest",
      "--range",       "tensor",  "--group-size", "64",
      "--json",        "out.json"};
  const Options options = parse_options(arguments);
  CHECK(options.data == "folder");
  CHECK(options.epochs == 0);
  CHECK(options.train_limit == 500);
  CHECK(options.seed == std::numeric_limits<std::uint64_t>::max());
  CHECK(options.threads == 3);
  CHECK(options.depth == 32);
  CHECK_FALSE(options.compares);
  CHECK(options.codec.bits == 4);
  CHECK(options.codec.context == Codec::Context::affine);
  CHECK_FALSE(options.codec.is_subtractive);
  CHECK_FALSE(options.codec.is_stochastic);
  CHECK(options.codec.has_tensor_range);
  CHECK(options.codec.group_size == 64);
  CHECK(options.json == "out.json");
  CHECK(parse_options(std::vector<const char*>{"--bits", "32"}).codec.context ==
        Codec::Context::full_precision);
  CHECK(parse_options(std::vector<const char*>{"--bits", "32", "--context", "affine"})
            .codec.context == Codec::Context::full_precision);
}

TEST_CASE("options: what is not understood is named in one line, flag and value") {
  const std::vector<std::vector<const char*>> wrong{{"--bits", "3"},
                                                    {"--bits", "0"},
                                                    {"--bits", "two"},
                                                    {"--bits", "2.0"},
                                                    {"--bits", ""},
                                                    {"--epochs", "-1"},
                                                    {"--epochs", "1x"},
                                                    {"--train-limit", "0"},
                                                    {"--seed", "-1"},
                                                    {"--seed", "18446744073709551616"},
                                                    {"--threads", "0"},
                                                    {"--depth", "-2"},
                                                    {"--context", "lean"},
                                                    {"--decode", "exact"},
                                                    {"--rounding", "up"},
                                                    {"--range", "row"},
                                                    {"--group-size", "100"},
                                                    {"--group-size", "0"},

                                                    {"--json", "picture.svg"},
                                                    {"--data", ""}};
  for (const std::vector<const char*>& arguments : wrong) {
    const std::string line = complaint(arguments);
    CAPTURE(line);
    CHECK(line.starts_with(std::string(arguments[0]) + " " + arguments[1] + ": expected"));
    CHECK_FALSE(contains(line, "\n"));
  }
  CHECK(contains(complaint({"--bit", "2"}), "--bit: unknown flag"));
  CHECK(contains(complaint({"stray"}), "stray: unknown flag"));
  CHECK(contains(complaint({"--epochs"}), "--epochs: needs a value"));
}

TEST_CASE("options: every number has two limits") {
  CHECK(support::check_number_flags(help(), parse_options) == 8);
}

TEST_CASE("options: help lists every flag") {
  Options options;
  for (const Flag& flag : training_flags(options)) {
    CHECK(contains(help(), std::string(flag.name) + " " + std::string(flag.values)));
  }
  CHECK(parse_options(std::vector<const char*>{"--help"}).wants_help);
}

std::vector<Run> two_runs() {
  std::vector<Run> runs(2);
  runs[0].name = "a \"quoted\" <name>";
  runs[0].codec.context = Codec::Context::full_precision;
  runs[0].losses = {2.3, 1.5, std::nan("")};
  runs[0].saved_bytes = runs[0].saved_bytes_fp32 = 100;
  runs[1].name = "other";
  runs[1].losses = {2.3, 0.5, 0.4};
  return runs;
}

TEST_CASE("json: one object per run, with every key, and null for what is no number") {
  Options options;
  std::ostringstream out;
  write_json(options, "C:\\data", two_runs(), out);
  const std::string text = out.str();
  for (const char* key :
       {"name", "bits", "context", "decode", "rounding", "test_accuracy", "saved_bytes",
        "saved_bytes_fp32", "peak_bytes", "seconds_per_epoch", "codec_seconds_per_epoch"}) {
    CAPTURE(key);
    const std::string quoted_key = quoted(key) + ": ";
    CHECK(contains(text, quoted_key));
    CHECK(contains(text.substr(text.find(quoted_key) + 1), quoted_key));  // in both runs
  }
  CHECK(contains(text, "\"name\": \"a \\\"quoted\\\" <name>\""));
  CHECK(contains(text, "\"data\": \"C:\\\\data\""));
  CHECK(contains(text, "\"bits\": 32"));
  CHECK(contains(text, "\"loss\": [2.3, 1.5, null]"));
  CHECK_FALSE(contains(text, "nan"));
}

TEST_CASE("loss curve: a line and a legend entry per run, whatever the losses") {
  std::vector<LossCurve> curves;
  for (const Run& run : two_runs()) {
    curves.push_back({run.name, run.losses});
  }
  curves.emplace_back();  // a run without steps
  std::ostringstream out;
  write_loss_curves(curves, out);
  const std::string text = out.str();
  CHECK(text.starts_with("<svg"));
  CHECK(contains(text, "a \"quoted\" &lt;name>"));
  CHECK(contains(text, "other"));
  CHECK_FALSE(contains(text, "nan"));
  CHECK_FALSE(contains(text, "inf"));
}

}  // namespace
