// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the controller against a model of its averages that solves by itself, budgets against the
// bytes of real buffers, the perturbation against a small network's variance, and data-parallel
// training with two processes.
#include <doctest/doctest.h>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <actpack/auto_precision.hpp>
#include <actpack/packed.hpp>
#include <actpack/quantize.hpp>

#include "support/allocation_reference.hpp"
#include "support/compare.hpp"
#include "support/data.hpp"
#include "support/guarded_buffer.hpp"
#include "support/statistics.hpp"

namespace {

using actpack::AutoPrecision;
using actpack::AutoPrecisionOptions;
using actpack::Layout;
using actpack::PackedBuffer;
using actpack::PrecisionPer;
using actpack::Rounding;
using support::Generator;
using support::GuardedBuffer;

using Table = std::array<double, 4>;  // noise at 1, 2, 4 and 8 bits
using Widths = std::vector<std::vector<std::uint8_t>>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr std::array not_usable{not_a_number, infinity, 1e200};

struct TensorSpec {
  Layout layout;
  PrecisionPer per = PrecisionPer::row;

  std::size_t rows() const { return static_cast<std::size_t>(layout.rows); }
  std::int64_t size_of_row(std::size_t row) const {
    return layout.size_of_row(static_cast<std::int64_t>(row));
  }
};

TensorSpec spec(std::int64_t rows, std::int64_t row_size, PrecisionPer per = PrecisionPer::row,
                std::int64_t last_row_size = 0, std::int32_t group_size = 32) {
  return {{.rows = rows,
           .row_size = row_size,
           .group_size = group_size,
           .last_row_size = last_row_size},
          per};
}

AutoPrecision make(const AutoPrecisionOptions& options, const std::vector<TensorSpec>& tensors) {
  AutoPrecision precision(options);
  for (const TensorSpec& tensor : tensors) precision.add_tensor(tensor.layout, tensor.per);
  return precision;
}

std::vector<std::uint8_t> widths_of(const AutoPrecision& precision, std::size_t tensor) {
  const std::span<const std::uint8_t> bits = precision.row_bits(tensor);
  return {bits.begin(), bits.end()};
}

Widths widths_of(const AutoPrecision& precision) {
  Widths widths;
  for (std::size_t t = 0; t < precision.num_tensors(); ++t) {
    widths.push_back(widths_of(precision, t));
  }
  return widths;
}

std::int64_t numel_of(const std::vector<TensorSpec>& tensors) {
  std::int64_t sum = 0;
  for (const TensorSpec& tensor : tensors) sum += tensor.layout.numel();
  return sum;
}

std::int64_t bits_used(const TensorSpec& tensor, const std::vector<std::uint8_t>& widths) {
  std::int64_t sum = 0;
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    sum += tensor.size_of_row(row) * widths[row];
  }
  return sum;
}

std::int64_t bits_used(const std::vector<TensorSpec>& tensors, const Widths& widths) {
  std::int64_t sum = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) sum += bits_used(tensors[t], widths[t]);
  return sum;
}

bool are_widths(const Widths& widths, int min_bits, int max_bits) {
  return std::ranges::all_of(widths, [&](const std::vector<std::uint8_t>& rows) {
    return std::ranges::all_of(rows, [&](std::uint8_t bits) {
      return std::has_single_bit(bits) && min_bits <= bits && bits <= max_bits;
    });
  });
}

// ---- Observations -----------------------------------------------------------------------------

struct Observation {
  bool is_measured = false;
  std::vector<double> ranges = {};  // squared norms; or
  std::vector<Table> noise = {};
  std::vector<double> gains = {};
};

Table closed_form(const TensorSpec& tensor, double squared_range_norm) {
  return reference::variance_by_width(tensor.layout.group_size / 6.0 * squared_range_norm);
}

Observation random_observation(const TensorSpec& tensor, bool is_measured, Generator& generator) {
  Observation observation{.is_measured = is_measured};
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    observation.ranges.push_back(reference::log_uniform(generator, -3, 3));
    observation.noise.push_back(
        reference::make_table(reference::Noise::decreasing_table, generator));
    observation.gains.push_back(reference::log_uniform(generator, -3, 3));
  }
  return observation;
}

void observe_noise(AutoPrecision& precision, std::size_t tensor, const Observation& observation) {
  if (observation.is_measured) {
    precision.observe_noise(tensor, observation.noise);
  } else {
    precision.observe_ranges(tensor, observation.ranges);
  }
}

void observe(AutoPrecision& precision, std::size_t tensor, const Observation& observation) {
  observe_noise(precision, tensor, observation);
  precision.observe_gains(tensor, observation.gains);
}

// Every row alike: enough to know a tensor.
void observe_all(AutoPrecision& precision, std::size_t tensor, double range, double gain) {
  const std::size_t rows = precision.row_bits(tensor).size();
  precision.observe_ranges(tensor, std::vector<double>(rows, range));
  precision.observe_gains(tensor, std::vector<double>(rows, gain));
}

// ---- The controller a second time -------------------------------------------------------------

bool is_usable(double value) { return std::isfinite(value) && value < 1e140; }
bool is_usable(const Table& noise) {
  return std::ranges::all_of(noise, [](double n) { return is_usable(n); });
}

// What was seen of one item, a row or a tensor.
struct Item {
  std::vector<Table> new_noises;  // since the last solution
  std::vector<double> new_gains;
  std::optional<Table> noise;
  std::optional<double> gain;
};

// Averages from the documentation alone, over lists of all that was observed. The widths of
// tensors that are not known yet are tested elsewhere: those it takes as they are.
class Model {
 public:
  Model(AutoPrecisionOptions options, std::vector<TensorSpec> tensors)
      : options_(std::move(options)), tensors_(std::move(tensors)) {
    for (const TensorSpec& t : tensors_) {
      items_.emplace_back(t.per == PrecisionPer::row ? t.rows() : 1);
    }
  }

  void observe_noise(std::size_t tensor, const Observation& observation) {
    const TensorSpec& t = tensors_[tensor];
    is_measured_ = is_measured_ || observation.is_measured;
    Table sum{};
    for (std::size_t row = 0; row < t.rows(); ++row) {
      const Table noise = observation.is_measured ? observation.noise[row]
                                                  : closed_form(t, observation.ranges[row]);
      for (std::size_t width = 0; width < 4; ++width) sum[width] += noise[width];
      if (t.per == PrecisionPer::row && is_usable(noise)) {
        items_[tensor][row].new_noises.push_back(noise);
      }
    }
    if (t.per == PrecisionPer::tensor && is_usable(sum)) {
      items_[tensor][0].new_noises.push_back(sum);
    }
  }

  void observe_gains(std::size_t tensor, const std::vector<double>& gains) {
    for (std::size_t row = 0; row < gains.size(); ++row) {
      Item& item = items_[tensor][tensors_[tensor].per == PrecisionPer::row ? row : 0];
      if (is_usable(gains[row])) item.new_gains.push_back(gains[row]);
    }
  }

  bool step() {
    ++steps_;
    if (steps_ != 1 && steps_ % options_.solve_interval != 0) return false;
    for (std::vector<Item>& tensor : items_) {
      for (Item& item : tensor) {
        update(item.noise, item.new_noises);
        update(item.gain, item.new_gains);
      }
    }
    return true;
  }

  bool is_known(std::size_t tensor) const {
    return std::ranges::any_of(items_[tensor], [](const Item& i) { return i.noise.has_value(); }) &&
           std::ranges::any_of(items_[tensor], [](const Item& i) { return i.gain.has_value(); });
  }

  Widths expected(Widths widths) const {
    reference::AllocationInstance problem;
    problem.bit_budget =
        static_cast<std::int64_t>(options_.average_bits * static_cast<double>(numel_of(tensors_)));
    for (std::size_t t = 0; t < tensors_.size(); ++t) {
      if (is_known(t)) {
        add_items(problem, t);
      } else {
        problem.bit_budget -= bits_used(tensors_[t], widths[t]);
      }
    }
    const std::vector<std::uint8_t> bits = solve(problem);
    auto next = bits.begin();
    for (std::size_t t = 0; t < tensors_.size(); ++t) {
      if (!is_known(t)) continue;
      for (std::uint8_t& row : widths[t]) {
        row = *next;
        if (tensors_[t].per == PrecisionPer::row) ++next;
      }
      if (tensors_[t].per == PrecisionPer::tensor) ++next;
    }
    return widths;
  }

  std::vector<std::uint8_t> solve(reference::AllocationInstance& problem) const {
    problem.min_bits.assign(problem.items(), static_cast<std::uint8_t>(options_.min_bits));
    problem.max_bits.assign(problem.items(), static_cast<std::uint8_t>(options_.max_bits));
    if (is_measured_) {
      return actpack::allocate_measured_bits({problem.variance, problem.numel, problem.bit_budget,
                                              problem.min_bits, problem.max_bits})
          .bits;
    }
    for (const Table& variance : problem.variance) problem.sensitivity.push_back(variance[0]);
    return actpack::allocate_bits({problem.sensitivity, problem.numel, problem.bit_budget,
                                   problem.min_bits, problem.max_bits})
        .bits;
  }

 private:
  void update(std::optional<Table>& average, std::vector<Table>& seen) const {
    if (seen.empty()) return;
    Table next{};
    for (std::size_t width = 0; width < 4; ++width) {
      std::optional<double> own;
      if (average) own = (*average)[width];
      std::vector<double> values;
      for (const Table& table : seen) values.push_back(table[width]);
      update(own, values);
      next[width] = *own;
    }
    average = next;
    seen.clear();
  }
  void update(std::optional<double>& average, std::vector<double>& seen) const {
    if (seen.empty()) return;
    double mean = 0;
    for (const double value : seen) mean += value;
    mean /= static_cast<double>(seen.size());
    average = average ? options_.decay * *average + (1 - options_.decay) * mean : mean;
    seen.clear();
  }

  void add_items(reference::AllocationInstance& problem, std::size_t tensor) const {
    Table mean_noise{};
    double mean_gain = 0;
    double noises = 0;
    double gains = 0;
    for (const Item& item : items_[tensor]) {
      for (std::size_t width = 0; width < 4; ++width) {
        mean_noise[width] += item.noise ? (*item.noise)[width] : 0;
      }
      mean_gain += item.gain.value_or(0);
      noises += item.noise ? 1 : 0;
      gains += item.gain ? 1 : 0;
    }
    for (double& noise : mean_noise) noise /= noises;
    mean_gain /= gains;
    const TensorSpec& t = tensors_[tensor];
    for (std::size_t i = 0; i < items_[tensor].size(); ++i) {
      const Item& item = items_[tensor][i];
      Table variance = item.noise.value_or(mean_noise);
      for (double& v : variance) v *= item.gain.value_or(mean_gain);
      problem.variance.push_back(variance);
      problem.numel.push_back(t.per == PrecisionPer::row ? t.size_of_row(i) : t.layout.numel());
    }
  }

  AutoPrecisionOptions options_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::vector<Item>> items_;
  std::int64_t steps_ = 0;
  bool is_measured_ = false;
};

