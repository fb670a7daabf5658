// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the comparison of policies for widths: that all stay within the same bytes, that what they
// are told of noise and gains is right, that gradients stay unbiased, and what is printed and
// drawn.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "bench/research/support.hpp"
#include "common/json.hpp"
#include "research/options.hpp"
#include "research/variance_check.hpp"
#include "research/width_comparison.hpp"
#include "research/width_plan.hpp"
#include "research/width_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/network.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace research;
using support::count, support::exact_contexts, support::for_each_thread_count;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

constexpr std::int64_t images = 20;
constexpr std::int64_t classes = 4;

// Images of several groups, the last of them short, and a ragged last group of the whole tensor.
Network make_network() {
  return {{{{9, 10, 1}, 8, true}, {{4, 5, 8}, 8, false}, {{4, 5, 8}, 8, true}},
          classes,
          PixelScale{1.0f / 64, -2.0f},
          3};
}

// Images of different contrast, so that rows differ, and of so many classes.
Batch random_batch(std::uint64_t seed, std::uint64_t labels = classes) {
  std::mt19937_64 random(seed);
  Batch batch{Tensor<std::uint8_t>(images, 90), {}};
  for (std::int64_t image = 0; image < images; ++image) {
    const std::uint64_t contrast = 16 + random() % 240;
    for (std::uint8_t& pixel : batch.pixels.image(image)) {
      pixel = static_cast<std::uint8_t>(random() % contrast);
    }
    batch.labels.push_back(static_cast<std::uint8_t>(random() % labels));
  }
  return batch;
}

Codec affine_codec(bool is_subtractive) {
  Codec codec;
  codec.context = Codec::Context::affine;
  codec.is_subtractive = is_subtractive;
  codec.group_size = 64;
  return codec;
}

// Keeps alive the objects that a comparison refers to.
struct Setting {
  explicit Setting(bool is_subtractive, std::uint64_t labels_of_batch = classes,
                   std::uint64_t labels_of_others = classes)
      : batch(random_batch(1, labels_of_batch)), others(make_others(labels_of_others)),
        comparison(network, batch, others, exact, affine_codec(is_subtractive), 11) {}

  Network network = make_network();
  Batch batch;
  std::vector<Batch> others;
  Contexts exact = exact_contexts();
  WidthComparison comparison;

  static std::vector<Batch> make_others(std::uint64_t labels) {
    std::vector<Batch> others;
    for (std::uint64_t seed = 2; seed < 5; ++seed) {
      others.push_back(random_batch(seed, labels));
    }
    return others;
  }
};

// All policies at all averages, hardly measured.
const std::vector<WidthReport>& two_draws() {
  static const std::vector<WidthReport> reports = [] {
    Setting setting(false);
    return compare_widths(setting.network, setting.batch, setting.others, setting.exact,
                          affine_codec(false), 11, 2, [](std::int64_t) {});
  }();
  return reports;
}

TEST_CASE("comparison of widths: every policy stays within uniform's bytes, which are all stored") {
  for (const bool is_subtractive : {false, true}) {
    Setting setting(is_subtractive);
    for (const double average_bits : compared_average_bits) {
      const WidthPlan uniform = setting.comparison.make_uniform_plan(average_bits);
      const std::vector<double> gains = setting.comparison.measure_gains(uniform);
      for (const WidthPolicy policy : all_policies) {
        CAPTURE(average_bits);
        CAPTURE(policy_name(policy));
        const WidthPlan plan = setting.comparison.make_plan(policy, uniform, gains);
        REQUIRE(plan.size() == 7);
        std::int64_t bytes = 0;
        std::int64_t numel = 0;
        for (const TensorWidths& tensor : plan) {
          const actpack::Layout& layout = tensor.layout;
          numel += layout.numel();
          bytes += 4 * layout.num_groups() + static_cast<std::int64_t>(tensor.row_bits.size());
          for (std::int64_t row = 0; row < layout.rows; ++row) {
            const int bits = tensor.bits(row);
            CHECK((bits == 1 || bits == 2 || bits == 4 || bits == 8));
            bytes += 4 * ((layout.size_of_row(row) * bits + 31) / 32);
          }
          CHECK((tensor.row_bits.empty() ||
                 static_cast<std::int64_t>(tensor.row_bits.size()) == layout.rows));
        }
        CHECK(stored_bytes(plan) == bytes);
        CHECK(bytes <= stored_bytes(uniform));
        CHECK(numel == images * (90 + 720 + 160 + 160 + 160 + 160 + 32));
      }
    }
  }
}

