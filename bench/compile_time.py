#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Prints how long a compiler takes for each public header and for a user's file.

    compile_time.py [--compiler g++] [--flags=-O2] [--runs 5] [--cuda /usr/local/cuda] [--markdown]

Seconds of processor time, medians. "std" is a file with the same headers of the standard library
and nothing else, so the rest is our own. "actpack::host" is a file of a program that links the
loops instead of compiling them. Headers in cuda/ are measured as host code, where the CUDA
runtime's headers are.
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
LINKED = "#define ACTPACK_EXTERN_KERNELS 1\n"
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


def standard_headers(command, source):
    """Returns a source that includes what ours enter of other people's headers."""
    preprocessed = subprocess.run([*command, "-E"], input=source, encoding="utf-8", check=True,
                                  stdout=subprocess.PIPE).stdout
    found, stack = [], [""]
    for path, flags in re.findall(r'^# \d+ "(.+)"((?: \d)*)$', preprocessed, re.M):
        if flags.startswith(" 1"):
            if stack[-1].startswith(str(INCLUDE)) and not path.startswith(str(INCLUDE)):
                found.append(pathlib.Path(path).name)
            stack.append(path)
        elif flags.startswith(" 2"):
            stack.pop()
    return "".join(f"#include <{header}>\n" for header in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--flags", default="-O2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cuda", type=pathlib.Path, default=pathlib.Path("/usr/local/cuda"))
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/")
    arguments = parser.parse_args()
    compiler = [arguments.compiler, "-std=c++20", *shlex.split(arguments.flags), f"-I{INCLUDE}"]
    folders = ["", "cuda/"]
    if not (arguments.cuda / "include/cuda_runtime_api.h").exists():
        folders.remove("cuda/")
    command = [*compiler, f"-isystem{arguments.cuda}/include", "-x", "c++", "-"]

    sources = {header.relative_to(INCLUDE / "actpack").as_posix(): None
               for folder in folders
               for header in sorted((INCLUDE / "actpack" / folder).glob("*.hpp"))}
    sources = {name: f'#include "actpack/{name}"\n' for name in sources}
    sources["a user's file"] = USER
    row = "| {:28} | {:>10} | {:>5} | {:>13} |" if arguments.markdown else "{:28}{:>12}{:>8}{:>16}"
    print(f"Seconds, {shlex.join([*compiler[:-1], '-c'])}\n")
    print(row.format("", "header only", "std", "actpack::host"))
    if arguments.markdown:
        print("|---|---:|---:|---:|")
    compile_only = [*command, "-c", "-o", "/dev/null"]
    for name, source in sources.items():
        times = [seconds(compile_only, variant, arguments.runs)
                 for variant in (source, standard_headers(command, source), LINKED + source)]
        label = f"`{name}`" if arguments.markdown and name.endswith(".hpp") else name
        print(row.format(label, *(f"{time:.2f}" for time in times)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
