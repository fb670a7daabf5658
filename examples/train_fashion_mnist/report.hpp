// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results of training runs: tables for people, a JSON file for programs.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "common/step_report.hpp"
#include "train_fashion_mnist/contexts.hpp"
#include "train_fashion_mnist/options.hpp"

namespace trainer {

struct Run : TrainingReport {
  std::string name;
  Codec codec;
  double test_accuracy = 0;  // in percent
  std::int64_t saved_bytes_fp32 = 0;
  std::int64_t saved_bytes_lean = 0;
  double seconds_per_epoch = 0;
  double codec_seconds_per_epoch = 0;
};

// The runs that were asked for, with names and codecs and nothing measured yet.
std::vector<Run> planned_runs(const Options& options);

// The width of the tables' first column.
int name_width(const std::vector<Run>& runs);

void print_table(const std::vector<Run>& runs, std::ostream& out);

void write_json(const Options& options, const std::string& data, const std::vector<Run>& runs,
                std::ostream& out);

}  // namespace trainer