TEST_CASE("comparison of widths: uniform has its average, and no widths where all are the same") {
  Setting setting(false);
  for (const double average_bits : compared_average_bits) {
    for (const TensorWidths& tensor : setting.comparison.make_uniform_plan(average_bits)) {
      double bits = 0;
      for (std::int64_t row = 0; row < images; ++row) {
        bits += tensor.bits(row);
      }
      CHECK(bits == average_bits * images);
      CHECK(tensor.row_bits.empty() == (average_bits == 2));
    }
  }
}

TEST_CASE("make_layouts: rows of an image, or of a group that crosses from image to image") {
  Network network = make_network();
  Contexts exact = exact_contexts();
  const StepRecord record(network, random_batch(1), exact);
  const std::vector<actpack::Layout> by_image = make_layouts(record, Rows::of_an_image, 64);
  const std::vector<actpack::Layout> by_group = make_layouts(record, Rows::of_a_group, 64);
  REQUIRE(by_image.size() == 7);
  REQUIRE(by_group.size() == 7);
  CHECK(by_image[0].rows == images);
  CHECK(by_image[0].row_size == 90);
  CHECK(by_group[0].rows == 29);  // 1800 values are 28 groups and 8
  CHECK(by_group[0].row_size == 64);
  CHECK(by_group[0].last_row_size == 8);
  CHECK(by_group[1].last_row_size == 0);  // 225 groups
  for (std::size_t tensor = 0; tensor < 7; ++tensor) {
    CHECK(by_group[tensor].numel() == by_image[tensor].numel());
    CHECK(by_group[tensor].num_groups() == by_group[tensor].rows);
  }
}

TEST_CASE("measure_noise: what the check of variances finds value by value") {
  Network network = make_network();
  Contexts exact = exact_contexts();
  const StepRecord record(network, random_batch(1), exact);
  const std::vector<actpack::Layout> layouts = make_layouts(record, Rows::of_an_image, 64);
  for (const bool is_subtractive : {false, true}) {
    for (const int bits : actpack::widths) {
      Codec codec = affine_codec(is_subtractive);
      codec.bits = bits;
      for (std::size_t tensor = 0; tensor < layouts.size(); ++tensor) {
        CAPTURE(tensor);
        const RowVariances noise = measure_noise(record, tensor, layouts[tensor], codec);
        const StoredInput stored(record, tensor / 2, codec);
        for (std::int64_t image = 0; image < images; ++image) {
          const RowNoise expected =
              tensor % 2 == 0 ? stored.input_noise(stored.row_noise(image), image)
                              : measure_row_noise(saved_tensor(record, tensor).image(image), codec,
                                                  Reader::whole);
          // The library knows a position to 2^−14 of a step; see variance_check's test.
          CHECK(noise[static_cast<std::size_t>(image)][width_index(bits)] ==
                doctest::Approx(sum(expected.by_value)).epsilon(1e-3));
        }
      }
    }
  }
}

TEST_CASE("Contexts: a plan of the codec's own widths changes nothing, another one does") {
  Setting setting(true);
  const auto gradient_under = [&](const WidthPlan* plan) {
    Contexts contexts(affine_codec(true), 5);
    if (plan != nullptr) {
      contexts.use_plan(as_plan(*plan));
    }
    return gradient_of(setting.network, setting.batch, contexts);
  };
  const WidthPlan two_bits = setting.comparison.make_uniform_plan(2);
  const WidthPlan mixed = setting.comparison.make_uniform_plan(3);
  CHECK(gradient_under(&two_bits) == gradient_under(nullptr));
  CHECK(gradient_under(&mixed) != gradient_under(nullptr));
}

TEST_CASE("comparison of widths: gains by perturbation predict the variance") {
  // At 8 bits a gain no longer depends on the noise of other tensors, and in the batch itself it
  // has no other error than chance.
  Network network = make_network();
  const Batch batch = random_batch(1);
  std::vector<Batch> same(50);
  std::ranges::generate(same, [&] { return copy_of(batch); });
  Contexts exact = exact_contexts();
  WidthComparison comparison(network, batch, same, exact, affine_codec(false), 11);
  constexpr std::int64_t draws = 100;
  const WidthReport report = comparison.compare(8, draws, [] {}).front();
  // Half a squared difference deviates as much as a squared error. 5 deviations of both means.
  const double deviation =
      report.standard_error *
      std::sqrt(1 + static_cast<double>(draws) / static_cast<double>(same.size()));
  CAPTURE(report.measured);
  CAPTURE(report.predicted);
  CHECK(std::abs(report.predicted - report.measured) < 5 * deviation);
  CHECK(std::abs(2 * report.predicted - report.measured) > 5 * deviation);
}

TEST_CASE("comparison of widths: gradients are unbiased under every policy") {
  constexpr double deviations = 5;
  for (const WidthReport& report : Setting(false).comparison.compare(1.5, 200, [] {})) {
    CAPTURE(policy_name(report.policy));
    CAPTURE(report.average_bits);
    CAPTURE(report.mean_error);
    CHECK(std::abs(report.mean_error - 1) < deviations * report.mean_error_deviation);
  }
}