// Rows and tensors of several sizes, some of them ragged.
const std::vector<TensorSpec>& mixed_tensors() {
  static const std::vector<TensorSpec> tensors{
      spec(7, 64),
      spec(5, 96, PrecisionPer::tensor, 33),
      spec(6, 40, PrecisionPer::row, 9, 64),
      spec(1, 500, PrecisionPer::tensor),
      spec(4, 130, PrecisionPer::row, 1),
  };
  return tensors;
}

std::vector<TensorSpec> random_tensors(Generator& generator) {
  std::vector<TensorSpec> tensors;
  const std::uint32_t count = 1 + generator.below(5);
  for (std::uint32_t t = 0; t < count; ++t) {
    const std::int64_t rows = 1 + generator.below(12);
    const std::int64_t row_size = 1 + generator.below(200);
    const PrecisionPer per = generator.below(2) == 0 ? PrecisionPer::row : PrecisionPer::tensor;
    const std::int64_t last = generator.below(static_cast<std::uint32_t>(row_size) + 1);
    tensors.push_back(
        spec(rows, row_size, per, last, static_cast<std::int32_t>(32 * (1 + generator.below(3)))));
  }
  return tensors;
}

// ---- Weighing ---------------------------------------------------------------------------------

// Two tensors of one size and bits for one of them to have two, the other one: which has more
// variance shows in the widths, and so does the number that the controller believes in.
const AutoPrecisionOptions for_one_of_two{.average_bits = 1.5, .max_bits = 2};
const std::vector<TensorSpec> two_tensors{spec(1, 64, PrecisionPer::tensor),
                                          spec(1, 64, PrecisionPer::tensor)};

bool is_first_wider(const AutoPrecision& precision) {
  const int first = precision.row_bits(0)[0];
  const int second = precision.row_bits(1)[0];
  CHECK(first + second == 3);
  return first > second;
}

}  // namespace

// ---- Errors -----------------------------------------------------------------------------------

TEST_CASE("AutoPrecision: options that make no sense are refused") {
  struct Refusal {
    AutoPrecisionOptions options;
    std::vector<std::string> words;
  };
  const std::vector<Refusal> refusals{
      {{.min_bits = 0}, {"min_bits", "0"}},
      {{.min_bits = -1}, {"min_bits", "-1"}},
      {{.min_bits = 3}, {"min_bits", "3"}},
      {{.min_bits = 16}, {"min_bits", "16"}},
      {{.max_bits = 0}, {"max_bits", "0"}},
      {{.max_bits = 7}, {"max_bits", "7"}},
      {{.max_bits = 16}, {"max_bits", "16"}},
      {{.average_bits = 4, .min_bits = 4, .max_bits = 2}, {"min_bits", "4", "max_bits", "2"}},
      {{.byte_budget = -1}, {"byte_budget", "-1"}},
      {{.average_bits = 0.5}, {"average_bits", "0.500000"}},
      {{.average_bits = -2}, {"average_bits", "-2.000000"}},
      {{.average_bits = 8.5}, {"average_bits", "8.500000"}},
      {{.average_bits = infinity}, {"average_bits", "inf"}},
      {{.average_bits = not_a_number}, {"average_bits", "nan"}},
      {{.average_bits = 3, .min_bits = 4}, {"average_bits", "3.000000", "min_bits", "4"}},
      {{.decay = -0.5}, {"decay", "-0.500000"}},
      {{.decay = 1}, {"decay", "1.000000"}},
      {{.decay = infinity}, {"decay", "inf"}},
      {{.decay = not_a_number}, {"decay", "nan"}},
      {{.solve_interval = 0}, {"solve_interval", "0"}},
      {{.solve_interval = -3}, {"solve_interval", "-3"}},
  };
  for (const Refusal& refusal : refusals) {
    support::check_refused([&] { AutoPrecision precision(refusal.options); }, refusal.words);
  }
}

TEST_CASE("AutoPrecision: the ends of what options may be are accepted") {
  for (const int bits : {1, 2, 4, 8}) {
    const AutoPrecision precision({.average_bits = static_cast<double>(bits),
                                   .min_bits = bits,
                                   .max_bits = bits,
                                   .decay = 0,
                                   .solve_interval = 1});
    CHECK(precision.num_tensors() == 0);
  }
  AutoPrecision precision;
  CHECK(precision.step());  // a model without tensors has nothing to decide
  CHECK_FALSE(precision.step());
}

TEST_CASE("AutoPrecision: average_bits plays no part beside a byte budget") {
  CHECK_NOTHROW(AutoPrecision({.byte_budget = 1000, .min_bits = 4}));
}

TEST_CASE("AutoPrecision: tensors that are empty, wrong or late are refused") {
  AutoPrecision precision = make({}, {spec(3, 40)});
  observe_all(precision, 0, 2, 3);
  const std::vector<std::byte> before = precision.save();
  const auto check = [&](const Layout& layout, const std::vector<std::string>& words) {
    support::check_refused([&] { precision.add_tensor(layout); }, words);
    CHECK(precision.num_tensors() == 1);
    CHECK(precision.save() == before);
  };
  check({.rows = 0, .row_size = 3}, {"layout"});
  check({.rows = 3, .row_size = 0}, {"layout"});
  check({}, {"layout"});
  check({.rows = 2, .row_size = 3, .group_size = 33}, {"layout.group_size", "33"});
  check({.rows = 2, .row_size = 3, .bits = 3}, {"layout.bits", "3"});
  check({.rows = -2, .row_size = 3}, {"layout.rows", "-2"});
  check({.rows = 2, .row_size = 3, .last_row_size = 4}, {"layout.last_row_size", "4"});
  precision.step();
  support::check_refused([&] { precision.add_tensor({.rows = 2, .row_size = 3}); }, {"1"});
  precision.step();
  support::check_refused([&] { precision.add_tensor({.rows = 2, .row_size = 3}); }, {"2"});
  CHECK(precision.num_tensors() == 1);
}

TEST_CASE("AutoPrecision: tensors are numbered from 0 and their layout's bits play no part") {
  for (const int bits : {1, 2, 4, 8}) {
    AutoPrecision precision;
    CHECK(precision.add_tensor({.rows = 3, .row_size = 5, .bits = bits}) == 0);
    CHECK(precision.add_tensor({.rows = 2, .row_size = 5, .bits = bits}, PrecisionPer::tensor) ==
          1);
    CHECK(precision.num_tensors() == 2);
    CHECK(widths_of(precision) == Widths{{2, 2, 2}, {2, 2}});
  }
}

TEST_CASE("AutoPrecision: wrong numbers, sizes and signs are refused and change nothing") {
  AutoPrecision precision = make({}, {spec(3, 40), spec(2, 40, PrecisionPer::tensor)});
  // Measured, or a refused table would count as the first.
  precision.observe_noise(0, std::vector<Table>(3, {8, 4, 2, 1}));
  precision.observe_noise(1, std::vector<Table>(2, {8, 4, 2, 1}));
  precision.observe_gains(0, std::vector<double>{1, 2, 3});
  const std::vector<std::byte> before = precision.save();
  const Widths widths = widths_of(precision);
  GuardedBuffer<std::uint8_t> bits(std::size_t{3});
  const auto check = [&](const auto& call, const std::vector<std::string>& words) {
    support::check_refused(call, words);
    CHECK(precision.save() == before);
    CHECK(widths_of(precision) == widths);
    CHECK(bits.is_untouched());
  };

  const std::vector<double> numbers{1, 2, 3};
  const std::vector<Table> tables(3, {4, 3, 2, 1});
  for (const std::size_t tensor : {std::size_t{2}, std::size_t{7}}) {
    const std::vector<std::string> words{"tensor", std::to_string(tensor), "2"};
    check([&] { (void)precision.row_bits(tensor); }, words);
    check([&] { precision.observe_ranges(tensor, numbers); }, words);
    check([&] { precision.observe_noise(tensor, tables); }, words);
    check([&] { precision.observe_gains(tensor, numbers); }, words);
    check([&] { precision.observe_perturbation(tensor, 1); }, words);
    check([&] { precision.allocate_rows(tensor, numbers, bits.span()); }, words);
    check([&] { precision.allocate_rows(tensor, tables, bits.span()); }, words);
  }
  for (const std::size_t size : {0U, 2U, 4U}) {
    const std::vector<double> values(size, 1.0);
    const std::vector<Table> noise(size, Table{4, 3, 2, 1});
    const std::string number = std::to_string(size);
    check([&] { precision.observe_ranges(0, values); },
          {"squared_range_norms.size()", number, "3"});
    check([&] { precision.observe_noise(0, noise); }, {"noise.size()", number, "3"});
    check([&] { precision.observe_gains(0, values); }, {"gains.size()", number, "3"});
    check([&] { precision.allocate_rows(0, values, bits.span()); },
          {"squared_range_norms.size()", number, "3"});
    check([&] { precision.allocate_rows(0, noise, bits.span()); }, {"noise.size()", number, "3"});
    GuardedBuffer<std::uint8_t> other(size);
    check([&] { precision.allocate_rows(0, numbers, other.span()); }, {"bits.size()", number, "3"});
    check([&] { precision.allocate_rows(0, tables, other.span()); }, {"bits.size()", number, "3"});
    CHECK(other.is_untouched());
    // A tensor with one width has rows all the same.
    if (size == 2) continue;
    check([&] { precision.observe_ranges(1, values); },
          {"squared_range_norms.size()", number, "2"});
    check([&] { precision.observe_noise(1, noise); }, {"noise.size()", number, "2"});
    check([&] { precision.observe_gains(1, values); }, {"gains.size()", number, "2"});
  }
  for (const double negative : {-1.0, -infinity}) {
    for (std::size_t row = 0; row < 3; ++row) {
      std::vector<double> values = numbers;
      values[row] = negative;
      const std::string name = std::to_string(row);
      check([&] { precision.observe_ranges(0, values); }, {name});
      check([&] { precision.observe_gains(0, values); }, {"gains[" + name + "]"});
      check([&] { precision.allocate_rows(0, values, bits.span()); }, {name});
      for (std::size_t width = 0; width < 4; ++width) {
        std::vector<Table> noise = tables;
        noise[row][width] = negative;
        check([&] { precision.observe_noise(0, noise); }, {"noise", name});
        check([&] { precision.allocate_rows(0, noise, bits.span()); }, {"noise", name});
      }
    }
    check([&] { precision.observe_ranges(1, std::vector<double>{1, negative}); }, {"1"});
    check([&] { precision.observe_gains(1, std::vector<double>{1, negative}); }, {"gains[1]"});
    check([&] { precision.observe_perturbation(0, negative); }, {"squared_difference"});
  }
  check([&] { precision.observe_gains(0, std::vector<double>{1, 2, -4}); }, {"-4.000000"});
  check([&] { precision.observe_perturbation(0, -4); }, {"-4.000000"});
  // One width for all rows: none to distribute.
  GuardedBuffer<std::uint8_t> pair(std::size_t{2});
  check(
      [&] {
        precision.allocate_rows(1, std::vector<double>{1, 2}, pair.span());
      },
      {"tensor", "1"});
  CHECK(pair.is_untouched());
}

TEST_CASE("AutoPrecision: a refused table of noise does not count as measured") {
  AutoPrecision precision = make({}, {spec(1, 40)});
  const std::vector<std::byte> before = precision.save();
  support::check_refused(
      [&] {
        precision.observe_noise(0, std::vector<Table>{{1, 1, -1, 1}});
      },
      {"noise"});
  CHECK(precision.save() == before);
}

