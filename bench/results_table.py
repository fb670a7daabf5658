#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Makes a markdown table of a benchmark's results.

    results_table.py RESULTS.json [KEY=VALUE...] > RESULTS.md

RESULTS.json is what --benchmark_out writes, of the host's benchmarks or the device's. Every
KEY=VALUE becomes a line above the table, next to what the file says itself. Of repetitions the
median counts. Columns that no row has are left out.
"""
import json
import statistics
import sys

TYPES = ("float", "half", "bfloat16")
SETTINGS = ("iterations", "min_time", "min_warmup_time", "repeats", "threads")
CLOCKS = ("manual_time", "real_time", "process_time")
CONTEXT = (
    ("gpu", "GPU"),
    ("compute_capability", "Compute capability"),
    ("driver_cuda_version", "CUDA of the driver"),
    ("compiler", "Compiler"),
    ("command", "Command"),
)


def parts_of(name):
    """Takes verb/variant/type/bits:b/numel:n apart."""
    words = []
    parts = {}
    for part in name.split("/"):
        key, colon, value = part.partition(":")
        if part in TYPES:
            parts["type"] = part
        elif colon and key not in SETTINGS:
            parts[key] = int(value)
        elif not colon and part not in CLOCKS:
            words.append(part.removesuffix("_bench"))
    return {"verb": "/".join(words), **parts}


def medians(entries):
    """Returns one entry for each name, in order, and the names that failed with their reasons."""
    runs = {}
    aggregates = {}
    errors = {}
    for entry in entries:
        name = entry.get("run_name", entry["name"])
        if entry.get("error_occurred"):
            errors[name] = entry.get("error_message", "no reason given")
        elif entry.get("run_type") == "aggregate":
            if entry["aggregate_name"] == "median":
                aggregates[name] = entry
            runs.setdefault(name, [])
        else:
            runs.setdefault(name, []).append(entry)
    results = {}
    for name, repetitions in runs.items():
        if name in aggregates:
            results[name] = aggregates[name]
        elif repetitions:
            results[name] = {
                key: statistics.median(entry[key] for entry in repetitions)
                if isinstance(value, (int, float))
                else value
                for key, value in repetitions[0].items()
            }
    return results, errors


def size_of(numel):
    """2^22 for powers of two."""
    return f"2^{numel.bit_length() - 1}" if numel > 0 and numel & (numel - 1) == 0 else str(numel)


def time_of(entry):
    seconds = entry["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[entry["time_unit"]]
    return f"{seconds * 1e6:.1f}"


# Title, alignment, and the text of a cell; a row that lacks the key has an empty one.
COLUMNS = (
    ("verb", "---", lambda row: row["verb"]),
    ("type", "---", lambda row: row["type"]),
    ("bits", "---:", lambda row: str(row["bits"])),
    ("size", "---:", lambda row: size_of(row["numel"])),
    ("µs", "---:", time_of),
    ("Gitems/s", "---:", lambda row: f"{row['items_per_second'] / 1e9:.3g}"),
    ("GB/s", "---:", lambda row: f"{row['bytes_per_second'] / 1e9:.0f}"),
    ("vs_copy", "---:", lambda row: f"{row['vs_copy']:.2f}"),
    ("bits/value", "---:", lambda row: f"{row['bits_per_value']:.4g}"),
    ("NMSE", "---:", lambda row: f"{row['NMSE']:.3g}"),
)


def cell(text, row):
    try:
        return text(row)
    except KeyError:
        return ""


def table(rows):
    columns = [
        (title, alignment, [cell(text, row) for row in rows]) for title, alignment, text in COLUMNS
    ]
    columns = [column for column in columns if any(column[2])]
    lines = [[title for title, _, _ in columns], [alignment for _, alignment, _ in columns]]
    lines += [[cells[i] for _, _, cells in columns] for i in range(len(rows))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    if len(sys.argv) < 2 or any("=" not in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    context = results["context"]
    entries, errors = medians(results["benchmarks"])
    if not entries and not errors:
        sys.exit(f"{sys.argv[1]} has no results")

    print(f"- Date: {context['date']}")
    for key, title in CONTEXT:
        if key in context:
            print(f"- {title}: {context[key]}")
    for argument in sys.argv[2:]:
        key, _, value = argument.partition("=")
        print(f"- {key}: {value}")
    print()
    if entries:
        print(table([{**entry, **parts_of(name)} for name, entry in entries.items()]))
    for name, reason in errors.items():
        print(f"\nFailed: {name}: {reason}")


if __name__ == "__main__":
    main()