TEST_CASE("comparison of widths: the controller's policies predict less variance than uniform") {
  const WidthReport* uniform = nullptr;
  for (const WidthReport& report : two_draws()) {
    CAPTURE(policy_name(report.policy));
    CAPTURE(report.average_bits);
    switch (report.policy) {
      case WidthPolicy::uniform: uniform = &report; break;
      case WidthPolicy::per_layer:
      case WidthPolicy::per_sample:
      case WidthPolicy::per_group:
        // At 2 bits uniform rows need no widths beside them: on rows as short as these, that
        // outweighs the rest.
        CHECK((report.predicted < uniform->predicted || report.average_bits == 2));
        break;
      default: break;  // they go by other gains
    }
  }
}

TEST_CASE("comparison of widths: only the bound knows the batch's own gradients") {
  // Labels change gradients and nothing else.
  const Setting setting(false);
  const Setting other_labels(false, 1);
  const Setting other_labels_before(false, classes, 1);
  const auto row_bits = [](const Setting& of, WidthPolicy policy) {
    std::vector<int> bits;
    for (const double average_bits : compared_average_bits) {
      const WidthPlan uniform = of.comparison.make_uniform_plan(average_bits);
      for (const TensorWidths& tensor :
           of.comparison.make_plan(policy, uniform, std::vector(uniform.size(), 1.0))) {
        for (std::int64_t row = 0; row < tensor.layout.rows; ++row) {
          bits.push_back(tensor.bits(row));
        }
      }
    }
    return bits;
  };
  for (const WidthPolicy policy : all_policies) {
    CAPTURE(policy_name(policy));
    const std::vector<int> bits = row_bits(setting, policy);
    CHECK((row_bits(other_labels, policy) != bits) == (policy == WidthPolicy::gradients_known));
    CHECK((row_bits(other_labels_before, policy) != bits) == (policy == WidthPolicy::actnn));
  }
}

TEST_CASE("comparison of widths: in ActNN's way a batch norm has the bits of its layer") {
  for (const WidthReport& report : two_draws()) {
    if (report.policy == WidthPolicy::actnn) {
      for (std::size_t tensor = 1; tensor < report.bits_by_tensor.size(); tensor += 2) {
        // Less than a step of one image is left over.
        CHECK(std::abs(report.bits_by_tensor[tensor] - report.bits_by_tensor[tensor - 1]) <
              4.0 / images);
      }
    }
  }
}

TEST_CASE("comparison of widths: results do not depend on the number of threads") {
  std::vector<WidthReport> expected;
  for_each_thread_count([&] {
    const std::vector<WidthReport> reports = Setting(false).comparison.compare(1.5, 2, [] {});
    expected = expected.empty() ? reports : expected;
    REQUIRE(reports.size() == expected.size());
    for (std::size_t i = 0; i < reports.size(); ++i) {
      CHECK(reports[i].measured == expected[i].measured);
      CHECK(reports[i].mean_error == expected[i].mean_error);
      CHECK(reports[i].predicted == expected[i].predicted);
      CHECK(reports[i].bits_by_tensor == expected[i].bits_by_tensor);
    }
  });
}

TEST_CASE("comparison of widths: it takes two draws or more") {
  const auto parse = [](std::vector<const char*> arguments) {
    return parse_width_options(arguments);
  };
  CHECK(parse({}).draws == 256);
  CHECK(parse({}).codec.context == Codec::Context::affine);
  CHECK(parse({"--draws", "100", "--decode", "plain"}).draws == 100);
  CHECK_FALSE(parse({"--decode", "plain"}).codec.is_subtractive);
  CHECK_THROWS_AS(parse({"--draws", "1"}), OptionError);
}

TEST_CASE("comparison of widths: every policy is in the table, the results and the picture") {
  const std::vector<WidthReport>& reports = two_draws();
  REQUIRE(reports.size() == all_policies.size() * compared_average_bits.size());
  std::ostringstream table;
  print_widths(reports, table);
  const std::string json = width_json(reports);
  std::ostringstream picture;
  write_width_picture(reports, picture);
  for (const WidthPolicy policy : all_policies) {
    CAPTURE(policy_name(policy));
    CHECK(count(table.str(), "\n" + policy_name(policy) + "  ") == compared_average_bits.size());
    CHECK(count(json, quoted(policy_name(policy))) == compared_average_bits.size());
    CHECK(count(picture.str(), ">" + policy_name(policy) + "<") == 1);
  }
  CHECK(count(json, "null") == 0);
  CHECK(count(picture.str(), "L") == reports.size() - all_policies.size());
  CHECK(count(picture.str(), "nan") == 0);
  CHECK(count(picture.str(), "inf") == 0);
}

}  // namespace