TEST_CASE("AutoPrecision: a tensor that the byte budget has no room for is not added") {
  AutoPrecision precision = make({.byte_budget = 100}, {spec(3, 40)});
  const std::vector<std::byte> before = precision.save();
  support::check_refused([&] { precision.add_tensor({.rows = 3, .row_size = 1000}); },
                         {"byte_budget", "100"});
  CHECK(precision.num_tensors() == 1);
  CHECK(precision.save() == before);
}

TEST_CASE("AutoPrecision: a step whose all_reduce throws can be made again") {
  bool is_down = true;
  AutoPrecisionOptions options;
  options.all_reduce = [&](std::span<double>) {
    if (is_down) throw std::runtime_error("connection lost");
  };
  AutoPrecision precision = make(options, {spec(3, 40)});
  observe_all(precision, 0, 1, 1);
  CHECK_THROWS_AS(precision.step(), std::runtime_error);
  is_down = false;
  CHECK(precision.step());
}

// ---- Before anything is known -----------------------------------------------------------------

TEST_CASE("AutoPrecision: cold start gives rows the average, any prefix within its share") {
  const std::vector<TensorSpec> shapes{spec(1, 7),
                                       spec(100, 64),
                                       spec(13, 33),
                                       spec(40, 100, PrecisionPer::row, 1),
                                       spec(9, 100, PrecisionPer::row, 99),
                                       spec(1000, 1)};
  for (const double average : {1.0, 1.25, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5, 8.0}) {
    for (const TensorSpec& tensor : shapes) {
      CAPTURE(average);
      CAPTURE(tensor.layout.rows);
      CAPTURE(tensor.layout.row_size);
      // Beside another, which has a share of its own.
      const AutoPrecision precision = make({.average_bits = average}, {spec(5, 77), tensor});
      const std::vector<std::uint8_t> widths = widths_of(precision, 1);
      const int narrow = 1 << static_cast<int>(std::log2(average));
      const int wide = std::min(2 * narrow, 8);
      bool widths_are_next = true;
      bool is_within_share = true;
      bool uses_share = true;
      std::int64_t used = 0;
      std::int64_t numel = 0;
      for (std::size_t row = 0; row < widths.size(); ++row) {
        const std::int64_t size = tensor.size_of_row(row);
        used += size * widths[row];
        numel += size;
        const double left = average * static_cast<double>(numel) - static_cast<double>(used);
        widths_are_next = widths_are_next && (widths[row] == narrow || widths[row] == wide);
        is_within_share = is_within_share && left >= 0;
        // One bit, as the tensors' budget is a whole number.
        uses_share = uses_share && (size != tensor.layout.row_size || average == narrow ||
                                    left < static_cast<double>((wide - narrow) * size) + 1);
      }
      CHECK(widths_are_next);
      CHECK(is_within_share);
      CHECK(uses_share);
      if (average == narrow) {
        CHECK(widths ==
              std::vector<std::uint8_t>(widths.size(), static_cast<std::uint8_t>(narrow)));
      }
    }
  }
}

TEST_CASE("AutoPrecision: cold start spreads wide rows among narrow ones") {
  const auto widths = [](double average) {
    return widths_of(make({.average_bits = average}, {spec(8, 64)}), 0);
  };
  CHECK(widths(1.25) == std::vector<std::uint8_t>{1, 1, 1, 2, 1, 1, 1, 2});
  CHECK(widths(1.5) == std::vector<std::uint8_t>{1, 2, 1, 2, 1, 2, 1, 2});
  CHECK(widths(2.5) == std::vector<std::uint8_t>{2, 2, 2, 4, 2, 2, 2, 4});
  CHECK(widths(3) == std::vector<std::uint8_t>{2, 4, 2, 4, 2, 4, 2, 4});
  CHECK(widths(6) == std::vector<std::uint8_t>{4, 8, 4, 8, 4, 8, 4, 8});
}

TEST_CASE("AutoPrecision: cold start gives a tensor the widest width within the average") {
  for (const double average : {1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 7.9, 8.0}) {
    CAPTURE(average);
    const std::vector<TensorSpec> tensors{spec(6, 40, PrecisionPer::tensor, 9),
                                          spec(1, 1000, PrecisionPer::tensor),
                                          spec(3, 1, PrecisionPer::tensor)};
    const auto width = static_cast<std::uint8_t>(1U << static_cast<int>(std::log2(average)));
    const Widths expected{
        std::vector<std::uint8_t>(6, width), {width}, std::vector<std::uint8_t>(3, width)};
    CHECK(widths_of(make({.average_bits = average}, tensors)) == expected);
  }
}

TEST_CASE("AutoPrecision: cold start and solutions keep to the narrowest and the widest width") {
  Generator generator(1);
  for (const int min_bits : {1, 2, 4, 8}) {
    for (const int max_bits : {1, 2, 4, 8}) {
      for (const double average : {1.0, 1.5, 2.0, 3.0, 5.0, 8.0}) {
        if (min_bits > max_bits || average < min_bits) continue;
        CAPTURE(min_bits);
        CAPTURE(max_bits);
        CAPTURE(average);
        AutoPrecision precision = make(
            {.average_bits = average, .min_bits = min_bits, .max_bits = max_bits}, mixed_tensors());
        CHECK(are_widths(widths_of(precision), min_bits, max_bits));
        const auto whole =
            static_cast<std::int64_t>(average * static_cast<double>(numel_of(mixed_tensors())));
        CHECK(bits_used(mixed_tensors(), widths_of(precision)) <= whole);
        if (average >= max_bits) {  // nothing else is left
          CHECK(are_widths(widths_of(precision), max_bits, max_bits));
        }
        for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
          observe(precision, t, random_observation(mixed_tensors()[t], false, generator));
        }
        precision.step();
        CHECK(are_widths(widths_of(precision), min_bits, max_bits));
        CHECK(bits_used(mixed_tensors(), widths_of(precision)) <= whole);
        if (average >= max_bits) CHECK(are_widths(widths_of(precision), max_bits, max_bits));
      }
    }
  }
}

// ---- Widths from what was observed ------------------------------------------------------------

TEST_CASE("AutoPrecision: the first step finds the least variance for gain times noise") {
  Generator generator(2);
  for (const bool is_measured : {false, true}) {
    for (const double average : {1.0, 1.5, 2.0, 3.3, 8.0}) {
      CAPTURE(is_measured);
      CAPTURE(average);
      const std::vector<TensorSpec>& tensors = mixed_tensors();
      AutoPrecision precision = make({.average_bits = average}, tensors);
      reference::AllocationInstance problem;
      problem.bit_budget =
          static_cast<std::int64_t>(average * static_cast<double>(numel_of(tensors)));
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Observation seen = random_observation(tensors[t], is_measured, generator);
        observe(precision, t, seen);
        Table noise{};
        double gain = 0;
        for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
          const Table own =
              is_measured ? seen.noise[row] : closed_form(tensors[t], seen.ranges[row]);
          if (tensors[t].per == PrecisionPer::row) {
            noise = {};
            gain = 0;
          }
          for (std::size_t width = 0; width < 4; ++width) noise[width] += own[width];
          gain += seen.gains[row];
          if (tensors[t].per == PrecisionPer::tensor && row + 1 < tensors[t].rows()) continue;
          const bool by_row = tensors[t].per == PrecisionPer::row;
          const double mean_gain = by_row ? gain : gain / static_cast<double>(tensors[t].rows());
          problem.variance.push_back({mean_gain * noise[0], mean_gain * noise[1],
                                      mean_gain * noise[2], mean_gain * noise[3]});
          problem.sensitivity.push_back(problem.variance.back()[0]);
          problem.numel.push_back(by_row ? tensors[t].size_of_row(row) : tensors[t].layout.numel());
        }
      }
      CHECK(precision.step());
      const std::vector<std::uint8_t> solved =
          is_measured ? actpack::allocate_measured_bits(
                            {problem.variance, problem.numel, problem.bit_budget, {}, {}})
                            .bits
                      : actpack::allocate_bits(
                            {problem.sensitivity, problem.numel, problem.bit_budget, {}, {}})
                            .bits;
      std::vector<std::uint8_t> got;
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::vector<std::uint8_t> rows = widths_of(precision, t);
        if (tensors[t].per == PrecisionPer::row) {
          got.insert(got.end(), rows.begin(), rows.end());
        } else {
          got.push_back(rows[0]);
          CHECK(rows == std::vector<std::uint8_t>(rows.size(), rows[0]));
        }
      }
      CHECK(got == solved);
      CHECK(bits_used(tensors, widths_of(precision)) <= problem.bit_budget);
    }
  }
}

TEST_CASE("AutoPrecision: the model finds the same widths over random histories") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Generator generator(seed);
    const std::vector<TensorSpec> tensors = random_tensors(generator);
    AutoPrecisionOptions options{.average_bits = generator.uniform(1, 6),
                                 .decay = generator.below(3) * 0.45,
                                 .solve_interval = 1 + generator.below(5)};
    if (generator.below(3) == 0) options.max_bits = 4;
    AutoPrecision precision = make(options, tensors);
    Model model(options, tensors);
    const auto budget =
        static_cast<std::int64_t>(options.average_bits * static_cast<double>(numel_of(tensors)));
    const bool may_measure = generator.below(2) == 0;
    Widths widths = widths_of(precision);
    for (int step = 1; step <= 16; ++step) {
      CAPTURE(step);
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        // Twice a step at times, as where gradients are accumulated.
        for (std::uint32_t times = generator.below(3); times > 0; --times) {
          Observation seen =
              random_observation(tensors[t], may_measure && generator.below(2) == 0, generator);
          for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
            const double bad = not_usable[generator.below(3)];
            if (generator.below(8) == 0) seen.ranges[row] = bad;
            if (generator.below(8) == 0) seen.noise[row][generator.below(4)] = bad;
            if (generator.below(4) == 0) seen.gains[row] = bad;
          }
          if (generator.below(4) != 0) {
            observe_noise(precision, t, seen);
            model.observe_noise(t, seen);
          }
          if (generator.below(4) != 0) {
            precision.observe_gains(t, seen.gains);
            model.observe_gains(t, seen.gains);
          }
        }
      }
      const bool is_solved = precision.step();
      REQUIRE(is_solved == model.step());
      const Widths next = widths_of(precision);
      REQUIRE(next == (is_solved ? model.expected(next) : widths));
      REQUIRE(bits_used(tensors, next) <= budget);
      REQUIRE(are_widths(next, 1, options.max_bits));
      widths = next;
    }
  }
}

TEST_CASE("AutoPrecision: widths change at the first step and every solve_interval steps") {
  for (const std::int64_t interval : {1, 2, 3, 50}) {
    CAPTURE(interval);
    AutoPrecision precision = make({.solve_interval = interval}, {spec(6, 64)});
    Generator generator(3);
    Widths widths = widths_of(precision);
    int changes = 0;
    for (std::int64_t step = 1; step <= 150; ++step) {
      observe(precision, 0, random_observation(spec(6, 64), false, generator));
      CHECK(widths_of(precision) == widths);  // observing alone decides nothing
      const bool is_solved = precision.step();
      CHECK(is_solved == (step == 1 || step % interval == 0));
      if (!is_solved) CHECK(widths_of(precision) == widths);
      changes += widths_of(precision) != widths ? 1 : 0;
      widths = widths_of(precision);
    }
    CHECK(changes >= 2);
  }
}

