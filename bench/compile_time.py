#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Prints how long a compiler takes for each public header and for a user's file.

    compile_time.py [--compiler g++] [--flags=-O2] [--runs 5]

Seconds of processor time, medians; beside each, what an empty file with the same headers of the
standard library takes, so that the difference is our own.
"""
import argparse
import pathlib
import re
import resource
import shlex
import statistics
import subprocess
import sys

INCLUDE = pathlib.Path(__file__).resolve().parent.parent / "include"
USER = """#include "actpack/actpack.hpp"
void round_trip(std::span<const float> x, actpack::PackedBuffer& packed, std::span<float> y) {
  actpack::quantize(x, packed.view(), actpack::Rounding::stochastic(1));
  actpack::dequantize(packed.view(), y);
}
"""


def seconds(command, source, runs):
    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=source, encoding="utf-8", check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return statistics.median(once() for _ in range(runs))


def standard_headers(source, seen):
    """Returns what a source includes of the standard library, by way of our headers, too."""
    found = set(re.findall(r"^#include <([a-z_]+)>", source, re.M))
    for header in re.findall(r'^#include "(actpack/.+)"', source, re.M):
        if header not in seen:
            seen.add(header)
            found |= standard_headers((INCLUDE / header).read_text(encoding="utf-8"), seen)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--flags", default="-O2")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    command = [arguments.compiler, "-std=c++20", *shlex.split(arguments.flags), f"-I{INCLUDE}",
               "-x", "c++", "-c", "-", "-o", "/dev/null"]

    sources = {header.name: f'#include "actpack/{header.name}"\n'
               for header in sorted((INCLUDE / "actpack").glob("*.hpp"))}
    sources["a user's file"] = USER
    sources["the same with actpack::host"] = "#define ACTPACK_EXTERN_KERNELS 1\n" + USER
    print(f"{'':28}{'all':>7}{'std':>7}{'ours':>7}   s, {shlex.join(command[:-7])}")
    for name, source in sources.items():
        standard = "".join(f"#include <{h}>\n" for h in sorted(standard_headers(source, set())))
        total = seconds(command, source, arguments.runs)
        empty = seconds(command, standard, arguments.runs)
        print(f"{name:28}{total:7.2f}{empty:7.2f}{total - empty:7.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
