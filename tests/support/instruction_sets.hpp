// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Which instruction sets a test can run with on this processor, and the choice of one for a while.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include <actpack/instruction_set.hpp>

namespace support {

inline constexpr std::array all_instruction_sets{actpack::InstructionSet::portable,
                                                 actpack::InstructionSet::avx2,
                                                 actpack::InstructionSet::avx512};

inline const char* name_of(actpack::InstructionSet set) {
  switch (set) {
    case actpack::InstructionSet::portable: return "portable";
    case actpack::InstructionSet::avx2: return "avx2";
    case actpack::InstructionSet::avx512: return "avx512";
  }
  return "?";
}

inline bool is_available(actpack::InstructionSet set) {
  return set <= actpack::best_instruction_set();
}

// The sets of this processor to compare with the portable path.
inline std::vector<actpack::InstructionSet> vector_instruction_sets() {
  std::vector<actpack::InstructionSet> sets;
  for (const actpack::InstructionSet set : all_instruction_sets) {
    if (set != actpack::InstructionSet::portable && is_available(set)) sets.push_back(set);
  }
  return sets;
}

// Makes the host verbs use one instruction set until it dies, and then what they used before.
class UsingInstructionSet {
 public:
  explicit UsingInstructionSet(actpack::InstructionSet set) : before_(actpack::instruction_set()) {
    actpack::use_instruction_set(set);
  }
  UsingInstructionSet(const UsingInstructionSet&) = delete;
  UsingInstructionSet& operator=(const UsingInstructionSet&) = delete;
  ~UsingInstructionSet() { actpack::use_instruction_set(before_); }

 private:
  actpack::InstructionSet before_;
};

}  // namespace support