TEST_CASE("AutoPrecision: the first observation counts whole, the mean of later ones by decay") {
  // What tensor 0 shows in each step, none where negative. An interval has 3 steps.
  const std::vector<double> seen{5, 40, 8, -1, 100, -1, -1, -1, -1, 3, 1, 2};
  for (const double decay : {0.0, 0.5, 0.9}) {
    const double third = decay * 5 + (1 - decay) * (40 + 8) / 2;
    const double sixth = decay * third + (1 - decay) * 100;
    const double twelfth = decay * sixth + (1 - decay) * (3 + 1 + 2) / 3;
    const std::vector<std::pair<std::size_t, double>> averages{
        {1, 5}, {3, third}, {6, sixth}, {9, sixth}, {12, twelfth}};
    for (const auto& solution : averages) {
      const std::size_t last_step = solution.first;
      const double average = solution.second;
      for (const bool of_gains : {true, false}) {
        for (const double side : {1 - 1e-9, 1 + 1e-9}) {
          CAPTURE(decay);
          CAPTURE(last_step);
          CAPTURE(of_gains);
          CAPTURE(side);
          AutoPrecisionOptions options = for_one_of_two;
          options.decay = decay;
          options.solve_interval = 3;
          AutoPrecision precision = make(options, two_tensors);
          for (std::size_t step = 1; step <= last_step; ++step) {
            const double own = seen[step - 1];
            const double other = side * average;
            if (of_gains) {
              observe_all(precision, 1, 7, other);
              precision.observe_ranges(0, std::vector<double>{7});
              if (own >= 0) precision.observe_gains(0, std::vector<double>{own});
            } else {
              observe_all(precision, 1, other, 7);
              precision.observe_gains(0, std::vector<double>{7});
              if (own >= 0) precision.observe_ranges(0, std::vector<double>{own});
            }
            precision.step();
          }
          CHECK(is_first_wider(precision) == (side < 1));
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: rows never observed count as the mean of those observed") {
  const TensorSpec tensor = spec(6, 64, PrecisionPer::row, 20);
  // Were the mean over all rows, those without would have half the variance.
  const std::vector<double> ranges{9, not_a_number, 100, 2, infinity, 1e200};
  const std::vector<double> gains{3, 11, not_a_number, 5, infinity, not_a_number};
  const double range = (9 + 100 + 2) / 3.0;
  const double gain = (3 + 11 + 5) / 3.0;
  const std::vector<double> sensitivity{9 * 3, range * 11,   100 * gain,
                                        2 * 5, range * gain, range * gain};
  const std::vector<std::int64_t> numel{64, 64, 64, 64, 64, 20};
  for (const double average : {1.1, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0}) {
    CAPTURE(average);
    AutoPrecision precision = make({.average_bits = average}, {tensor});
    precision.observe_ranges(0, ranges);
    precision.observe_gains(0, gains);
    precision.step();
    const auto budget = static_cast<std::int64_t>(average * 340);
    CHECK(widths_of(precision, 0) ==
          actpack::allocate_bits({sensitivity, numel, budget, {}, {}}).bits);
  }
  // And exactly: two rows weigh 300 · 4 and 500 · 4, the third (300 + 500) / 2 · 4. It or the other
  // tensor's gets the second of two bits to spare.
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecision precision =
        make({.average_bits = 1.5, .max_bits = 2}, {spec(3, 64), spec(1, 64)});
    precision.observe_ranges(0, std::vector<double>{300, 500, not_a_number});
    precision.observe_gains(0, std::vector<double>{4, not_a_number, 4});
    observe_all(precision, 1, 100, 16 * side);
    precision.step();
    CHECK(widths_of(precision) == (side < 1 ? Widths{{1, 2, 2}, {1}} : Widths{{1, 2, 1}, {2}}));
  }
}

TEST_CASE("AutoPrecision: a tensor that is not known stays even and blocks no other") {
  for (const double average : {1.5, 2.0, 3.0}) {
    // Nothing seen; noise alone; gains alone; observations without a finite number.
    for (const int seen : {0, 1, 2, 3}) {
      CAPTURE(average);
      CAPTURE(seen);
      const std::vector<TensorSpec> tensors{spec(7, 64), spec(8, 96),
                                            spec(3, 50, PrecisionPer::tensor)};
      AutoPrecision precision = make({.average_bits = average, .solve_interval = 1}, tensors);
      const std::vector<std::uint8_t> even = widths_of(precision, 1);
      Generator generator(4);
      for (int step = 0; step < 5; ++step) {
        const std::vector<double> bad(8, not_usable[static_cast<std::size_t>(step % 3)]);
        if (seen == 1) precision.observe_ranges(1, std::vector<double>(8, 1e9));
        if (seen == 2) precision.observe_gains(1, std::vector<double>(8, 1e9));
        if (seen == 3) precision.observe_ranges(1, bad);
        if (seen == 3) precision.observe_gains(1, bad);
        for (const std::size_t t : {std::size_t{0}, std::size_t{2}}) {
          observe(precision, t, random_observation(tensors[t], false, generator));
        }
        precision.step();
        CHECK(widths_of(precision, 1) == even);
        const auto whole =
            static_cast<std::int64_t>(average * static_cast<double>(numel_of(tensors)));
        CHECK(bits_used(tensors, widths_of(precision)) <= whole);
      }
      const std::vector<std::uint8_t> rows = widths_of(precision, 0);
      CHECK(rows != std::vector<std::uint8_t>(7, rows[0]));  // which did not wait
      observe_all(precision, 1, 1e9, 1e9);
      precision.step();
      CHECK(widths_of(precision, 1) != even);
    }
  }
}

TEST_CASE("AutoPrecision: observations that are not finite leave no trace") {
  const std::vector<TensorSpec> tensors{spec(3, 64), spec(3, 64, PrecisionPer::tensor)};
  for (const double bad : not_usable) {
    CAPTURE(bad);
    AutoPrecision clean = make({}, tensors);
    AutoPrecision soiled = make({}, tensors);
    const auto both = [&](const auto& call) {
      call(clean);
      call(soiled);
    };
    both([](AutoPrecision& p) { p.observe_noise(0, std::vector<Table>(3, {8, 4, 2, 1})); });
    for (const std::size_t tensor : {std::size_t{0}, std::size_t{1}}) {
      both([&](AutoPrecision& p) { p.observe_ranges(tensor, std::vector<double>{1, 2, 3}); });
      both([&](AutoPrecision& p) { p.observe_gains(tensor, std::vector<double>{4, 5, 6}); });
      soiled.observe_ranges(tensor, std::vector<double>(3, bad));
      soiled.observe_gains(tensor, std::vector<double>(3, bad));
      soiled.observe_noise(tensor, std::vector<Table>(3, {bad, bad, bad, bad}));
      soiled.observe_noise(tensor, std::vector<Table>(3, {1, 1, bad, 1}));
      if (bad != 1e200) soiled.observe_perturbation(tensor, bad);
      CHECK(soiled.save() == clean.save());
    }
    // One bad row spoils a tensor's sum, but no other row's noise.
    soiled.observe_ranges(1, std::vector<double>{7, bad, 9});
    CHECK(soiled.save() == clean.save());
    soiled.observe_ranges(0, std::vector<double>{7, bad, 9});
    CHECK(soiled.save() != clean.save());
    both([](AutoPrecision& p) { CHECK(p.step()); });
    CHECK(are_widths(widths_of(soiled), 1, 8));
  }
}

TEST_CASE("AutoPrecision: the largest numbers that count do not overflow") {
  for (const bool is_measured : {false, true}) {
    AutoPrecision precision = make({.solve_interval = 1}, mixed_tensors());
    for (int step = 0; step < 3; ++step) {
      for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
        const std::size_t rows = mixed_tensors()[t].rows();
        observe(
            precision, t,
            {is_measured, std::vector<double>(rows, 9e138),
             std::vector<Table>(rows, {9e139, 8e139, 7e139, 0}), std::vector<double>(rows, 9e139)});
      }
      CHECK_NOTHROW(precision.step());
    }
    // Nor do zeros divide by zero.
    for (int step = 0; step < 3; ++step) {
      for (std::size_t t = 0; t < mixed_tensors().size(); ++t) {
        const std::size_t rows = mixed_tensors()[t].rows();
        observe(precision, t,
                {is_measured, std::vector<double>(rows), std::vector<Table>(rows, Table{}),
                 std::vector<double>(rows)});
      }
      CHECK_NOTHROW(precision.step());
      CHECK(are_widths(widths_of(precision), 1, 8));
    }
  }
}

TEST_CASE("AutoPrecision: ranges and measured noise of one value weigh the same") {
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecision precision = make(
        for_one_of_two, {spec(2, 32, PrecisionPer::tensor), spec(1, 64, PrecisionPer::tensor)});
    precision.observe_ranges(0, std::vector<double>{3, 4});
    precision.observe_noise(1,
                            std::vector<Table>{reference::variance_by_width(32 / 6.0 * 7 * side)});
    precision.observe_gains(0, std::vector<double>{1, 3});
    precision.observe_gains(1, std::vector<double>{2});
    precision.step();
    CHECK(is_first_wider(precision) == (side < 1));
  }
}

// ---- A budget in bytes ------------------------------------------------------------------------

namespace {

// What real buffers take: with widths by row, or of one width and a byte for it.
std::int64_t stored_bytes(const std::vector<TensorSpec>& tensors, const Widths& widths) {
  std::size_t sum = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    sum += tensors[t].per == PrecisionPer::row
               ? PackedBuffer(tensors[t].layout.with_bits(8), widths[t]).size_bytes()
               : PackedBuffer(tensors[t].layout.with_bits(widths[t][0])).size_bytes() + 1;
  }
  return static_cast<std::int64_t>(sum);
}

Widths same_widths(const std::vector<TensorSpec>& tensors, int bits) {
  Widths widths;
  for (const TensorSpec& tensor : tensors) {
    widths.emplace_back(tensor.rows(), static_cast<std::uint8_t>(bits));
  }
  return widths;
}

// The last number of the message, 0 if nothing was refused.
std::int64_t bytes_demanded(const AutoPrecisionOptions& options,
                            const std::vector<TensorSpec>& tensors) {
  try {
    make(options, tensors);
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    CHECK(support::holds_word(message, "byte_budget"));
    CHECK(support::holds_word(message, std::to_string(options.byte_budget)));
    return std::stoll(message.substr(message.find_last_of(' ') + 1));
  }
  return 0;
}

std::int64_t least_byte_budget(const std::vector<TensorSpec>& tensors, int min_bits) {
  AutoPrecisionOptions options{.average_bits = 8, .byte_budget = 1, .min_bits = min_bits};
  while (const std::int64_t bytes = bytes_demanded(options, tensors)) {
    REQUIRE(bytes > options.byte_budget);
    options.byte_budget = bytes;
  }
  return options.byte_budget;
}

}  // namespace

