// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the trainers as programs: what they leave when they are killed, when a disk is full and
// when a rank dies, and that they go on from there.
#include <doctest/doctest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <utility>

#include "common/checkpoint.hpp"
#include "examples/support.hpp"

namespace {

using namespace support;

const std::string data = " --data none --threads 1";
const std::string fashion_mnist = ACTPACK_TRAIN_FASHION_MNIST + data + " --train-limit 260";
const std::string transformer =
    ACTPACK_TRAIN_GPT + data +
    " --layers 1 --channels 32 --context 32 --batch 2 --validation-windows 2";
const std::string killed_soon = "timeout -s KILL ";

// A program's results but for times and for bytes that depend on what else was in memory.
std::string results_in(const std::string& path) {
  const std::regex measured("\"(threads|[a-z_]*seconds[a-z_]*|codec_share|peak_bytes)\": [^,]*,");
  return std::regex_replace(contents_of(path), measured, "");
}

std::string files(const Folder& folder, const std::string& name) {
  return " --json " + (folder / (name + ".json")) + " --checkpoint " + (folder / name);
}

TEST_CASE("programs: a resumed training leaves what one leaves that never stopped") {
  for (const std::string& command :
       {fashion_mnist + " --epochs 2", transformer + " --steps 12 --seeds 1,2 --bits 2",
        transformer + " --steps 12 --average-bits 2"}) {
    CAPTURE(command);
    const Folder folder;
    const std::string often = command + " --checkpoint-every 1";
    REQUIRE(run(often + files(folder, "straight")).status == 0);
    // Killed again and again, each time a little later; whatever is there can be used.
    std::string resume;
    for (int tenths = 1; tenths <= 6; ++tenths) {
      run(killed_soon + "0." + std::to_string(tenths) + " " + often + resume +
          files(folder, "other"));
      if (std::filesystem::exists(folder / "other")) {
        CHECK_NOTHROW(trainer::Checkpoint(folder / "other"));
        resume = " --resume " + (folder / "other");
      }
    }
    const Outcome last = run(often + resume + files(folder, "other") + " --threads 2");
    CAPTURE(last.output);
    REQUIRE(last.status == 0);
    CHECK(entries_of(folder / "other") == entries_of(folder / "straight"));
    CHECK(results_in(folder / "other.json") == results_in(folder / "straight.json"));
  }
}

TEST_CASE("programs: a checkpoint of another training is refused, with option and both values") {
  const Folder folder;
  const std::string file = folder / "run";
  const std::string json = " --json " + (folder / "out.json");
  REQUIRE(run(fashion_mnist + " --epochs 1 --bits 2 --checkpoint " + file + json).status == 0);
  const auto complaint = [&](const std::string& command) {
    const Outcome outcome = run(command + json + " --resume " + file);
    CHECK(outcome.status == 1);
    return outcome.output;
  };
  const std::string same = fashion_mnist + " --epochs 1 --bits 2";
  CHECK(contains(complaint(same + " --seed 1"), "--seed 0, not 1"));
  CHECK(contains(complaint(same + " --depth 1"), "--depth 0, not 1"));
  CHECK(contains(complaint(fashion_mnist + " --epochs 1 --bits 4"), "--bits 2, not 4"));
  CHECK(contains(complaint(fashion_mnist + " --epochs 1"), "--bits 2, not of the comparison"));
  CHECK(contains(complaint(same + " --range tensor"), "--range group, not tensor"));
  CHECK(contains(complaint(transformer + " --steps 1"),
                 "program train_fashion_mnist, not train_gpt"));
  const std::string whole = contents_of(file);
  std::ofstream(file, std::ios::binary) << whole.substr(0, whole.size() - 1);
  CHECK(contains(complaint(same), file + ": is damaged"));
}

TEST_CASE("programs: results that cannot be written are an error, and earlier ones stay") {
  const std::array commands{
      std::pair{fashion_mnist + " --epochs 0 --bits 2", "train_fashion_mnist"},
      std::pair{transformer + " --steps 1 --bits 2", "train_gpt"}};
  for (const auto& [command, name] : commands) {
    const Folder folder;
    const std::string json = folder / "out.json";
    std::ofstream(json) << "earlier";
    const auto check = [&](const Outcome& outcome, const std::string& file,
                           const std::string& why) {
      CAPTURE(outcome.output);
      CHECK(outcome.status == 1);
      CHECK(contains(outcome.output, name + (": " + file) + ": cannot be written: " + why + "\n"));
      CHECK(contents_of(json) == "earlier");
      CHECK(folder.names().size() == 1);
    };
    // The limit of a file's size stands in for a full disk: 0 blocks are left. MPI wants some
    // itself.
    if (command.starts_with(fashion_mnist))
      check(run("(ulimit -f 0; " + command + " --json " + json + ")"), json, "File too large");
    check(run(command + " --json " + json + "/x.json"), json + "/x.json", "Not a directory");
    check(run(command + " --json /dev/full"), "/dev/full", "No space left on device");
    const Outcome lost = run(command + " --json " + (folder / "new.json") + " > /dev/full");
    CHECK(lost.status == 1);
    CHECK(contains(lost.output, "standard output could not be written"));
    CHECK(std::filesystem::exists(folder / "new.json"));
  }
  const Folder folder;
  const Outcome outcome = run(transformer + " --steps 2 --bits 2 --checkpoint /dev/full");
  CHECK(outcome.status == 1);
  CHECK(
      contains(outcome.output, "train_gpt: /dev/full: cannot be written: No space left on device"));
}

#ifdef ACTPACK_MPIEXEC
const std::string on_a_rank = " -n 1 " + transformer + " --bits 2 --steps ";

TEST_CASE("ranks: one that throws or is killed ends the others, with a message and a failure") {
  const std::string limited = "timeout 60 " ACTPACK_MPIEXEC;
  const Outcome thrown = run(limited + on_a_rank + "1000000 :" + on_a_rank + "many");
  CAPTURE(thrown.output);
  CHECK(thrown.status != 0);
  CHECK(thrown.status != 124);  // the time was up
  CHECK(contains(thrown.output, "train_gpt: --steps many: expected"));

  // As a machine's memory killer does it, after some steps.
  const Outcome killed = run(limited + on_a_rank + "1000000 : -n 1 sh -c '" + transformer +
                             " --bits 2 --steps 1000000 & sleep 2; kill -9 $!; wait $!'");
  CAPTURE(killed.output);
  CHECK(killed.status != 0);
  CHECK(killed.status != 124);
  CHECK_FALSE(killed.output.empty());
}

TEST_CASE(
    "ranks: they write one checkpoint and resume from it; another number of them is refused") {
  const Folder folder;
  const std::string train = " " + transformer + " --average-bits 2 --steps 20";
  const std::string two = ACTPACK_MPIEXEC " -n 2" + train;
  REQUIRE(run(two + files(folder, "straight")).status == 0);
  REQUIRE(
      run(killed_soon + "1.5 " + two + " --checkpoint-every 1" + files(folder, "other")).status >=
      0);
  if (!std::filesystem::exists(folder / "other")) return;  // the machine was too slow
  const std::string resume = " --resume " + (folder / "other");
  const Outcome alone = run(ACTPACK_TRAIN_GPT + train.substr(train.find(" --data")) + resume);
  CHECK(alone.status == 1);
  CHECK(contains(alone.output, "a number of ranks of 2, not 1"));
  const Outcome resumed = run(two + resume + files(folder, "other"));
  CAPTURE(resumed.output);
  REQUIRE(resumed.status == 0);
  CHECK(entries_of(folder / "other") == entries_of(folder / "straight"));
  CHECK(results_in(folder / "other.json") == results_in(folder / "straight.json"));
}
#endif

}  // namespace
