#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Checks that includes point down only: in the table below, a header includes none after it. Of
other people's headers, only the standard library's and, for devices, CUDA's are included.

    include_layers.py INCLUDE_DIRECTORY

The table is also the order in which the headers read best, so the umbrella actpack.hpp follows it.
Those of one entry, names or all files of a folder, may include each other.
"""
import pathlib
import re
import sys

LAYERS = {
    "ground": ["config.hpp", "detail/require.hpp detail/refuse.hpp"],
    "numeric core": ["philox.hpp", "detail/fma.hpp", "detail/dither.hpp", "rounding.hpp",
                     "detail/float_bits.hpp", "detail/float_environment.hpp", "float16.hpp",
                     "codes.hpp", "detail/codes.hpp", "detail/affine.hpp", "affine.hpp",
                     "detail/smallest_positive.hpp"],
    "containers": ["layout.hpp", "detail/dropout.hpp", "detail/host_array.hpp", "packed.hpp",
                   "sign_magnitude_view.hpp", "detail/require_view.hpp", "detail/group.hpp",
                   "detail/sides.hpp", "batch_norm_channels.hpp", "detail/byte_stream.hpp",
                   "detail/checksum.hpp", "frame.hpp", "detail/serialize/ serialize.hpp",
                   "allocation_problem.hpp", "sensitivity.hpp"],
    "host algorithms": ["instruction_set.hpp", "parallel.hpp", "detail/host/pieces.hpp",
                        "bit_pack.hpp", "detail/host/group_loop.hpp",
                        "detail/host/arguments.hpp", "detail/host/strips.hpp",
                        "detail/host/affine_codes.hpp",
                        "detail/host/side_codes.hpp", "detail/host/host_path.hpp",
                        "detail/x86/avx2.hpp", "detail/x86/avx512.hpp",
                        "detail/x86/for_each_instruction_set.inl", "detail/x86/noise.inl",
                        "detail/x86/noise.hpp", "detail/x86/mask_elements.inl",
                        "detail/host/mask_elements.hpp", "detail/x86/ranges.inl",
                        "detail/x86/affine.inl", "detail/x86/sides.inl", "detail/x86/blocks.inl",
                        "detail/x86/groups.inl", "detail/x86/groups.hpp",
                        "detail/host/group_codec.hpp", "detail/host/relu_groups.hpp",
                        "quantize.hpp", "detail/host/mask_pieces.hpp", "mask.hpp",
                        "sign_magnitude.hpp", "sign_keeping.hpp",
                        "detail/host/batch_norm_segments.hpp", "batch_norm.hpp",
                        "detail/allocation/", "bit_allocation.hpp", "variance.hpp",
                        "detail/auto_precision/ auto_precision.hpp",
                        "actpack.hpp"],
    "cooperative": ["cuda/warp_tile.hpp", "cuda/slice.hpp detail/cuda/", "cuda/group.hpp"],
    "stream API": ["cuda/element.hpp", "cuda/error.hpp", "cuda/layout.hpp", "cuda/bit_pack.hpp",
                   "cuda/quantize.hpp", "cuda/mask.hpp", "cuda/sign_magnitude.hpp",
                   "cuda/sign_keeping.hpp", "cuda/batch_norm.hpp", "cuda/bit_allocation.hpp",
                   "cuda/statistics.hpp"],
}
INCLUDE = r'^#(?:include|define ACTPACK_KERNELS) "actpack/(.+)"'
WITH_CUDA = ["cooperative", "stream API"]
STANDARD = r"[a-z_]+|immintrin\.h"
STANDARD_OR_CUDA = STANDARD + r"|cuda_\w+\.h"


def position_of(header):
    """Returns where the table has `header`, None if it has not."""
    number = 0
    for layer, entries in LAYERS.items():
        for entry in entries:
            if any(header == name or (name.endswith("/") and header.startswith(name))
                   for name in entry.split()):
                return number, layer
            number += 1
    return None


def mistakes_in(header, text, headers):
    if position_of(header) is None:
        return [f"{header} has no layer: give it one in {pathlib.Path(__file__).name}"]
    number, layer = position_of(header)
    mistakes = []
    for included in re.findall(INCLUDE, text, re.M):
        position = position_of(included)
        if included not in headers:
            mistakes.append(f"{header} includes {included}, which does not exist")
        elif position is not None and position[0] > number:
            mistakes.append(
                f"{header} ({layer}) includes {included} ({position[1]}), which is above")
    allowed = STANDARD_OR_CUDA if layer in WITH_CUDA else STANDARD
    return mistakes + [f"{header} ({layer}) includes {included}, which is not ours to require"
                       for included in re.findall(r"^ *# *include <(.+)>", text, re.M)
                       if not re.fullmatch(allowed, included)]


def main():
    root = pathlib.Path(sys.argv[1]) / "actpack"
    headers = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
               for path in root.rglob("*") if path.suffix in (".hpp", ".inl", ".cuh")}
    mistakes = []
    for header, text in sorted(headers.items()):
        mistakes += mistakes_in(header, text, headers)
    for entry in (entry for entries in LAYERS.values() for entry in entries):
        mistakes += [f"the table has {name}, which does not exist" for name in entry.split()
                     if not any(header.startswith(name) for header in headers)]
    umbrella = re.findall(r'^#include "actpack/(.+)"', headers["actpack.hpp"], re.M)
    if umbrella != sorted(umbrella, key=lambda header: position_of(header) or (-1, "")):
        mistakes.append("actpack.hpp is not in the table's order")
    print("\n".join(mistakes) or f"{len(headers)} headers include downwards only")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