TEST_CASE("AutoPrecision: real buffers keep to the byte budget") {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    Generator generator(seed);
    const std::vector<TensorSpec> tensors = random_tensors(generator);
    const std::int64_t most = stored_bytes(tensors, same_widths(tensors, 8));
    std::int64_t rows = 0;
    std::int64_t longest = 0;  // item
    for (const TensorSpec& t : tensors) {
      rows += t.layout.rows;
      longest =
          std::max(longest, t.per == PrecisionPer::row ? t.layout.row_size : t.layout.numel());
    }
    const std::int64_t least = least_byte_budget(tensors, 1);
    std::int64_t budget = least;
    if (generator.below(8) != 0) {
      const double share = 1.1 * generator.uniform();
      budget += std::max<std::int64_t>(0, std::llround(share * static_cast<double>(most - least)));
    }
    AutoPrecision precision = make({.byte_budget = budget, .solve_interval = 1}, tensors);
    CHECK(stored_bytes(tensors, widths_of(precision)) <= budget);
    for (int step = 1; step <= 2; ++step) {
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        // In the first step, some tensors stay unknown.
        if (step == 1 && generator.below(3) == 0) continue;
        observe(precision, t, random_observation(tensors[t], seed % 2 == 0, generator));
      }
      precision.step();
      CHECK(stored_bytes(tensors, widths_of(precision)) <= budget);
    }
    // Nor is it wasted: unless all have 8 bits, what is left is less than the padding of every row
    // to words and the longest item's step from 4 bits to 8.
    const std::int64_t used = stored_bytes(tensors, widths_of(precision));
    CHECK((widths_of(precision) == same_widths(tensors, 8) ||
           used > budget - 4 * rows - (longest + 1) / 2 - 1));
  }
}

TEST_CASE("AutoPrecision: padding of short rows to words comes off the byte budget") {
  // Rows of one value take a word at any width: 4 bytes, as much for the group, and a width's.
  const std::vector<TensorSpec> tensors{spec(1000, 1)};
  AutoPrecision precision = make({.byte_budget = 9 * 1000}, tensors);
  observe_all(precision, 0, 1, 1);
  precision.step();
  CHECK(stored_bytes(tensors, widths_of(precision)) <= 9 * 1000);
  // A tensor of whole words and groups wastes nothing: 2 bits, parameters, a byte for widths.
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8 + 1)}, {spec(64, 64)})) ==
        same_widths({spec(64, 64)}, 2));
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8) + 1}, {spec(64, 64, PrecisionPer::tensor)})) ==
        same_widths({spec(64, 64)}, 2));
  CHECK(widths_of(make({.byte_budget = 64 * (16 + 8)}, {spec(64, 64, PrecisionPer::tensor)})) ==
        same_widths({spec(64, 64)}, 1));
}

TEST_CASE("AutoPrecision: too small byte budgets are refused with what is needed") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    for (const int min_bits : {1, 2, 8}) {
      CAPTURE(seed);
      CAPTURE(min_bits);
      Generator generator(seed);
      const std::vector<TensorSpec> tensors = random_tensors(generator);
      const std::int64_t least = least_byte_budget(tensors, min_bits);
      const Widths narrowest = same_widths(tensors, min_bits);
      CHECK(stored_bytes(
                tensors,
                widths_of(make({.average_bits = 8, .byte_budget = least, .min_bits = min_bits},
                               tensors))) <= least);
      CHECK(bytes_demanded({.average_bits = 8, .byte_budget = least - 1, .min_bits = min_bits},
                           tensors) == least);
      CHECK(stored_bytes(tensors, narrowest) <= least);
    }
  }
  AutoPrecision precision({.byte_budget = 1});
  support::check_refused([&] { precision.add_tensor({.rows = 64, .row_size = 32}); },
                         {"byte_budget", "1", "576"});  // 64 · (4 + 4 + 1)
}

TEST_CASE("AutoPrecision: a byte budget beyond all use gives every row the widest width") {
  for (const std::int64_t budget :
       {std::int64_t{1} << 20, std::numeric_limits<std::int64_t>::max()}) {
    AutoPrecision precision = make({.byte_budget = budget}, mixed_tensors());
    CHECK(are_widths(widths_of(precision), 8, 8));
    for (std::size_t t = 0; t < mixed_tensors().size(); ++t) observe_all(precision, t, 1, 1);
    precision.step();
    CHECK(are_widths(widths_of(precision), 8, 8));
  }
}

// ---- Perturbation -----------------------------------------------------------------------------

namespace {

double at_width(const Table& noise, int bits) {
  return noise[reference::index_of(static_cast<std::uint8_t>(bits))];
}

}  // namespace

TEST_CASE("AutoPrecision: a perturbation is half the difference over the noise at the widths now") {
  Generator generator(5);
  for (const PrecisionPer per : {PrecisionPer::row, PrecisionPer::tensor}) {
    for (const bool is_measured : {false, true}) {
      for (const double average : {1.5, 2.0, 3.0}) {
        const std::vector<TensorSpec> tensors{spec(6, 64, per, 20), spec(6, 64)};
        const AutoPrecisionOptions options{.average_bits = average, .solve_interval = 2};
        AutoPrecision perturbed = make(options, tensors);
        AutoPrecision fed = make(options, tensors);
        for (int step = 1; step <= 9; ++step) {
          CAPTURE(is_measured);
          CAPTURE(average);
          CAPTURE(step);
          // Solutions are after steps 1, 2, 4, 6, 8. At steps of odd number all is known from
          // before; at even ones, all that counts was observed since.
          Observation own = random_observation(tensors[0], is_measured, generator);
          const Observation other = random_observation(tensors[1], is_measured, generator);
          if (step % 2 == 0 || step == 1) {
            double noise = 0;
            for (std::size_t row = 0; row < 6; ++row) {
              noise +=
                  at_width(is_measured ? own.noise[row] : closed_form(tensors[0], own.ranges[row]),
                           perturbed.row_bits(0)[row]);
            }
            const double difference = 2 * noise * reference::log_uniform(generator, -2, 2);
            observe_noise(perturbed, 0, own);
            observe_noise(fed, 0, own);
            perturbed.observe_perturbation(0, difference);
            fed.observe_gains(0, std::vector<double>(6, difference / 2 / noise));
            // Beside gains that rows have of their own, it is each row's all the same.
            if (step % 4 == 0) perturbed.observe_gains(0, own.gains);
            if (step % 4 == 0) fed.observe_gains(0, own.gains);
          }
          observe(perturbed, 1, other);
          observe(fed, 1, other);
          CHECK(perturbed.step() == fed.step());
          CHECK(widths_of(perturbed) == widths_of(fed));
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: a perturbation goes by the average noise where none is new") {
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    AutoPrecisionOptions options = for_one_of_two;
    options.solve_interval = 1;
    AutoPrecision precision = make(options, two_tensors);
    // An average of (10 + 20) / 2 and now a width of 2: variance_at divides by 9.
    for (const double norm : {10.0, 20.0}) {
      precision.observe_ranges(0, std::vector<double>{norm});
      precision.observe_gains(0, std::vector<double>{4});
      observe_all(precision, 1, 1, 1);
      precision.step();
      CHECK(is_first_wider(precision));
    }
    const double noise = 32 / 6.0 * 15 / 9;
    precision.observe_perturbation(0, 2 * noise * 10);  // a gain of 10, averaged with 4
    observe_all(precision, 1, 2 * 15 * side * 7 - 1, 1);
    precision.step();
    CHECK(is_first_wider(precision) == (side < 1));
  }
}

TEST_CASE("AutoPrecision: a perturbation needs noise, and noise of zero tells nothing") {
  for (const PrecisionPer per : {PrecisionPer::row, PrecisionPer::tensor}) {
    AutoPrecision precision = make({.solve_interval = 1}, {spec(3, 40), spec(3, 40, per)});
    const std::vector<std::byte> before = precision.save();
    support::check_refused([&] { precision.observe_perturbation(1, 1); }, {"tensor", "1"});
    precision.observe_gains(1, std::vector<double>{1, 2, 3});
    support::check_refused([&] { precision.observe_perturbation(1, 1); }, {"tensor", "1"});
    CHECK(precision.save() != before);
    precision.observe_ranges(1, std::vector<double>{0, 0, 0});
    const std::vector<std::byte> still = precision.save();
    precision.observe_perturbation(1, 1);
    precision.observe_perturbation(1, 0);
    CHECK(precision.save() == still);
    precision.step();
    const std::vector<std::byte> later = precision.save();
    precision.observe_perturbation(1, 1);
    CHECK(precision.save() == later);
    // But no difference for some noise is a gain of 0.
    precision.observe_ranges(1, std::vector<double>{1, 2, 3});
    AutoPrecision fed = precision;
    precision.observe_perturbation(1, 0);
    fed.observe_gains(1, std::vector<double>(3, 0.0));
    precision.step();
    fed.step();
    CHECK(widths_of(precision) == widths_of(fed));
  }
}

TEST_CASE("AutoPrecision: a perturbation counts unobserved rows as the mean") {
  AutoPrecision precision =
      make({.average_bits = 1.5, .max_bits = 2}, {spec(4, 16), spec(4, 16, PrecisionPer::tensor)});
  const Table noise{12, 12 / 9.0, 12 / 225.0, 12 / 65025.0};
  const Table none{not_a_number, not_a_number, not_a_number, not_a_number};
  precision.observe_noise(0, std::vector<Table>{noise, noise, none, none});
  const std::vector<std::uint8_t> now = widths_of(precision, 0);
  double sum = 0;
  for (const std::uint8_t bits : now) sum += at_width(noise, bits);
  precision.observe_perturbation(0, 2 * sum * 10);  // a gain of 10
  // A second bit for all four rows is worth 48 · 10, for the other tensor 48 · 11.
  precision.observe_noise(1, std::vector<Table>(4, noise));
  precision.observe_gains(1, std::vector<double>(4, 11));
  precision.step();
  CHECK(widths_of(precision) == Widths{{1, 1, 1, 1}, {2, 2, 2, 2}});
}

namespace {

// y = W2 relu(W1 x) with the loss ||y - target||^2 / 2. Its saved tensors are x, by sample, and
// h = relu(W1 x); the ReLU's mask is exact.
class Network {
 public:
  static constexpr std::size_t samples = 12, inputs = 48, hidden = 70, outputs = 5;

  Network()
      : x_(support::gaussian(samples * inputs, 11, 0.2)),
        w1_(support::gaussian(hidden * inputs, 12, 0, 0.15)),
        w2_(support::gaussian(outputs * hidden, 13, 0, 0.2)),
        target_(support::gaussian(samples * outputs, 14)) {
    // Samples of different size, so that rows get different widths.
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] *= 1 + static_cast<float>(i / inputs % 4);
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t k = 0; k < hidden; ++k) {
        float sum = 0;
        for (std::size_t i = 0; i < inputs; ++i) sum += w1_[k * inputs + i] * x_[n * inputs + i];
        h_.push_back(std::max(sum, 0.0F));
      }
    }
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t o = 0; o < outputs; ++o) {
        double sum = -static_cast<double>(target_[n * outputs + o]);
        for (std::size_t k = 0; k < hidden; ++k) {
          sum += static_cast<double>(w2_[o * hidden + k]) * static_cast<double>(h_[n * hidden + k]);
        }
        dy_.push_back(sum);
      }
    }
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t k = 0; k < hidden; ++k) {
        double sum = 0;
        for (std::size_t o = 0; o < outputs; ++o) {
          sum += static_cast<double>(w2_[o * hidden + k]) * dy_[n * outputs + o];
        }
        dh_.push_back(h_[n * hidden + k] > 0 ? sum : 0);
      }
    }
  }

  static TensorSpec x_spec() { return spec(samples, inputs, PrecisionPer::row); }
  static TensorSpec h_spec() { return spec(samples, hidden, PrecisionPer::tensor); }
  const std::vector<float>& x() const { return x_; }
  const std::vector<float>& h() const { return h_; }

  // The squared norm of each sample's output gradient: its row's gain.
  std::vector<double> x_gains() const { return squared_norms(dh_); }
  std::vector<double> h_gains() const { return squared_norms(dy_); }

  // Adds sign times the gradient of the loss, W1's and then W2's.
  void add_gradient(std::vector<double>& gradient, double sign, const std::vector<float>& x,
                    const std::vector<float>& h) const {
    gradient.resize(hidden * inputs + outputs * hidden);
    add_product({gradient.data(), hidden * inputs}, sign, dh_, x);
    add_product({gradient.data() + hidden * inputs, outputs * hidden}, sign, dy_, h);
  }

 private:
  static void add_product(std::span<double> sum, double sign, const std::vector<double>& dy,
                          const std::vector<float>& x) {
    const std::size_t columns = x.size() / samples;
    const std::size_t rows = dy.size() / samples;
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t o = 0; o < rows; ++o) {
        const double slope = sign * dy[n * rows + o];
        if (slope == 0) continue;
        for (std::size_t i = 0; i < columns; ++i) {
          sum[o * columns + i] += slope * static_cast<double>(x[n * columns + i]);
        }
      }
    }
  }
  static std::vector<double> squared_norms(const std::vector<double>& dy) {
    std::vector<double> norms(samples);
    for (std::size_t i = 0; i < dy.size(); ++i) norms[i / (dy.size() / samples)] += dy[i] * dy[i];
    return norms;
  }

  std::vector<float> x_, w1_, w2_, target_, h_;
  std::vector<double> dy_, dh_;  // by loss; of relu's input
};

