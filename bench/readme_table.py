#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Writes the tables of speed and error, in the README and in docs/speed.md, from bench/results.

    readme_table.py [--check]

Each of the two pages holds a generated block between two markers. The README's is one short table
with every machine side by side; the page's has a table for each machine. --check writes nothing
and fails where a block differs from what the results give.
"""
import json
import pathlib
import sys

import results_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
BEGIN = "<!-- Made by bench/readme_table.py from bench/results: do not edit. -->\n"
END = "<!-- The end of what bench/readme_table.py made. -->\n"

# A line of a table: its title, the row's name up to the size, its type, its width, and its codec in
# the tables of error if it decodes.
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
README_LINES = (  # titles and widths
    ("quantize, stochastic", 2),
    ("dequantize, plain", 2),
    ("dequantize, subtractive", 2),
    ("encode sign and magnitude", 2),
    ("decode sign and magnitude, subtractive", 2),
    ("zfp, fixed rate, compress", 4),
)
SIZES = ((1 << 20, "1 MiB"), (1 << 26, "64 MiB"))
TYPE_BYTES = {"float": 4, "bfloat16": 2, "float16": 2}
ERRORS = ("gauss", "relu")


def host_results():
    """The results of every machine's host benchmarks, by the stem of their file."""
    for path in sorted(RESULTS.glob("*.json")):
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        if "cpu" in results["context"]:  # else a device's
            yield path.stem, results


def lines_of(results, wanted):
    """The wanted lines that a machine has measured."""
    rows = {}
    for row in results_table.rows_of(results_table.medians(results["benchmarks"])[0]):
        if row.get("threads", 1) == 1:
            rows[row["verb"], row.get("type"), row.get("bits"), row.get("numel")] = row
    errors = {
        (row["codec"], row["bits"], row["set"]): row["nmse"] for row in results["quality"]
    }
    lines = []
    for title, verb, kind, bits, codec in wanted:
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
        lines.append(line)
    return lines


def machine(context):
    return f"{context['cpu']} ({context['instruction_set']})".replace("(R)", "")


def readme_block():
    number = results_table.number
    size = SIZES[-1][1]
    wanted = [line for line in LINES if (line[0], line[3]) in README_LINES and line[2] == "float"]
    lines, columns, sources = {}, [], []
    for stem, results in host_results():
        context = results["context"]
        for line in lines_of(results, wanted):
            merged = lines.setdefault((line["title"], line["stored"]), {})
            for key, value in line.items():
                merged[f"{stem} {key}" if key.startswith(size) else key] = value
        columns += [
            number(f"{machine(context)}, GB/s", f"{stem} {size}", count=2),
            number("of a copy's speed", f"{stem} {size} vs_copy", count=2),
        ]
        sources.append(f"[{machine(context)}](bench/results/{stem}.md) by `{context['command']}`")
    if not sources:
        return "Not yet measured.\n"
    columns = [
        (f"one thread, {size} of float", "---", lambda line: line["title"]),
        number("bits a value", "stored", count=4),
        *columns,
        number("error, N(0, 1)", "gauss", count=2),
    ]
    return (
        f"{results_table.table(list(lines.values()), columns)}\n\n"
        f"Measured on {' and on '.join(sources)}. A copy is `memcpy` of the floats; error is "
        "Σ (decoded − x)² / Σ x². How, and every row: [docs/speed.md](docs/speed.md).\n"
    )


def page_columns():
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


def page_block():
    block = ""
    for stem, results in host_results():
        context = results["context"]
        clock = float(context["measured_clock_ghz"])
        place = f"../bench/results/{stem}"
        table = results_table.table(lines_of(results, LINES), list(page_columns()))
        steps = "".join(f"- {sentence}\n" for sentence in steps_of(results))
        block += (
            f"\n### {machine(context)}\n\n"
            f"`{context['command']}` on {context['cpu']} ({context['cpu_numbers']}; {clock:.1f} GHz), "
            f"{context['instruction_set']}, {context['compiler']}, commit {context['commit']}, "
            f"{context['date']}; all rows with their spread in [{stem}.md]({place}.md):\n"
            f"\n{table}\n\n{steps}\n![Speed against size, error against stored bits]({place}.svg)\n"
        )
    return block or "\nNot yet measured.\n"


def main():
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    for page, block in ((ROOT / "README.md", readme_block()),
                        (ROOT / "docs" / "speed.md", page_block())):
        before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        made, end, after = rest.partition(END)
        if not begin or not end:
            sys.exit(f"{page.name}: the markers of the table are missing")
        if not arguments:
            whole = page.with_suffix(".partial")
            whole.write_text(before + begin + block + "\n" + end + after, encoding="utf-8")
            whole.replace(page)
        elif made != block + "\n":
            sys.exit(f"{page.name}: the table is not that of bench/results: bench/readme_table.py")


if __name__ == "__main__":
    main()
