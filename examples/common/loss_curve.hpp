// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The loss curves of several training runs in one SVG picture.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace trainer {

struct LossCurve {
  std::string name;
  std::vector<double> losses;  // of every step
};

void write_loss_curves(const std::vector<LossCurve>& curves, std::ostream& out);

}  // namespace trainer
