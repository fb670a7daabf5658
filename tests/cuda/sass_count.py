#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Counts the machine instructions that a full group costs, from a cubin, without a GPU.

    sass_count.py LIMITS CUBIN...

Every line of LIMITS is "kernel elements accesses limit registers": a part of a kernel's name, the
elements of one thread, the 16-byte memory accesses that move them, the instructions allowed for an
element, and the registers allowed. What is counted is what a thread issues on its hot path: the
shortest path from the entry to an exit that makes all of those accesses, so that the handling of
tails and of extreme values is left out. Prints a line for each kernel; the exit status tells
whether all are within their limits and use no local memory.

An instruction (compute capability 7.0 to 12.x) has 16 bytes: the low 12 bits are the opcode, the
next 4 the predicate (7: always).
"""
import argparse
import struct
import sys

SIZE = 16
BRA, EXIT, LDL, STL = 0x947, 0x94D, 0x983, 0x387
UNDECIDABLE = {0x949: "BRX", 0x94C: "JMX", 0x943: "CALL", 0x944: "CALL", 0x950: "RET"}
REGISTER_COUNT = 0x2F  # an attribute in .nv.info


def bits(word, low, count):
    return word >> low & (1 << count) - 1


def sections(cubin):
    """Returns {name: contents} of a cubin, an ELF file, and its symbols' names by number."""
    with open(cubin, "rb") as file:
        data = file.read()
    if data[:4] != b"\x7fELF":
        sys.exit(f"{cubin} is not a cubin")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size)
               for i in range(count)]

    def text(at):
        return data[at : data.index(b"\0", at)].decode()

    section_names = [text(headers[names][4] + header[0]) for header in headers]
    found = {name: data[h[4] : h[4] + h[5]] for name, h in zip(section_names, headers)}
    strings = headers[section_names.index(".strtab")][4]
    symbols = struct.iter_unpack("<I20x", found[".symtab"])
    return found, [text(strings + at) for (at,) in symbols]


def register_counts(info, symbols):
    """Returns {kernel: registers} from the attributes in .nv.info."""
    counts, at = {}, 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == 4:  # `value` bytes follow
            if attribute == REGISTER_COUNT:
                symbol, count = struct.unpack_from("<II", info, at)
                counts[symbols[symbol]] = count
            at += value
    return counts


class Instruction:
    def __init__(self, address, word):
        self.address = address
        self.opcode = bits(word, 0, 12)
        self.always = bits(word, 12, 4) == 7
        self.word = word

    def target(self):
        """Of a branch: the offset, in units of 4 bytes, is in bits 16-23 and 34-81."""
        offset = bits(self.word, 34, 48) << 8 | bits(self.word, 16, 8)
        offset -= offset >> 55 << 56
        return self.address + SIZE + 4 * offset

    def is_wide_access(self):
        """Whether this is LDG or STG of 16 bytes: the size is in bits 73-75."""
        return self.opcode & 0x1FF in (0x181, 0x186) and bits(self.word, 73, 3) == 6


def shortest(code, accesses, name):
    """The length of the shortest path that makes so many 16-byte accesses; None without one."""
    instructions = [
        Instruction(at, int.from_bytes(code[at : at + SIZE], "little"))
        for at in range(0, len(code), SIZE)
    ]
    # lengths[i][a]: of the shortest path from instruction i to an exit that makes a accesses. Code
    # that is reached backwards belongs to a loop, which the hot path does not have.
    lengths = [None] * (len(instructions) + 1)
    lengths[-1] = {}
    for i in reversed(range(len(instructions))):
        instruction = instructions[i]
        if instruction.opcode in UNDECIDABLE:
            lengths[i] = {}
            continue
        successors = [i + 1]
        ends = {}
        if instruction.opcode == EXIT:
            ends = {0: 1}
            successors = [] if instruction.always else successors
        elif instruction.opcode == BRA:
            target = instruction.target()
            if target % SIZE or not 0 <= target < len(code):
                sys.exit(f"{name}: there is no instruction at the branch target {target:#x}")
            conditional = not instruction.always or bits(instruction.word, 87, 4) != 7
            successors = successors if conditional else []
            if target > instruction.address:
                successors.append(target // SIZE)
        wide = instruction.is_wide_access()
        for successor in successors:
            for a, length in lengths[successor].items():
                ends[a + wide] = min(ends.get(a + wide, length + 1), length + 1)
        lengths[i] = ends
    return lengths[0].get(accesses)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("limits")
    parser.add_argument("cubins", nargs="+")
    arguments = parser.parse_args()
    with open(arguments.limits) as file:
        limits = [line.split() for line in file if line.strip() and not line.startswith("#")]
    codes, registers = {}, {}
    for cubin in arguments.cubins:
        found, symbols = sections(cubin)
        registers.update(register_counts(found[".nv.info"], symbols))
        prefix = ".text."
        codes.update({n[len(prefix) :]: code for n, code in found.items() if n.startswith(prefix)})
    failed = False
    print("instructions  registers  kernel")
    for part, elements, accesses, limit, register_limit in limits:
        names = [name for name in codes if part in name]
        if len(names) != 1:
            print(f"{len(names)} kernels are called {part}")
            failed = True
            continue
        (name,) = names
        length = shortest(codes[name], int(accesses), name)
        if length is None:
            print(f"no path of {part} makes {accesses} accesses of 16 bytes")
            failed = True
            continue
        per_element = length / int(elements)
        print(f"{per_element:9.2f}/{limit:3} {registers[name]:5}/{register_limit:5} {part}")
        failed |= per_element > float(limit) or registers[name] > int(register_limit)
    for name, code in codes.items():
        words = (int.from_bytes(code[at : at + 2], "little") for at in range(0, len(code), SIZE))
        if any(bits(word, 0, 12) in (LDL, STL) for word in words):
            print(f"{name} uses local memory")
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
