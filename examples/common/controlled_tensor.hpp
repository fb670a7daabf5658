// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A saved tensor under the controller of widths.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/saved_tensor.hpp"
#include "common/width_control.hpp"

namespace trainer {

// A saved tensor that tells the controller of widths, if there is one, its ranges once it is full.
class ControlledTensor : public SavedTensor {
 public:
  ControlledTensor(const SavedFormat& format, std::int64_t item_numel, CodecClock& clock,
                   WidthControl* control, std::size_t number)
      : SavedTensor(format, item_numel, clock), control_(control), number_(number) {}

  void finish() const {
    if (control_ != nullptr) {
      control_->observe_ranges(number_, squared_range_norm());
    }
  }

 private:
  WidthControl* control_;
  std::size_t number_;  // within the step
};

}  // namespace trainer
