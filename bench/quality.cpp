// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Error against stored bits, of every codec on ten distributions and on the activations of the
// trainer's network. Nothing is timed.
//
//   quality [OUTPUT.json]      default: standard output
#include <cstdio>
#include <exception>
#include <iostream>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/files.hpp"
#include "common/json.hpp"
#include "support/distributions.hpp"
#include "support/quality.hpp"
#if ACTPACK_HAS_TRAINER
#include <omp.h>

#include "support/network.hpp"
#endif

namespace {

using namespace bench;
using trainer::quoted;

std::vector<QualitySet> quality_sets() {
  std::vector<QualitySet> sets;
  for (const Distribution& distribution : distributions()) {
    sets.push_back({distribution.name, distribution.description, distribution.is_relu_output, 1,
                    distribution.draw()});
  }
#if ACTPACK_HAS_TRAINER
  constexpr std::int64_t steps = 30;
  std::cerr << "training for " << steps << " steps\n";
  omp_set_num_threads(1);
  TrainedNetwork network(steps);
  for (Activation& activation : network.activations()) {
    sets.push_back(
        {activation.name,
         "of one batch, after " + std::to_string(steps) + " steps on " + network.origin(),
         activation.is_relu_output, activation.rows, std::move(activation.values)});
  }
#endif
  return sets;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

void write_json(std::ostream& out) {
  const std::vector<QualitySet> sets = quality_sets();
  out << "{\n  \"sets\": {";
  for (const QualitySet& set : sets) {
    out << (&set == &sets.front() ? "\n" : ",\n") << "    " << quoted(set.name) << ": "
        << quoted(set.description);
  }
  out << "\n  },\n  \"quality\": [";
  bool is_first = true;
  for (const QualitySet& set : sets) {
    std::cerr << set.name << "\n";
    for (const QualityResult& result : Quality(set).results()) {
      out << (is_first ? "\n" : ",\n") << "    {\"set\": " << quoted(set.name)
          << ", \"codec\": " << quoted(result.codec) << ", \"bits\": " << result.bits
          << ", \"stored_bits\": " << number(result.stored_bits)
          << ", \"nmse\": " << number(result.nmse)
          << ", \"standard_error\": " << number(result.standard_error);
      if (result.alpha) {
        out << ", \"alpha\": " << number(*result.alpha);
      }
      out << "}";
      is_first = false;
    }
  }
  out << "\n  ]\n}\n";
}

void run(int argc, char** argv) {
  if (argc < 2) {
    write_json(std::cout);
    if (!std::cout.flush()) {
      throw std::runtime_error("standard output could not be written");
    }
    return;
  }
  trainer::require_writable(argv[1]);  // before the work, not after it
  trainer::write_file(argv[1], write_json);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "quality: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