std::vector<float> rounded(const std::vector<float>& x, const TensorSpec& tensor,
                           const std::vector<std::uint8_t>& widths, std::uint64_t seed) {
  PackedBuffer packed(tensor.layout.with_bits(8), widths);
  actpack::quantize(x, packed.view(), Rounding::stochastic(seed));
  std::vector<float> decoded(x.size());
  actpack::dequantize(std::as_const(packed).view(), decoded);
  return decoded;
}

std::vector<Table> measured_noise(const std::vector<float>& x, const TensorSpec& tensor) {
  std::vector<Table> noise;
  const auto size = static_cast<std::size_t>(tensor.layout.row_size);
  for (std::size_t row = 0; row < tensor.rows(); ++row) {
    noise.push_back(actpack::measure_rounding_noise(std::span(x).subspan(row * size, size),
                                                    tensor.layout.group_size)
                        .plain);
  }
  return noise;
}

double squared_norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return sum;
}

}  // namespace

// The mean of 400 differences is normal, its deviation the sample's: within 4.9 deviations but once
// in a million.
TEST_CASE("AutoPrecision: the perturbation of a network is its gradient's variance") {
  const Network network;
  for (const bool of_x : {true, false}) {
    CAPTURE(of_x);
    const TensorSpec tensor = of_x ? Network::x_spec() : Network::h_spec();
    const std::vector<float>& exact = of_x ? network.x() : network.h();
    const std::vector<double> gains = of_x ? network.x_gains() : network.h_gains();
    const std::vector<Table> noise = measured_noise(exact, tensor);
    // The rival is the same tensor with a gain that is known.
    const TensorSpec whole{tensor.layout, PrecisionPer::tensor};
    AutoPrecision precision = make(for_one_of_two, {whole, whole});
    AutoPrecision by_row = make({.average_bits = 2.5}, {tensor});
    const std::vector<std::uint8_t> widths = of_x ? widths_of(by_row, 0) : widths_of(precision, 0);
    double variance = 0;
    double narrow_variance = 0;  // with all rows at 1 bit, for the tensor of one width
    double narrow_noise = 0;
    for (std::size_t row = 0; row < gains.size(); ++row) {
      variance += gains[row] * at_width(noise[row], widths[row]);
      narrow_variance += gains[row] * noise[row][0];
      narrow_noise += noise[row][0];
    }
    precision.observe_noise(0, noise);
    precision.observe_noise(1, noise);

    constexpr int repetitions = 400;
    const std::vector<std::uint8_t> narrow = widths_of(precision, 0);
    CHECK(narrow == std::vector<std::uint8_t>(narrow.size(), 1));
    double sum = 0, square = 0, narrow_sum = 0, narrow_square = 0;
    for (std::uint64_t seed = 0; seed < repetitions; ++seed) {
      const auto differing = [&](const std::vector<std::uint8_t>& bits) {
        const std::vector<float> first = rounded(exact, tensor, bits, 2 * seed);
        const std::vector<float> second = rounded(exact, tensor, bits, 2 * seed + 1);
        const auto add = [&](std::vector<double>& gradient, double sign,
                             const std::vector<float>& saved) {
          network.add_gradient(gradient, sign, of_x ? saved : network.x(),
                               of_x ? network.h() : saved);
        };
        // The loss's gradient and minus the loss's, into one sum.
        std::vector<double> gradient;
        add(gradient, 1, first);
        add(gradient, -1, second);
        const double without_copy = squared_norm(gradient);
        if (seed < 20) {
          std::vector<double> copy;
          std::vector<double> other;
          add(copy, 1, first);
          add(other, 1, second);
          for (std::size_t i = 0; i < copy.size(); ++i) copy[i] -= other[i];
          // Gradients of some hundred terms whose difference is a hundredth of them.
          CHECK(squared_norm(copy) == doctest::Approx(without_copy).epsilon(1e-9));
        }
        return without_copy;
      };
      const double half = differing(widths) / 2;
      sum += half;
      square += half * half;
      const double difference = differing(narrow);
      precision.observe_perturbation(0, difference);
      narrow_sum += difference / 2;
      narrow_square += difference / 2 * (difference / 2);
    }
    const double z = support::normal_quantile(support::false_alarm);
    const auto radius = [&](double total, double squares) {
      const double mean = total / repetitions;
      return z * std::sqrt((squares / repetitions - mean * mean) / repetitions);
    };
    CHECK(std::fabs(sum / repetitions - variance) <= radius(sum, square));
    CHECK(radius(sum, square) < 0.1 * variance);  // the test can tell a tenth
    // And so says the controller: more than the variance less that radius, less than it plus it.
    const double tolerance = radius(narrow_sum, narrow_square) / narrow_variance;
    CHECK(tolerance < 0.1);
    for (const double side : {1 - tolerance, 1 + tolerance}) {
      AutoPrecision weighed = precision;
      weighed.observe_gains(
          1, std::vector<double>(gains.size(), side * narrow_variance / narrow_noise));
      weighed.step();
      CHECK(is_first_wider(weighed) == (side < 1));
    }
  }
}

// ---- Rows of this step ------------------------------------------------------------------------

TEST_CASE("AutoPrecision: allocate_rows distributes the tensor's bits by what rows are now") {
  Generator generator(6);
  for (const bool is_measured : {false, true}) {
    for (const double average : {1.0, 1.5, 2.0, 3.0}) {
      for (const bool has_limits : {false, true}) {
        CAPTURE(is_measured);
        CAPTURE(average);
        CAPTURE(has_limits);
        const std::vector<TensorSpec> tensors{spec(20, 64, PrecisionPer::row, 31),
                                              spec(20, 64, PrecisionPer::tensor)};
        AutoPrecisionOptions options{.average_bits = average, .solve_interval = 1};
        if (has_limits) options.max_bits = 4;
        AutoPrecision precision = make(options, tensors);
        std::vector<double> gains(20, 1.0);  // until they are known, all alike
        for (int step = 0; step < 4; ++step) {
          const Observation now = random_observation(tensors[0], is_measured, generator);
          // What decides how tables are taken; see below.
          if (is_measured) precision.observe_noise(0, now.noise);
          const std::vector<std::byte> before = precision.save();
          GuardedBuffer<std::uint8_t> bits(std::size_t{20});
          reference::AllocationInstance problem;
          for (std::size_t row = 0; row < 20; ++row) {
            const Table noise =
                is_measured ? now.noise[row] : closed_form(tensors[0], now.ranges[row]);
            problem.variance.push_back({gains[row] * noise[0], gains[row] * noise[1],
                                        gains[row] * noise[2], gains[row] * noise[3]});
            problem.sensitivity.push_back(problem.variance.back()[0]);
            problem.numel.push_back(tensors[0].size_of_row(row));
          }
          problem.max_bits.assign(20, static_cast<std::uint8_t>(options.max_bits));
          problem.bit_budget = bits_used(tensors[0], widths_of(precision, 0));
          std::vector<std::uint8_t> expected;
          if (is_measured) {
            precision.allocate_rows(0, now.noise, bits.span());
            expected =
                actpack::allocate_measured_bits(
                    {problem.variance, problem.numel, problem.bit_budget, {}, problem.max_bits})
                    .bits;
          } else {
            precision.allocate_rows(0, now.ranges, bits.span());
            expected =
                actpack::allocate_bits(
                    {problem.sensitivity, problem.numel, problem.bit_budget, {}, problem.max_bits})
                    .bits;
          }
          CHECK(bits.values() == expected);
          CHECK(bits_used(tensors[0], bits.values()) <= problem.bit_budget);
          CHECK(precision.save() == before);  // it observes nothing

          const Observation seen = random_observation(tensors[0], is_measured, generator);
          observe(precision, 0, seen);
          observe(precision, 1, random_observation(tensors[1], is_measured, generator));
          precision.step();
          for (std::size_t row = 0; row < 20; ++row) {
            gains[row] = step == 0 ? seen.gains[row] : 0.5 * gains[row] + 0.5 * seen.gains[row];
          }
        }
      }
    }
  }
}

TEST_CASE("AutoPrecision: allocate_rows takes the mean gain for rows that have none") {
  AutoPrecision precision = make({.average_bits = 1.75, .max_bits = 2}, {spec(4, 64)});
  precision.observe_ranges(0, std::vector<double>(4, 1.0));
  precision.observe_gains(0, std::vector<double>{2, not_a_number, 6, 10});  // a mean of 6
  precision.step();
  for (const double side : {1 - 1e-9, 1 + 1e-9}) {
    std::vector<std::uint8_t> bits(4);
    // 3 of 4 rows can have two bits: row 0 or row 1 goes without.
    precision.allocate_rows(0, std::vector<double>{30, 10 * side, 100, 100}, bits);
    CHECK(bits == (side < 1 ? std::vector<std::uint8_t>{2, 1, 2, 2}
                            : std::vector<std::uint8_t>{1, 2, 2, 2}));
  }
}

