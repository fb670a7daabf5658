// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Rounds each layer's activations many times over, and compares the variance of its gradient with
// the closed forms: at one width and group size, with both contexts and both ways to decode.

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "common/json.hpp"
#include "common/program.hpp"
#include "common/progress.hpp"
#include "research/options.hpp"
#include "research/trained_experiment.hpp"
#include "research/variance_report.hpp"

namespace {

using namespace research;

void check(const VarianceOptions& options) {
  const ResultFiles files(options.json);  // before the work, not after it
  TrainedExperiment experiment(options);
  Network& network = experiment.network();
  Contexts exact = experiment.make_contexts(Codec::full_precision());
  std::optional<Progress> progress;
  const std::vector<VarianceReport> reports =
      check_variance(network, experiment.batches().next(), exact,
                     codecs_to_check(options.bits, options.group_size), options.seed, options.draws,
                     [&](std::int64_t done, std::int64_t all) {
                       if (!progress) {
                         progress.emplace("variance check", all, "draws");
                       }
                       (*progress)(done);
                     });
  progress.reset();
  print_variances(reports, std::cout);
  files.write(
      [&](std::ostream& out) {
        out << json_object({{"data", quoted(experiment.data().origin)},
                            {"seed", std::to_string(options.seed)},
                            {"depth", std::to_string(options.depth)},
                            {"threads", std::to_string(options.threads)},
                            {"variance", variance_json(reports)}},
                           2)
            << "\n";
      },
      [&](std::ostream& out) { write_variance_picture(reports, out); });
}

}  // namespace

int main(int count, char** arguments) {
  return run_program("check_variance", count, arguments, [](auto own_arguments) {
    const VarianceOptions options = parse_variance_options(own_arguments);
    if (options.help.empty()) {
      check(options);
    }
    std::cout << options.help;
    return EXIT_SUCCESS;
  });
}
