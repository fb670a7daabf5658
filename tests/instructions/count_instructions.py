#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Compares the instructions that the host verbs cost with a table, so that no timing has to.

    count_instructions.py [--update] PROGRAM TABLE

PROGRAM is instructions_main.cpp. It runs under valgrind's callgrind, which counts the same on every
machine: it shows programs the same processor, and the compiler that a table names makes the same
code. A figure that is off by more than TOLERANCE either way is an error: a verb that got faster
needs a new table, too, or the next change could lose what this one gained. --update writes it.

The exit status is 77, which means skipped, without valgrind, with another compiler than the
table's, or on a processor that lacks an instruction set of the table.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
TOLERANCE = 0.03  # far above the call's own cost, far below the loss of a vector loop


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def measure(program):
    """Returns the compiler and {"set verb type": {bits: instructions an element}}."""
    if shutil.which("valgrind") is None:
        skip("there is no valgrind")
    with tempfile.TemporaryDirectory() as folder:
        counts = os.path.join(folder, "counts")
        command = ["valgrind", "--tool=callgrind", "--quiet", "--combine-dumps=yes",
                   f"--callgrind-out-file={counts}", program]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        with open(counts, encoding="utf-8") as file:
            text = file.read()
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    figures = {}
    for verb, bits, total in re.findall(
            r"^desc: Trigger: Client Request: ([^\n]+) (\d+)$.*?^totals: (\d+)$", text,
            re.M | re.S):
        figures.setdefault(verb, {})[int(bits)] = int(total) / int(said["elements"])
    return said["compiler"].strip(), figures


def read_table(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    compiler = " ".join(lines[0][1:])
    figures = {}
    for *verb, one, two, four, eight in lines[1:]:
        by_bits = zip((1, 2, 4, 8), (one, two, four, eight))
        figures[" ".join(verb)] = {bits: float(cost) for bits, cost in by_bits if cost != "-"}
    return compiler, figures


def write_table(path, compiler, figures):
    def row(cells):
        return ("{:<9} {:<23} {:<9}" + 4 * "{:>8}").format(*cells).rstrip() + "\n"

    with open(path, "w", encoding="utf-8") as file:
        file.write("# SPDX-FileCopyrightText: The actpack authors\n# "
                   "SPDX-License-" "Identifier: MIT\n#\n"  # in two, or it would be this file's
                   "# Instructions an element, written by count_instructions.py --update.\n"
                   f"compiler {compiler}\n"
                   "# instruction set, verb, type, and the cost at 1, 2, 4 and 8 bits\n")
        for verb, by_bits in figures.items():
            costs = (f"{by_bits[bits]:.3f}" if bits in by_bits else "-" for bits in (1, 2, 4, 8))
            file.write(row([*verb.split(), *costs]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write TABLE anew")
    parser.add_argument("program")
    parser.add_argument("table")
    arguments = parser.parse_args()

    compiler, measured = measure(arguments.program)
    if arguments.update:
        write_table(arguments.table, compiler, measured)
        return 0
    expected_compiler, expected = read_table(arguments.table)
    if compiler != expected_compiler:
        skip(f"the table was made with {expected_compiler}, this is {compiler}")
    sets = {verb.split()[0] for verb in measured}
    for verb in expected:
        if verb.split()[0] not in sets:
            skip(f"this processor lacks {verb.split()[0]}")

    wrong = 0
    for verb in sorted(measured.keys() | expected.keys()):
        new, old = measured.get(verb, {}), expected.get(verb, {})
        for bits in sorted(new.keys() | old.keys()):
            if bits not in new or bits not in old:
                print(f"{verb}, {bits} bits: only in the {'table' if bits in old else 'program'}")
            elif abs(new[bits] / old[bits] - 1) > TOLERANCE:
                print(f"{verb}, {bits} bits: {new[bits]:.3f} instructions an element, not "
                      f"{old[bits]:.3f}: {new[bits] / old[bits] - 1:+.1%}")
            else:
                continue
            wrong += 1
    print(f"{wrong} of {sum(map(len, expected.values()))} figures are off by more than "
          f"{TOLERANCE:.0%}")
    if wrong:
        print("If that is what the change is for, build the target update-instructions.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
