// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results of the variance check: a table for people, JSON for programs, a picture for both.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "research/variance_check.hpp"

namespace research {

std::string quantity_name(VarianceReport::Quantity quantity);
void print_variances(const std::vector<VarianceReport>& reports, std::ostream& out);
std::string variance_json(const std::vector<VarianceReport>& reports);
void write_variance_picture(const std::vector<VarianceReport>& reports, std::ostream& out);

}  // namespace research
