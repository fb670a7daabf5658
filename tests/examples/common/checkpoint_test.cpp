// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks that a checkpoint gives back what was put in, bit for bit, and refuses whatever is not the
// same file of the same program.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/files.hpp"
#include "examples/support.hpp"

namespace {

using namespace trainer;
using namespace support;

struct State {
  std::int64_t steps = 0;
  double loss = 0;
  std::vector<float> weights = std::vector<float>(3);
  std::vector<std::byte> bytes;
  std::vector<int> widths;

  void visit(Checkpoint& checkpoint) {
    checkpoint.visit("steps", steps);
    checkpoint.visit("loss", loss);
    checkpoint.visit("weights", std::span(weights));
    checkpoint.visit("bytes", bytes);
    checkpoint.visit("widths", widths);
  }
};

State filled() {
  return {std::numeric_limits<std::int64_t>::min(),
          -0.0,
          {1.5f, std::numeric_limits<float>::infinity(), 1e-45f},
          {std::byte{'\n'}, std::byte{0}, std::byte{255}},
          {}};
}

std::string write(const Folder& folder, State state) {
  Checkpoint checkpoint;
  state.visit(checkpoint);
  const std::string path = folder / "checkpoint";
  checkpoint.write(path);
  return path;
}

// What reading says; empty if there is no complaint.
template <class Read>
std::string complaint(const std::string& path, const Read& read) {
  try {
    Checkpoint checkpoint(path);
    read(checkpoint);
    checkpoint.require_end();
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

std::string complaint(const std::string& path) {
  return complaint(path, [](Checkpoint& checkpoint) { State().visit(checkpoint); });
}

TEST_CASE("checkpoint: every value comes back, bit for bit") {
  const Folder folder;
  Checkpoint checkpoint(write(folder, filled()));
  State state;
  state.widths = {1, 2};  // becomes what was written: none
  state.visit(checkpoint);
  checkpoint.require_end();
  CHECK(state.steps == filled().steps);
  CHECK(std::signbit(state.loss));
  CHECK(state.weights == filled().weights);
  CHECK(state.bytes == filled().bytes);
  CHECK(state.widths.empty());
}

TEST_CASE("checkpoint: the file is the documented one") {
  const Folder folder;
  Checkpoint checkpoint;
  std::vector<std::uint16_t> values{0x4241, 0x4443};
  checkpoint.visit("two words", values);
  checkpoint.write(folder / "file");
  // The CRC-32 is that of Python's zlib.crc32(b"two words 2 2\nABCD").
  CHECK(contents_of(folder / "file") ==
        "actpack checkpoint, version 1, checksum 1044747837\ntwo words 2 2\nABCD");
}

TEST_CASE("checkpoint: a changed, lost or added byte anywhere is noticed") {
  const Folder folder;
  const std::string path = write(folder, filled());
  const std::string whole = contents_of(path);
  REQUIRE(complaint(path).empty());
  const auto is_refused = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    return complaint(path).starts_with(path + ": is ");
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int bit : {0, 7}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      CHECK(is_refused(changed));
    }
    CHECK(is_refused(whole.substr(0, at)));
  }
  CHECK(is_refused(whole + '\0'));
  CHECK(complaint(folder / "nowhere") ==
        (folder / "nowhere") + ": cannot be opened: No such file or directory");
}

TEST_CASE("checkpoint: other values than those that are asked for are named") {
  const Folder folder;
  const std::string path = write(folder, filled());
  const auto complaint_about = [&](const auto& visit) { return complaint(path, visit); };
  CHECK(complaint_about([](Checkpoint& c) {
          double steps = 0;
          c.visit("loss", steps);
        }) == path + ": has \"steps 8 1\" where \"loss 8 1\" is expected");
  CHECK(complaint_about([](Checkpoint& c) {
          std::int32_t steps = 0;
          c.visit("steps", steps);
        }) == path + ": has \"steps 8 1\" where \"steps 4 1\" is expected");
  CHECK(complaint_about([](Checkpoint& c) {
          State state;
          state.weights.resize(4);
          state.visit(c);
        }) == path + ": has \"weights 4 3\" where \"weights 4 4\" is expected");
  CHECK(complaint_about([](Checkpoint&) {}) == path + ": goes on where it should end");
  CHECK(complaint_about([](Checkpoint& c) {
          State().visit(c);
          std::vector<double> more;
          c.visit("more", more);
        }) == path + ": has \"\" where \"more 8 0\" is expected");
}

TEST_CASE("checkpoint: another option is refused with both values; some options may differ") {
  const Folder folder;
  const std::string path = folder / "checkpoint";
  std::int64_t depth = 3;
  int threads = 1;
  bool is_stochastic = true;
  const std::vector<Flag> flags{depth_flag(depth), threads_flag("", threads),
                                rounding_flag(is_stochastic)};
  Checkpoint written;
  written.require_same(flags);
  written.write(path);
  const auto found = [&] {
    return complaint(path, [&](Checkpoint& checkpoint) { checkpoint.require_same(flags); });
  };
  threads = 2;
  CHECK(found().empty());
  depth = 4;
  CHECK(found() == path + ": was made with --depth 3, not 4");
  depth = 3;
  is_stochastic = false;
  CHECK(found() == path + ": was made with --rounding stochastic, not nearest");
}

TEST_CASE("checkpoint: one is due after every so many steps and at the end, if it is asked for") {
  CheckpointOptions options{.file = "file", .every = 4, .resumed_file = ""};
  std::vector<std::int64_t> due;
  for (std::int64_t step = 1; step <= 10; ++step) {
    if (options.is_due(step, 10)) due.push_back(step);
  }
  CHECK(due == std::vector<std::int64_t>{4, 8, 10});
  options.file = "";
  CHECK_FALSE(options.is_due(4, 10));
}

}  // namespace
