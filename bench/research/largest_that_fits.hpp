// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Bisection over sizes that are really tried.
#pragma once

#include <algorithm>
#include <cstdint>

namespace research {

// The largest number from 1 to `limit` for which fits(number), if it holds up to some number and
// not beyond; 0 if there is none.
template <class Fits>
std::int64_t largest_that_fits(std::int64_t limit, const Fits& fits) {
  std::int64_t fitting = 0;
  std::int64_t failing = limit + 1;
  for (std::int64_t tried = 1; failing - fitting > 1;) {
    (fits(tried) ? fitting : failing) = tried;
    tried = failing > limit ? std::min(2 * fitting, limit) : (fitting + failing) / 2;
  }
  return fitting;
}

}  // namespace research