TEST_CASE("AutoPrecision: allocate_rows gives rows that are not finite the narrowest width") {
  for (const int min_bits : {1, 2}) {
    for (const double bad : not_usable) {
      CAPTURE(min_bits);
      CAPTURE(bad);
      AutoPrecision precision = make({.average_bits = 3, .min_bits = min_bits}, {spec(5, 64)});
      observe_all(precision, 0, 1, 1);
      precision.step();
      const std::int64_t whole = bits_used(spec(5, 64), widths_of(precision, 0));
      std::vector<std::uint8_t> bits(5);
      precision.allocate_rows(0, std::vector<double>{bad, 2, bad, 4, 5}, bits);
      CHECK(bits[0] == min_bits);
      CHECK(bits[2] == min_bits);
      CHECK(bits[4] > min_bits);
      CHECK(bits_used(spec(5, 64), bits) <= whole);
      const Table table{4, 3, 2, 1};
      precision.allocate_rows(0, std::vector<Table>{table, {4, 3, bad, 1}, table, table, table},
                              bits);
      CHECK(bits[1] == min_bits);
      CHECK(bits_used(spec(5, 64), bits) <= whole);
    }
  }
}

TEST_CASE("AutoPrecision: allocate_rows gives the narrowest width where no row is finite") {
  const AutoPrecision precision = make({}, {spec(5, 64)});
  std::vector<std::uint8_t> bits(5);
  precision.allocate_rows(0, std::vector<double>(5, not_a_number), bits);
  CHECK(bits == std::vector<std::uint8_t>(5, 1));
  precision.allocate_rows(0, std::vector<double>{0, not_a_number, 0, 0, infinity}, bits);
  CHECK(bits[1] == 1);
  CHECK(bits[4] == 1);
}

TEST_CASE("AutoPrecision: allocate_rows goes by measured tables whatever was observed") {
  AutoPrecision precision = make({.average_bits = 1.5, .max_bits = 2}, {spec(2, 64)});
  std::vector<std::uint8_t> bits(2);
  // A second bit takes 1 of the first row and 8 of the other.
  const std::vector<Table> tables{{10, 9, 5, 1}, {9, 1, 0.5, 0.1}};
  precision.allocate_rows(0, tables, bits);
  CHECK(bits == std::vector<std::uint8_t>{1, 2});
  observe_all(precision, 0, 1, 1);
  precision.step();
  precision.allocate_rows(0, tables, bits);
  CHECK(bits == std::vector<std::uint8_t>{1, 2});
}

// ---- Checkpoints ------------------------------------------------------------------------------

namespace {

// Whatever a trainer may do in a step, the same for the same seed.
void observe_anything(AutoPrecision& precision, const std::vector<TensorSpec>& tensors,
                      std::uint64_t seed) {
  Generator generator(seed);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    Observation seen = random_observation(tensors[t], generator.below(5) == 0, generator);
    if (generator.below(4) == 0) seen.ranges[0] = not_a_number;
    if (generator.below(4) != 0 || seed % 1000 == 0) observe_noise(precision, t, seen);
    if (generator.below(4) != 0) precision.observe_gains(t, seen.gains);
    const double difference = reference::log_uniform(generator, -3, 3);
    if (generator.below(4) == 0 && seed % 1000 > 10) precision.observe_perturbation(t, difference);
  }
}

std::uint64_t word(const std::vector<std::byte>& bytes, std::size_t index) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[8 * index + i]);
  }
  return value;
}

void set_word(std::vector<std::byte>& bytes, std::size_t index, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) bytes[8 * index + i] = static_cast<std::byte>(value >> 8 * i);
}

// Two rows of 40 after a solution, and observations since.
AutoPrecision small_controller() {
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  precision.observe_noise(0, std::vector<Table>{{8, 4, 2, 1}, {16, 8, 4, 2}});
  precision.observe_gains(0, std::vector<double>{3, not_a_number});
  precision.step();
  precision.observe_noise(0, std::vector<Table>{{1, 0.5, 0.25, 0}, {5, 4, 3, 2}});
  precision.observe_gains(0, std::vector<double>{not_a_number, 7});
  precision.observe_gains(0, std::vector<double>{not_a_number, 9});
  return precision;
}

}  // namespace

TEST_CASE("AutoPrecision: training goes on from a checkpoint as if it had not stopped") {
  for (const std::uint64_t every : {1U, 3U, 7U, 40U}) {
    CAPTURE(every);
    const AutoPrecisionOptions options{.average_bits = 2.25, .decay = 0.75, .solve_interval = 4};
    AutoPrecision whole = make(options, mixed_tensors());
    AutoPrecision resumed = make(options, mixed_tensors());
    for (std::uint64_t step = 0; step < 200; ++step) {
      CAPTURE(step);
      observe_anything(whole, mixed_tensors(), 1000 + step);
      // In the middle of a step, or at its end.
      if (step % every == 0 && step % 2 == 0) {
        AutoPrecision next = make(options, mixed_tensors());
        next.restore(resumed.save());
        // What is restored is all there is.
        CHECK(next.save() == resumed.save());
        CHECK(widths_of(next) == widths_of(resumed));
        resumed = std::move(next);
      }
      observe_anything(resumed, mixed_tensors(), 1000 + step);
      CHECK(whole.step() == resumed.step());
      if (step % every == 0 && step % 2 == 1) {
        const std::vector<std::byte> state = resumed.save();
        // Into one that has a history of its own, which is forgotten.
        AutoPrecision next = make(options, mixed_tensors());
        observe_anything(next, mixed_tensors(), 5000);
        next.step();
        observe_anything(next, mixed_tensors(), 6000);
        next.restore(state);
        resumed = std::move(next);
      }
      REQUIRE(widths_of(whole) == widths_of(resumed));
      REQUIRE(whole.save() == resumed.save());
    }
  }
}

TEST_CASE("AutoPrecision: the bytes of a small state are these") {
  const std::vector<std::byte> state = small_controller().save();
  const auto number = [](double value) { return std::bit_cast<std::uint64_t>(value); };
  const std::vector<std::uint64_t> expected{
      0x636572706b636170, 1, 1, 1, 1,  // magic, version, steps, measured, tensors
      2, 40, 32, 8, 0,                 // rows, row size, group size, last row size, per row
      // Averages: noise by width, gain, which of the two are known.
      number(8), number(4), number(2), number(1), number(3), 3,   //
      number(16), number(8), number(4), number(2), number(0), 1,  //
      // Sums since then: noise by width and how many, gains and how many.
      number(1), number(0.5), number(0.25), number(0), number(1), number(0), number(0),  //
      number(5), number(4), number(3), number(2), number(1), number(16), number(2),      //
      number(2),                          // how many rows were measured
      word(state, 37), word(state, 38)};  // widths
  REQUIRE(state.size() == 8 * expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(word(state, i) == expected[i]);
  }
  const AutoPrecision precision = small_controller();
  CHECK(word(state, 37) == precision.row_bits(0)[0]);
  CHECK(word(state, 38) == precision.row_bits(0)[1]);
  CHECK(precision.save() == state);
}

TEST_CASE("AutoPrecision: states of another kind, version, size or shape are refused") {
  const std::vector<std::byte> state = small_controller().save();
  AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
  observe_anything(precision, {spec(2, 40, PrecisionPer::row, 8)}, 1000);
  const std::vector<std::byte> before = precision.save();
  const Widths widths = widths_of(precision);
  const auto check = [&](AutoPrecision& target, const std::vector<std::byte>& bytes,
                         const std::vector<std::string>& words) {
    const std::vector<std::byte> own = target.save();
    support::check_refused([&] { target.restore(bytes); }, words);
    CHECK(target.save() == own);
  };

  for (std::size_t size = 0; size < state.size(); ++size) {
    const std::vector<std::byte> cut(state.begin(),
                                     state.begin() + static_cast<std::ptrdiff_t>(size));
    check(precision, cut, {"state", std::to_string(size)});
  }
  for (const std::size_t surplus : {1U, 7U, 8U, 800U}) {
    std::vector<std::byte> longer = state;
    longer.resize(state.size() + surplus);
    check(precision, longer,
          {"state", std::to_string(state.size() + surplus), std::to_string(state.size())});
  }
  std::vector<std::byte> other = state;
  for (std::size_t byte = 0; byte < 8; ++byte) {
    other[byte] ^= std::byte{1};
    check(precision, other, {"state"});
    other = state;
  }
  for (const std::uint64_t version : {0U, 2U, 257U}) {
    set_word(other, 1, version);
    check(precision, other, {"version", std::to_string(version), "1"});
  }
  for (const std::uint64_t width : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{16},
                                    std::uint64_t{257}, (std::uint64_t{1} << 32) + 2}) {
    other = state;
    set_word(other, 37, width);
    check(precision, other, {"state", std::to_string(width)});
  }

  const std::vector<std::vector<TensorSpec>> shapes{
      {},
      {spec(3, 40, PrecisionPer::row, 8)},
      {spec(2, 41, PrecisionPer::row, 8)},
      {spec(2, 40, PrecisionPer::row, 9)},
      {spec(2, 40)},
      {spec(2, 40, PrecisionPer::row, 8, 64)},
      {spec(2, 40, PrecisionPer::tensor, 8)},
      {spec(2, 40, PrecisionPer::row, 8), spec(2, 40, PrecisionPer::row, 8)}};
  for (const std::vector<TensorSpec>& tensors : shapes) {
    AutoPrecision target = make({}, tensors);
    check(target, state, {"state"});
  }
  // Two tensors of the shapes of one are not one of the shapes of both.
  AutoPrecision target = make({}, {spec(1, 40), spec(2, 40)});
  check(target, make({}, {spec(2, 40), spec(1, 40)}).save(), {"state", "0", "2", "1"});

  CHECK(precision.save() == before);
  CHECK(widths_of(precision) == widths);
  precision.restore(state);  // which was good all along
  CHECK(precision.save() == state);
}

TEST_CASE("AutoPrecision: damaged states are refused") {
  const std::vector<std::byte> state = small_controller().save();
  const auto number = [](double value) { return std::bit_cast<std::uint64_t>(value); };
  const std::vector<std::pair<std::size_t, std::uint64_t>> damages{
      {2, ~std::uint64_t{0}},      // -1 steps
      {3, 2},                      // neither measured nor not
      {10, number(not_a_number)},  // noise
      {10, number(-1)},            //
      {10, number(infinity)},      //
      {14, number(not_a_number)},  // gain
      {14, number(-1)},            //
      {15, 4},                     // flags
      {22, number(not_a_number)},  // sums
      {22, number(-1)},            //
      {26, number(not_a_number)},  // how many
      {26, number(-1)},            //
  };
  for (const auto& damage : damages) {
    const std::size_t index = damage.first;
    const std::uint64_t value = damage.second;
    CAPTURE(index);
    CAPTURE(value);
    std::vector<std::byte> damaged = state;
    set_word(damaged, index, value);
    AutoPrecision precision = make({}, {spec(2, 40, PrecisionPer::row, 8)});
    const std::vector<std::byte> before = precision.save();
    support::check_refused([&] { precision.restore(damaged); }, {"state"});
    CHECK(precision.save() == before);
  }
}

// ---- Several ----------------------------------------------------------------------------------

