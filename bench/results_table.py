#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Makes a markdown table of a benchmark's results.

    results_table.py RESULTS.json [KEY=VALUE...] > RESULTS.md

RESULTS.json is what --benchmark_out writes, of the host's benchmarks or the device's. Every
KEY=VALUE becomes a line above the table, next to what the file says itself. Of repetitions the
median counts. Columns that no row has are left out. Of what collect_results.py wrote there are more
tables: the error of every codec on every set.
"""
import json
import statistics
import sys

TYPES = ("float", "half", "float16", "bfloat16", "uint8")
SETTINGS = ("iterations", "min_time", "min_warmup_time", "repeats")
CLOCKS = ("manual_time", "real_time", "process_time")
CONTEXT = (
    ("cpu", "Processor"),
    ("cpu_numbers", "Processor's numbers"),
    ("instruction_set", "Instruction set"),
    ("num_cpus", "Processors"),
    ("measured_clock_ghz", "Clock, measured, GHz"),
    ("huge_pages", "Huge pages"),
    ("gpu", "GPU"),
    ("compute_capability", "Compute capability"),
    ("driver_cuda_version", "CUDA of the driver"),
    ("compiler", "Compiler"),
    ("flags", "Flags"),
    ("rounds", "Rounds"),
    ("commit", "Commit"),
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


def rows_of(entries):
    """Entries with the parts of their names; a row has threads only where its name says so."""
    return [
        {**{key: value for key, value in entry.items() if key != "threads"}, **parts_of(name)}
        for name, entry in entries.items()
    ]


def size_of(numel):
    """2^22 for powers of two."""
    return f"2^{numel.bit_length() - 1}" if numel > 0 and numel & (numel - 1) == 0 else str(numel)


def time_of(entry):
    seconds = entry["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[entry["time_unit"]]
    return f"{seconds * 1e6:.1f}"


def digits(value, count=3):
    """In so many digits, and as few as that allows."""
    return f"{value:.{count}g}" if abs(value) < 10**count else f"{value:.0f}"


def number(title, key, scale=1.0, count=3):
    return (title, "---:", lambda row: digits(scale * row[key], count))


def ratio(name):
    """The median; where there are quartiles, they follow in brackets."""

    def text(row):
        median = digits(row[f"vs_{name}"])
        if f"vs_{name}_low" not in row:
            return median
        return f"{median} ({digits(row[f'vs_{name}_low'])}–{digits(row[f'vs_{name}_high'])})"

    return (f"vs_{name}", "---:", text)


# Title, alignment, and the text of a cell; a row that lacks the key has an empty one.
COLUMNS = (
    ("verb", "---", lambda row: row["verb"]),
    ("type", "---", lambda row: row["type"]),
    ("bits", "---:", lambda row: str(row["bits"])),
    ("size", "---:", lambda row: size_of(row["numel"])),
    ("items", "---:", lambda row: str(row["items"])),
    ("threads", "---:", lambda row: str(row["threads"])),
    ("µs", "---:", time_of),
    number("ns/item", "ns_per_item"),
    number("Gitems/s", "items_per_second", 1e-9),
    number("GB/s", "bytes_per_second", 1e-9),
    ratio("copy"),
    ratio("read"),
    ratio("write"),
    ratio("sort"),
    ratio("full_precision"),
    number("bits/value", "bits_per_value", count=4),
    number("NMSE", "NMSE"),
    number("gap", "gap"),
    number("codec's share", "codec_share"),
    ("data", "---", lambda row: row["label"]),
    number("rounds", "rounds"),
    number("spread", "spread", count=2),
    number("neighbours", "neighbours", count=2),
)

NOTES = """
Times are medians over rounds in which the rows take turns. vs_x is the time of x divided by the
row's, with its quartiles: above 1 the row is faster. GB/s count the tensor's bytes. Spread is the
interquartile range of the times over their median. Neighbours says how many processors worked for
others. Training steps, and rows that name an activation of theirs, are compiled like the trainer,
for the processor at hand; everything else has the flags above.
"""


def cell(text, row):
    try:
        return text(row)
    except KeyError:
        return ""


def table(rows, all_columns=COLUMNS):
    columns = [
        (title, alignment, [cell(text, row) for row in rows])
        for title, alignment, text in all_columns
    ]
    columns = [column for column in columns if any(column[2])]
    lines = [[title for title, _, _ in columns], [alignment for _, alignment, _ in columns]]
    lines += [[cells[i] for _, _, cells in columns] for i in range(len(rows))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def caches_of(context):
    return ", ".join(
        f"L{cache['level']} {cache['type'].lower()} {cache['size'] // 1024} KiB"
        for cache in context["caches"]
    )


def quality_tables(results):
    """One row for each codec and width, one column for each set; at most ten to a table."""
    rows = {}
    for result in results["quality"]:
        key = (result["codec"], result["bits"])
        row = rows.setdefault(key, {"codec": key[0], "bits": key[1], "stored": []})
        row["stored"].append(result["stored_bits"])
        row[result["set"]] = result["nmse"]
    names = list(results["sets"])
    for start in range(0, len(names), 10):
        part = names[start : start + 10]
        columns = [
            ("codec", "---", lambda row: row["codec"]),
            ("bits", "---:", lambda row: str(row["bits"])),
            ("stored bits", "---:", lambda row: digits(min(row["stored"]), 4)),
        ] + [number(name, name) for name in part]
        yield "\n".join(f"- {name}: {results['sets'][name]}" for name in part)
        yield table([row for row in rows.values() if any(name in row for name in part)], columns)


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
    if "cpu" in context and "caches" in context:
        print(f"- Caches: {caches_of(context)}")
    for argument in sys.argv[2:]:
        key, _, value = argument.partition("=")
        print(f"- {key}: {value}")
    if any("spread" in entry for entry in entries.values()):
        print(NOTES, end="")
    print()
    if entries:
        print(table(rows_of(entries)))
    for name, reason in errors.items():
        print(f"\nFailed: {name}: {reason}")
    if results.get("quality"):
        print("\nError against stored bits: NMSE = Σ (decoded − x)² / Σ x², groups of 256.")
        for part in quality_tables(results):
            print(f"\n{part}")


if __name__ == "__main__":
    main()
