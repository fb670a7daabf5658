// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks a program's last word: its exit status, and what it says when its results are lost.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>

#include "common/program.hpp"
#include "examples/support.hpp"

namespace {

using namespace support;

// Of a process of its own whose standard output is the file `output`.
template <class Body>
Outcome outcome_of(const std::string& output, const Body& body) {
  const Folder folder;
  const std::string errors = folder / "errors";
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    int ends[2] = {-1, -1};
    if (output == "closed pipe") {
      if (pipe(ends) != 0) _exit(99);
      close(ends[0]);
      dup2(ends[1], STDOUT_FILENO);
    } else {
      dup2(open(output.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    }
    dup2(open(errors.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    const char* arguments[] = {"program"};
    _exit(trainer::run_program("program", 1, arguments, [&](auto) { return body(); }));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents_of(errors)};
}

const std::string lost = "program: standard output could not be written\n";

TEST_CASE("program: output that is lost makes it fail, with a message, whoever wrote it and when") {
  const auto by_cout = [] {
    std::cout << "a line" << std::endl;
    return EXIT_SUCCESS;
  };
  const auto by_printf = [] {
    std::printf("no line");
    return EXIT_SUCCESS;
  };
  const auto early = [] {
    std::cout << "lost" << std::endl;
    std::cout.clear();
    return EXIT_SUCCESS;
  };
  for (const char* output : {"/dev/full", "closed pipe"}) {
    for (const Outcome& outcome :
         {outcome_of(output, by_cout), outcome_of(output, by_printf), outcome_of(output, early)}) {
      CHECK(outcome.status == EXIT_FAILURE);
      CHECK(outcome.output == lost);
    }
  }
  for (const Outcome& outcome :
       {outcome_of("/dev/null", by_cout), outcome_of("/dev/null", by_printf)}) {
    CHECK(outcome.status == EXIT_SUCCESS);
    CHECK(outcome.output.empty());
  }
}

TEST_CASE("program: an exception is one line, and a failure") {
  const Outcome error = outcome_of("/dev/null", []() -> int { throw std::runtime_error("wrong"); });
  CHECK(error.status == EXIT_FAILURE);
  CHECK(error.output == "program: wrong\n");
  const Outcome memory = outcome_of("/dev/null", []() -> int { throw std::bad_alloc(); });
  CHECK(memory.status == EXIT_FAILURE);
  CHECK(memory.output == "program: out of memory\n");
}

}  // namespace
