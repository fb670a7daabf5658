// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The results of the comparison of widths: a table for people, JSON for programs, a picture for
// both.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "research/width_comparison.hpp"

namespace research {

std::string policy_name(WidthPolicy policy);
void print_widths(const std::vector<WidthReport>& reports, std::ostream& out);
std::string width_json(const std::vector<WidthReport>& reports);
void write_width_picture(const std::vector<WidthReport>& reports, std::ostream& out);

}  // namespace research
