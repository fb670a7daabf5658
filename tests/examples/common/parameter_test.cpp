// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the learning rate's cycle and the optimizer's step.
#include <doctest/doctest.h>

#include "common/parameter.hpp"

namespace {

using namespace trainer;

TEST_CASE("parameters: one cycle rises to its peak and falls to zero; SGD takes Nesterov's step") {
  CHECK(one_cycle(0) == doctest::Approx(0.004));
  CHECK(one_cycle(0.2) == doctest::Approx(0.1));
  CHECK(one_cycle(0.6) == doctest::Approx(0.05));
  CHECK(one_cycle(1) == doctest::Approx(0.0));

  Parameter parameter(1, 2);
  Sgd sgd({&parameter});
  double value = 2;
  double velocity = 0;
  for (const double gradient : {1.0, -3.0, 0.5}) {
    parameter.gradient.span()[0] = static_cast<float>(gradient);
    sgd.step(0.1);
    const double slope = gradient + 5e-4 * value;
    velocity = 0.9 * velocity + slope;
    value -= 0.1 * (slope + 0.9 * velocity);
    CHECK(parameter.value.span()[0] == doctest::Approx(value));
  }
}

}  // namespace
