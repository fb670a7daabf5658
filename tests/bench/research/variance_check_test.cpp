// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that the variances which actpack/variance.hpp predicts are those of gradients under
// rounding, that the trainer's check would notice a wrong formula, and what it prints and draws.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bench/research/support.hpp"
#include "research/options.hpp"
#include "research/variance_check.hpp"
#include "research/variance_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"

namespace {

using namespace research;
using support::count, support::exact_contexts, support::for_each_thread_count;
using Quantity = VarianceReport::Quantity;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

constexpr std::int64_t images = 24;
constexpr std::int64_t classes = 4;

// Odd sizes: several groups and a short one, a row and a column that pooling leaves out, and a
// block without pooling.
std::vector<BlockShape> small_shapes() {
  return {{{7, 6, 1}, 5, true}, {{3, 3, 5}, 6, false}, {{3, 3, 6}, 3, true}};
}

Batch random_batch() {
  std::mt19937_64 random(5);
  Batch batch{Tensor<std::uint8_t>(images, 42), {}};
  for (std::uint8_t& pixel : batch.pixels.span()) {
    pixel = static_cast<std::uint8_t>(random());
  }
  for (std::int64_t image = 0; image < images; ++image) {
    batch.labels.push_back(static_cast<std::uint8_t>(random() % classes));
  }
  return batch;
}

// Its γ are of either sign and of several sizes.
Network make_network() {
  Network network(small_shapes(), classes, {1.0f / 64, -2.0f}, 3);
  const std::vector<Parameter*> parameters = network.parameters();
  for (std::size_t block = 0; block < small_shapes().size(); ++block) {
    float gamma = 0.75f;
    for (float& value : parameters[3 * block + 1]->value.span()) {
      value = gamma;
      gamma *= gamma > 0 ? -1.25f : -1.0f;
    }
  }
  return network;
}

std::vector<VarianceReport> small_check(std::int64_t draws) {
  Network network = make_network();
  Contexts exact = exact_contexts();
  return check_variance(network, random_batch(), exact, codecs_to_check(2, 32), 11, draws,
                        [](std::int64_t, std::int64_t) {});
}

TEST_CASE("variance check: what it records gives the network's gradients to the last bit") {
  Network network = make_network();
  Contexts exact = exact_contexts();
  const StepRecord record(network, random_batch(), exact);
  REQUIRE(record.blocks().size() == 3);
  for (std::size_t index = 0; index <= 3; ++index) {
    CAPTURE(index);
    const std::span<const float> expected = network.parameters()[3 * index]->gradient.span();
    CHECK(std::ranges::equal(WeightedLayer(record, index).exact_weight_gradient(), expected));
  }
}

TEST_CASE("variance check: noise value by value adds up to what the library measures") {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> row(300);
  for (float& value : row) {
    value = normal(random);
  }
  row[17] = 0;
  for (const int bits : {1, 2, 4, 8}) {
    for (Codec& codec : codecs_to_check(bits, 64)) {
      for (const Reader reader : {Reader::relu, Reader::whole}) {
        CAPTURE(describe(codec));
        CAPTURE(reader == Reader::relu);
        const RowNoise noise = measure_row_noise(row, codec, reader);
        REQUIRE(noise.by_value.size() == row.size());
        codec.is_subtractive = true;
        const double squared_steps = 12 * measure_row_noise(row, codec, reader).total;
        // The library knows a position to 2^−14 of a step, and f (1 − f) is no steeper than 1.
        CHECK(std::abs(sum(noise.by_value) - noise.total) < 0x1p-14 * squared_steps);
      }
    }
  }
}

TEST_CASE("variance check: prediction and measurement agree, and half as much again would not") {
  // Squared errors sum up to a multiple of χ², nearly normal after this many draws.
  constexpr double deviations = 5;
  const std::vector<VarianceReport> reports = small_check(600);
  CHECK(reports.size() == 4 * 4 - 2 + 2 * 3 * 4);  // sign-magnitude leaves the first input as it is
  for (const VarianceReport& report : reports) {
    CAPTURE(report.layer);
    CAPTURE(quantity_name(report.quantity));
    CAPTURE(describe(report.codec));
    CAPTURE(report.measured);
    CAPTURE(report.from_values);
    CAPTURE(report.standard_error);
    if (report.quantity == Quantity::gradient_one_rounding) {
      continue;  // so few values that rounding x̂ once is seen to differ from rounding it twice
    }
    const double bound = deviations * report.standard_error;
    CHECK(std::abs(report.from_values - report.measured) < bound);
    CHECK(std::abs(1.5 * report.from_values - report.measured) > bound);
    CHECK(std::abs(report.mean_error - 1) < deviations * report.mean_error_deviation);
    if (report.layer == "classifier") {  // every value of a sample has the same gain
      CHECK(report.from_mean_gain == doctest::Approx(report.from_values).epsilon(0x1p-12));
    }
  }
}

TEST_CASE("variance check: results do not depend on the number of threads") {
  std::vector<VarianceReport> expected;
  for_each_thread_count([&] {
    const std::vector<VarianceReport> reports = small_check(2);
    expected = expected.empty() ? reports : expected;
    REQUIRE(reports.size() == expected.size());
    for (std::size_t i = 0; i < reports.size(); ++i) {
      CHECK(reports[i].measured == expected[i].measured);
      CHECK(reports[i].mean_error == expected[i].mean_error);
      CHECK(reports[i].from_mean_gain == expected[i].from_mean_gain);
      CHECK(reports[i].from_values == expected[i].from_values);
    }
  });
}

TEST_CASE("variance check: it takes two draws or more, and a codec") {
  const auto parse = [](std::vector<const char*> arguments) {
    return parse_variance_options(arguments);
  };
  CHECK(parse({}).draws == 500);
  CHECK(parse({"--draws", "50", "--bits", "4"}).draws == 50);
  CHECK(parse({"--bits", "4"}).bits == 4);
  CHECK_THROWS_AS(parse({"--draws", "1"}), OptionError);
  CHECK_THROWS_AS(parse({"--bits", "32"}), OptionError);
}

TEST_CASE("variance check: every report is in the table, in the results and in the picture") {
  const std::vector<VarianceReport> reports = small_check(2);
  std::ostringstream table;
  print_variances(reports, table);
  CHECK(count(table.str(), "2-bit") == reports.size());
  const std::string json = variance_json(reports);
  CHECK(count(json, "\"from_values\": ") == reports.size());
  CHECK(count(json, "null") == 0);
  std::ostringstream picture;
  write_variance_picture(reports, picture);
  const std::ptrdiff_t two_roundings =
      std::ranges::count(reports, Quantity::gradient_two_roundings, &VarianceReport::quantity);
  CHECK(count(picture.str(), "font-size=\"11\"") ==
        reports.size() - static_cast<std::size_t>(two_roundings));
  CHECK(count(picture.str(), "nan") == 0);
  CHECK(count(picture.str(), "inf") == 0);
}

}  // namespace