TEST_CASE("AutoPrecision: controllers side by side do not influence each other") {
  const std::vector<AutoPrecisionOptions> options{
      {.average_bits = 2, .solve_interval = 1},
      {.average_bits = 3, .min_bits = 2, .decay = 0.9, .solve_interval = 3},
      {.byte_budget = 2000, .max_bits = 4, .solve_interval = 2},
      {.average_bits = 2, .solve_interval = 1},
  };
  std::vector<std::vector<Widths>> alone(options.size());
  for (std::size_t i = 0; i < options.size(); ++i) {
    AutoPrecision precision = make(options[i], mixed_tensors());
    for (std::uint64_t step = 0; step < 30; ++step) {
      observe_anything(precision, mixed_tensors(), 1000 * (i + 1) + step);
      precision.step();
      alone[i].push_back(widths_of(precision));
    }
  }
  std::vector<AutoPrecision> together;
  for (const AutoPrecisionOptions& o : options) together.push_back(make(o, mixed_tensors()));
  for (std::uint64_t step = 0; step < 30; ++step) {
    for (std::size_t i = 0; i < together.size(); ++i) {
      observe_anything(together[i], mixed_tensors(), 1000 * (i + 1) + step);
    }
    for (std::size_t i = together.size(); i-- > 0;) together[i].step();
    for (std::size_t i = 0; i < together.size(); ++i) {
      CHECK(widths_of(together[i]) == alone[i][step]);
    }
  }
  CHECK(alone[0] != alone[3]);  // options alike, observations not
}

TEST_CASE("AutoPrecision: a copy goes its own way") {
  AutoPrecision original = make({.solve_interval = 1}, mixed_tensors());
  observe_anything(original, mixed_tensors(), 1000);
  original.step();
  AutoPrecision copy = original;
  const std::vector<std::byte> before = original.save();
  observe_anything(copy, mixed_tensors(), 1011);
  copy.step();
  CHECK(original.save() == before);
  observe_anything(original, mixed_tensors(), 1011);
  original.step();
  CHECK(original.save() == copy.save());
}

// ---- Data-parallel training -------------------------------------------------------------------

namespace {

void send_all(int socket, const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, next, size, MSG_NOSIGNAL);
    if (sent <= 0) throw std::runtime_error("nothing could be sent");
    next += sent;
    size -= static_cast<std::size_t>(sent);
  }
}

void receive_all(int socket, void* data, std::size_t size) {
  char* next = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t received = ::recv(socket, next, size, 0);
    if (received <= 0) throw std::runtime_error("nothing came");
    next += received;
    size -= static_cast<std::size_t>(received);
  }
}

void set_timeout(int socket, int seconds) {
  const timeval time{.tv_sec = seconds, .tv_usec = 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

// Sums over two ranks: each sends its own, one first and the other then, as large arrays would
// block both.
std::function<void(std::span<double>)> all_reduce_over(int socket, int rank) {
  return [socket, rank](std::span<double> values) {
    const std::uint64_t own_size = values.size();
    std::uint64_t other_size = 0;
    std::vector<double> other(values.size());
    for (const int sender : {0, 1}) {
      if (sender == rank) {
        send_all(socket, &own_size, sizeof(own_size));
        send_all(socket, values.data(), values.size_bytes());
      } else {
        receive_all(socket, &other_size, sizeof(other_size));
        if (other_size != own_size) throw std::runtime_error("arrays of two sizes");
        receive_all(socket, other.data(), values.size_bytes());
      }
    }
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  };
}

struct RankReport {
  int exit_code = -1;  // -1: killed
  std::vector<std::uint8_t> bytes;
};

// Runs work(rank, socket to the other rank) in two processes and returns what each gave back. One
// that fails or hangs ends both: by its exit code, an end of file, a time-out or, last, an alarm.
template <class Work>
std::array<RankReport, 2> run_two_ranks(const Work& work) {
  std::array<int, 2> link{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, link.data()) == 0);
  std::array<std::array<int, 2>, 2> reports{};
  for (auto& report : reports) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, report.data()) == 0);
  }
  std::fflush(nullptr);
  std::array<pid_t, 2> children{};
  for (const int rank : {0, 1}) {
    const auto self = static_cast<std::size_t>(rank);
    children[self] = ::fork();
    if (children[self] != 0) continue;
    int code = 1;
    try {
      ::alarm(60);
      ::close(link[1 - self]);
      ::close(reports[1 - self][1]);
      set_timeout(link[self], 20);
      const std::vector<std::uint8_t> bytes = work(rank, link[self]);
      send_all(reports[self][1], bytes.data(), bytes.size());
      code = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    }
    ::_exit(code);  // not this process's tests, buffers and leaks
  }
  for (const std::size_t rank : {0U, 1U}) {
    ::close(link[rank]);
    ::close(reports[rank][1]);
  }
  std::array<RankReport, 2> results;
  for (const std::size_t rank : {0U, 1U}) {
    REQUIRE(children[rank] > 0);
    set_timeout(reports[rank][0], 70);
    std::array<std::uint8_t, 4096> chunk{};
    for (ssize_t size = 1; size > 0;) {
      size = ::recv(reports[rank][0], chunk.data(), chunk.size(), 0);
      results[rank].bytes.insert(results[rank].bytes.end(), chunk.begin(),
                                 chunk.begin() + std::max<ssize_t>(size, 0));
    }
    ::close(reports[rank][0]);
    int status = 0;
    REQUIRE(::waitpid(children[rank], &status, 0) == children[rank]);
    if (WIFEXITED(status)) results[rank].exit_code = WEXITSTATUS(status);
  }
  return results;
}

enum class Share { samples, tensors, everything };  // what a rank observes

constexpr std::uint64_t ranked_steps = 30;

// One rank's observations in one step. Measured noise and gains are whole numbers, so that their
// sums do not depend on the order.
void observe_share(AutoPrecision& precision, Share share, bool is_measured, std::uint64_t step,
                   std::size_t rank) {
  const std::vector<TensorSpec>& tensors = mixed_tensors();
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (share == Share::tensors && t % 2 != rank) continue;
    Generator generator(10'000 * step + 100 * t + rank);
    Observation seen = random_observation(tensors[t], is_measured, generator);
    for (std::size_t row = 0; row < tensors[t].rows(); ++row) {
      const double size = 1 + generator.below(1000);
      seen.noise[row] = {size * 100, size * (20 + generator.below(60)),
                         size * (2 + generator.below(18)), size};
      seen.gains[row] = 1 + generator.below(1'000'000);
    }
    // Rank 0's gains come from fewer samples than rank 1's: sums, not means of means.
    observe_noise(precision, t, seen);
    precision.observe_gains(t, seen.gains);
    if (rank == 1) precision.observe_gains(t, seen.gains);
  }
}

const AutoPrecisionOptions ranked_options{.average_bits = 2.5, .decay = 0.5, .solve_interval = 3};

void append_widths(std::vector<std::uint8_t>& bytes, const AutoPrecision& precision) {
  for (const std::vector<std::uint8_t>& rows : widths_of(precision)) {
    bytes.insert(bytes.end(), rows.begin(), rows.end());
  }
}

// All widths of all steps of one controller that observes the shares of these ranks.
std::vector<std::uint8_t> widths_over_training(const AutoPrecisionOptions& options, Share share,
                                               bool is_measured,
                                               std::initializer_list<std::size_t> ranks) {
  AutoPrecision precision = make(options, mixed_tensors());
  std::vector<std::uint8_t> widths;
  for (std::uint64_t step = 1; step <= ranked_steps; ++step) {
    for (const std::size_t rank : ranks) observe_share(precision, share, is_measured, step, rank);
    precision.step();
    append_widths(widths, precision);
  }
  return widths;
}

}  // namespace

TEST_CASE("AutoPrecision: two processes find the widths of one that observes all") {
  for (const Share share : {Share::samples, Share::tensors}) {
    for (const bool is_measured : {false, true}) {
      CAPTURE(static_cast<int>(share));
      CAPTURE(is_measured);
      const std::array<RankReport, 2> ranks = run_two_ranks([&](int rank, int socket) {
        AutoPrecisionOptions options = ranked_options;
        options.all_reduce = all_reduce_over(socket, rank);
        return widths_over_training(options, share, is_measured, {static_cast<std::size_t>(rank)});
      });
      CHECK(ranks[0].exit_code == 0);
      CHECK(ranks[1].exit_code == 0);
      const std::vector<std::uint8_t> together =
          widths_over_training(ranked_options, share, is_measured, {0, 1});
      CHECK(ranks[0].bytes == together);
      CHECK(ranks[1].bytes == together);
      // Which is the hook's doing.
      const std::vector<std::uint8_t> first =
          widths_over_training(ranked_options, share, is_measured, {0});
      const std::vector<std::uint8_t> second =
          widths_over_training(ranked_options, share, is_measured, {1});
      CHECK(first != second);
      CHECK(first != together);
      CHECK(second != together);
    }
  }
}

TEST_CASE("AutoPrecision: a process that fails does not leave the other waiting") {
  const std::array<RankReport, 2> ranks = run_two_ranks([&](int rank, int socket) {
    AutoPrecisionOptions options = ranked_options;
    options.all_reduce = all_reduce_over(socket, rank);
    AutoPrecision precision = make(options, mixed_tensors());
    for (std::uint64_t step = 1; step <= ranked_steps; ++step) {
      if (rank == 1 && step == 6) ::_exit(7);
      try {
        precision.step();
      } catch (const std::runtime_error&) {
        ::_exit(3);
      }
    }
    return std::vector<std::uint8_t>{};
  });
  CHECK(ranks[0].exit_code == 3);
  CHECK(ranks[1].exit_code == 7);
}

TEST_CASE("AutoPrecision: all_reduce is called once for each solution, with arrays of one size") {
  std::vector<std::size_t> sizes;
  std::int64_t step = 0;
  std::vector<std::int64_t> called;
  AutoPrecisionOptions options{.solve_interval = 4};
  options.all_reduce = [&](std::span<double> values) {
    sizes.push_back(values.size());
    called.push_back(step);
    CHECK(std::ranges::all_of(values, [](double v) { return std::isfinite(v) && v >= 0; }));
  };
  AutoPrecision precision = make(options, mixed_tensors());
  for (step = 1; step <= 12; ++step) {
    if (step % 3 == 0) observe_anything(precision, mixed_tensors(), 1000);
    precision.step();
  }
  CHECK(called == std::vector<std::int64_t>{1, 4, 8, 12});
  CHECK(sizes == std::vector<std::size_t>(4, sizes[0]));
}

TEST_CASE("AutoPrecision: a rank that observed nothing finds the widths of the others") {
  const std::vector<TensorSpec> tensors{spec(2, 64)};
  std::vector<double> sums;
  AutoPrecisionOptions options{.average_bits = 1.5, .max_bits = 2};
  options.all_reduce = [&](std::span<double> values) { sums.assign(values.begin(), values.end()); };
  AutoPrecision first = make(options, tensors);
  first.observe_noise(0, std::vector<Table>{{10, 9, 5, 1}, {9, 1, 0.5, 0.1}});
  first.observe_gains(0, std::vector<double>{1, 1});
  first.step();
  options.all_reduce = [&](std::span<double> values) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += sums[i];
  };
  AutoPrecision second = make(options, tensors);
  second.step();
  CHECK(widths_of(first, 0) == std::vector<std::uint8_t>{1, 2});
  CHECK(widths_of(second) == widths_of(first));
}
