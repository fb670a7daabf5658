#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Writes the README's table of speed and error from the results of the host's benchmarks.

    readme_table.py [--check]

Between its two markers the README holds, for each file of bench/results that run.sh wrote, what this
script makes of it, and nothing else. --check writes nothing and fails where they disagree.
"""
import json
import pathlib
import sys

import results_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
BEGIN = "<!-- Made by bench/readme_table.py from bench/results: do not edit. -->\n"
END = "<!-- The end of what bench/readme_table.py made. -->\n"

# A line of the table: its title, the row's name up to the size, its type, width and its codec in
# the tables of error, if it decodes.
LINES = (
    ("quantize, stochastic", "quantize/stochastic", "float", 1, None),
    ("quantize, stochastic", "quantize/stochastic", "float", 2, None),
    ("quantize, stochastic", "quantize/stochastic", "float", 4, None),
    ("quantize, stochastic", "quantize/stochastic", "float", 8, None),
    ("quantize, nearest", "quantize/nearest", "float", 2, "affine/nearest"),
    ("quantize bfloat16, stochastic", "quantize/stochastic", "bfloat16", 2, None),
    ("dequantize, plain", "dequantize/plain", "float", 2, "affine/plain"),
    ("dequantize, subtractive", "dequantize/subtractive", "float", 2, "affine/subtractive"),
    ("encode sign and magnitude", "sign_magnitude_encode/stochastic", "float", 2, None),
    ("decode sign and magnitude, subtractive", "sign_magnitude_decode/subtractive", "float", 2,
     "sign_magnitude/subtractive"),
    ("relu with its mask", "relu", "float", None, None),
    ("relu_backward from the mask", "relu_backward", "float", None, None),
    ("zfp, fixed rate, compress", "zfp_fixed_rate_compress", "float", 4, None),
    ("zfp, fixed rate, decompress", "zfp_fixed_rate_decompress", "float", 4, "zfp/fixed_rate"),
    ("c-blosc (LZ4, bits shuffled), compress", "blosc_lz4_bitshuffle_compress", "float", None, None),
    ("c-blosc, decompress", "blosc_lz4_bitshuffle_decompress", "float", None, None),
)
SIZES = ((1 << 20, "1 MiB"), (1 << 26, "64 MiB"))
TYPE_BYTES = {"float": 4, "bfloat16": 2, "float16": 2}
ERRORS = ("gauss", "relu")


def lines_of(results):
    rows = {}
    for row in results_table.rows_of(results_table.medians(results["benchmarks"])[0]):
        if row.get("threads", 1) == 1:
            rows[row["verb"], row.get("type"), row.get("bits"), row.get("numel")] = row
    errors = {
        (row["codec"], row["bits"], row["set"]): row["nmse"] for row in results["quality"]
    }
    for title, verb, kind, bits, codec in LINES:
        sizes = [rows.get((verb, kind, bits, size // TYPE_BYTES[kind])) for size, _ in SIZES]
        if None in sizes:
            continue  # a peer that was not installed
        line = {"title": title, "stored": sizes[0]["bits_per_value"]}
        for (_, name), row in zip(SIZES, sizes):
            line[name] = row["bytes_per_second"] / 1e9
            line[name + " vs_copy"] = row["vs_copy"]
            for access in ("read", "write"):
                if f"vs_{access}" in row:
                    line["vs_access"] = f"{results_table.digits(row[f'vs_{access}'])} ({access})"
        for name in ERRORS:
            if (codec, bits, name) in errors:
                line[name] = errors[codec, bits, name]
        yield line


def columns():
    number = results_table.number
    yield ("one thread", "---", lambda line: line["title"])
    yield number("bits a value", "stored", count=4)
    for _, name in SIZES:
        yield number(f"{name}, GB/s", name)
        yield number("of a copy's speed", name + " vs_copy")
    yield ("of reading or writing alone", "---:", lambda line: line["vs_access"])
    yield number("error, N(0, 1)", "gauss")
    yield number("error, ReLU", "relu")


def steps_of(results):
    """One sentence for each kind of packed training step."""
    for row in results_table.rows_of(results_table.medians(results["benchmarks"])[0]):
        if "codec_share" in row:
            kind = row["verb"].removeprefix("training_step/").replace("_", "-")
            yield (
                f"A training step of the example's network with {kind} contexts of {row['bits']} bits "
                f"takes {results_table.digits(1 / row['vs_full_precision'])} times as long as in "
                f"full precision; the codec is {100 * row['codec_share']:.0f} % of it."
            )


def section_of(path):
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    context = results["context"]
    if "cpu" not in context:  # a device's
        return ""
    clock = float(context["measured_clock_ghz"])
    place = f"bench/results/{path.stem}"
    table = results_table.table(list(lines_of(results)), list(columns()))
    steps = "".join(f"- {sentence}\n" for sentence in steps_of(results))
    return (
        f"\n`{context['command']}` on {context['cpu']} ({context['cpu_numbers']}; {clock:.1f} GHz), "
        f"{context['instruction_set']}, {context['compiler']}, commit {context['commit']}, "
        f"{context['date']}; all rows with their spread in [{path.stem}.md]({place}.md):\n\n{table}\n\n{steps}"
        f"\n![Speed against size, error against stored bits]({place}.svg)\n"
    )


def main():
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    readme = README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    made, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{README.name}: the markers of the table are missing")
    expected = "".join(section_of(path) for path in sorted(RESULTS.glob("*.json")))
    expected = (expected or "\nNot yet measured.\n") + "\n"
    if not arguments:
        README.write_text(before + begin + expected + end + after, encoding="utf-8")
    elif made != expected:
        sys.exit(f"{README.name}: the table is not that of bench/results: bench/readme_table.py")


if __name__ == "__main__":
    main()
