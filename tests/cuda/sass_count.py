#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Counts the machine instructions that a full group costs, from a cubin, without a GPU.

    sass_count.py CUBIN [--limits FILE]

Of every kernel, prints the instructions that one thread issues on its hot path, per element, and
registers. The hot path is, among all paths from the entry to an exit, the one that does most work
(16-byte memory accesses, fused multiply-adds that round down, Philox products), and of those
the shortest: what is left out is the handling of tails, of nearest rounding and of extreme values.
A loop is counted once. Lines of FILE are "kernel elements limit registers", where `kernel` is a
part of the name and `elements` are those of one thread; the exit status tells whether all hold.

Instructions of compute capability 7.0 to 9.x have 16 bytes: the low 12 bits are the opcode, the
next 4 the predicate (7: always).
"""
import argparse
import functools
import struct
import sys

SIZE = 16
BRA, EXIT = 0x947, 0x94D
UNDECIDABLE = {0x949: "BRX", 0x94C: "JMX", 0x943: "CALL", 0x944: "CALL", 0x950: "RET"}
LDL, STL = 0x983, 0x387


def bits(word, low, count):
    return word >> low & (1 << count) - 1


def sections(cubin):
    """Yields (name, contents) of an ELF file's sections."""
    with open(cubin, "rb") as file:
        data = file.read()
    if data[:4] != b"\x7fELF":
        sys.exit(f"{cubin} is not a cubin")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size) for i in range(count)]
    strings = headers[names][4]
    for header in headers:
        begin = strings + header[0]
        name = data[begin : data.index(b"\0", begin)].decode()
        yield name, header, data[header[4] : header[4] + header[5]]


class Instruction:
    def __init__(self, address, word):
        self.address = address
        self.opcode = bits(word, 0, 12)
        self.always = bits(word, 12, 4) == 7 and bits(word, 87, 4) in (7, 0)
        self.word = word

    def target(self):
        """Of a branch: the offset, in units of 4 bytes, is in bits 16–23 and 34–81."""
        offset = bits(self.word, 34, 48) << 8 | bits(self.word, 16, 8)
        offset -= (offset >> 55) << 56
        return self.address + SIZE + 4 * offset

    def work(self):
        low = self.opcode & 0x1FF
        if low in (0x181, 0x186):  # LDG, STG; the access size is in bits 73–75
            return bits(self.word, 73, 3) == 6
        if low == 0x023:  # FFMA; the rounding is in bits 78–79
            return bits(self.word, 78, 2) == 1
        return low == 0x025 and bits(self.word, 32, 32) in (0xD2511F53, 0xCD9E8D57)  # Philox


def hot_path(code, name):
    instructions = [
        Instruction(at, int.from_bytes(code[at : at + SIZE], "little"))
        for at in range(0, len(code), SIZE)
    ]
    sys.setrecursionlimit(10 * len(instructions) + 1000)

    @functools.lru_cache(None)
    def best(index):
        """(work, -instructions, successor) of the best path from here to an exit."""
        instruction = instructions[index]
        if instruction.opcode in UNDECIDABLE:
            sys.exit(f"{name}: {UNDECIDABLE[instruction.opcode]} at {instruction.address:#x}")
        successors = []
        if instruction.opcode == EXIT:
            if instruction.always:
                return (0, -1)
            successors.append(index + 1)
        elif instruction.opcode == BRA:
            target = instruction.target()
            if target % SIZE or not 0 <= target < len(code):
                sys.exit(f"{name}: no instruction at the branch target {target:#x}")
            if target > instruction.address:
                successors.append(target // SIZE)
            if not instruction.always:
                successors.append(index + 1)
        else:
            successors.append(index + 1)
        ends = [best(s) for s in successors if s < len(instructions)]
        ends = [end for end in ends if end is not None]
        if not ends:
            return None  # backwards only: the padding behind a kernel, or a loop without an exit
        work, length = max(ends)
        return (work + instruction.work(), length - 1)

    end = best(0)
    return -end[1], end[0]


def kernels(cubin):
    """Yields (name, code, registers) of a cubin's kernels."""
    for name, header, contents in sections(cubin):
        if name.startswith(".text."):
            yield name[len(".text.") :], contents, header[7] >> 24


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cubin")
    parser.add_argument("--limits")
    arguments = parser.parse_args()
    limits = []
    if arguments.limits:
        with open(arguments.limits) as file:
            limits = [line.split() for line in file if line.strip() and not line.startswith("#")]
    found, failed = set(), False
    for name, code, registers in sorted(kernels(arguments.cubin)):
        matching = [limit for limit in limits if limit[0] in name]
        if limits and not matching:
            continue
        length, work = hot_path(code, name)
        elements = int(matching[0][1]) if matching else 16
        line = f"{length / elements:6.2f} per element  {registers:3} registers  {work:3} work  {name}"
        for part, _, limit, register_limit in matching:
            found.add(part)
            if length / elements > float(limit) or registers > int(register_limit):
                line += f"  EXCEEDS {limit} or {register_limit} registers"
                failed = True
        print(line)
    for missing in {limit[0] for limit in limits} - found:
        print(f"no kernel is called {missing}")
        failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
