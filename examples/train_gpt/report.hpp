// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results: tables for people, a JSON file for programs.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "train_gpt/options.hpp"
#include "train_gpt/save_policy.hpp"
#include "train_gpt/training.hpp"

namespace gpt {

// One way to save activations, and its results with each seed.
struct Way {
  std::string name;
  SavePolicy policy;
  std::vector<TrainingReport> reports;
  std::vector<double> validation_losses;  // nats a byte
  std::int64_t peak_bytes = 0;            // of one step, without training
  std::int64_t saved_bytes = 0;
};

// The ways that were asked for, with nothing measured yet.
std::vector<Way> planned_ways(const Options& options);

// `stored` and `peak` are full precision's bytes.
void print_table(const std::vector<Way>& ways, std::int64_t stored, std::int64_t peak,
                 std::ostream& out);

void write_json(const Options& options, const std::string& data, const std::vector<Way>& ways,
                std::ostream& out);

}  // namespace gpt
