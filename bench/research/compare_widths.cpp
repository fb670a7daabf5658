// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Compresses one batch many times over under every policy for widths, and compares the variance of
// the whole gradient: with affine contexts, where every tensor has rows of its own.

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <ostream>
#include <string>
#include <vector>

#include "common/json.hpp"
#include "common/program.hpp"
#include "common/progress.hpp"
#include "research/options.hpp"
#include "research/trained_experiment.hpp"
#include "research/width_report.hpp"

namespace {

using namespace research;

void compare(const WidthOptions& options) {
  constexpr std::size_t batches_for_gains = 8;
  const ResultFiles files(options.json);  // before the work, not after it
  TrainedExperiment experiment(options);
  Network& network = experiment.network();
  Contexts exact = experiment.make_contexts(Codec::full_precision());
  std::vector<WidthReport> reports;
  {
    Progress progress("comparison of widths", options.draws * compared_variances, "draws");
    reports = compare_widths(network, experiment.batches().next(),
                             experiment.other_batches(batches_for_gains), exact, options.codec,
                             options.seed, options.draws, std::ref(progress));
  }
  print_widths(reports, std::cout);
  files.write(
      [&](std::ostream& out) {
        out << json_object({{"data", quoted(experiment.data().origin)},
                            {"seed", std::to_string(options.seed)},
                            {"depth", std::to_string(options.depth)},
                            {"threads", std::to_string(options.threads)},
                            {"widths", width_json(reports)}},
                           2)
            << "\n";
      },
      [&](std::ostream& out) { write_width_picture(reports, out); });
}

}  // namespace

int main(int count, char** arguments) {
  return run_program("compare_widths", count, arguments, [](auto own_arguments) {
    const WidthOptions options = parse_width_options(own_arguments);
    if (options.help.empty()) {
      compare(options);
    }
    std::cout << options.help;
    return EXIT_SUCCESS;
  });
}
