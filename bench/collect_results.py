#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Puts what the benchmarks of one run found into one file, with the machine they ran on.

    collect_results.py DIRECTORY [KEY=VALUE...] RESULTS.json...

RESULTS.json are written by --benchmark_out and by `quality`. Writes DIRECTORY/<machine>.json, where
the machine is its processor and the instruction set, and prints that path. Every KEY=VALUE goes
into the context.
"""
import datetime
import json
import os
import pathlib
import re
import sys

# Of Google Benchmark's own context; not the name of the host, nor where programs lie.
KEPT_CONTEXT = (
    "caches",
    "num_cpus",
    "cpu_scaling_enabled",
    "instruction_set",
    "measured_clock_ghz",
    "rounds",
    "compiler",
    "flags",
)
# Of a row: that it ran once, and on one thread, is true of all.
DROPPED = (
    "cpu_time",
    "family_index",
    "iterations",
    "per_family_instance_index",
    "repetition_index",
    "repetitions",
    "run_name",
    "run_type",
    "threads",
)


def processor():
    """Returns name, family, model and stepping, as far as the system tells."""
    found = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                found.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = found.get("model name", "unknown")
    numbers = [f"{key} {found[text]}" for text, key in
               (("cpu family", "family"), ("model", "model"), ("stepping", "stepping"))
               if text in found]
    return name, ", ".join(numbers)


def huge_pages():
    """Returns the system's answer to MADV_HUGEPAGE: always, madvise or never."""
    try:
        path = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
        return re.search(r"\[(\w+)\]", path.read_text(encoding="utf-8")).group(1)
    except (OSError, AttributeError):
        return "unknown"


def collect(paths):
    context = {}
    commands = []
    results = {"context": context, "benchmarks": [], "sets": {}, "quality": []}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            part = json.load(file)
        own = part.get("context", {})
        context.update({key: own[key] for key in KEPT_CONTEXT if key in own})
        if "command" in own:
            commands.append(own["command"])
        results["sets"].update(part.get("sets", {}))
        results["quality"] += part.get("quality", [])
        results["benchmarks"] += [
            {key: value for key, value in row.items() if key not in DROPPED}
            for row in part.get("benchmarks", [])
        ]
    context["programs"] = commands
    return results


def rounded(value):
    """To six significant digits: more is noise."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write(results, file):
    """As JSON with a line for each row, which can be read and compared."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list):
            lines = [json.dumps({name: rounded(x) for name, x in row.items()}) for row in value]
            parts.append(f"{json.dumps(key)}: [\n " + ",\n ".join(lines) + "\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, indent=1)}")
    file.write("{\n" + ",\n".join(parts) + "\n}\n")


def main():
    settings = [argument for argument in sys.argv[2:] if "=" in argument]
    paths = [argument for argument in sys.argv[2:] if "=" not in argument]
    if len(sys.argv) < 2 or not paths:
        sys.exit(__doc__)
    results = collect(paths)
    context = results["context"]
    context["cpu"], context["cpu_numbers"] = processor()
    context["huge_pages"] = huge_pages()
    context["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    for setting in settings:
        key, _, value = setting.partition("=")
        context[key] = value
    machine = context["cpu"]
    if not re.search(r"\d", machine):  # a name for all of a kind, as virtual machines give it
        machine += " " + context["cpu_numbers"]
    machine += " " + context.get("instruction_set", "")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-")
    path = os.path.join(sys.argv[1], slug + ".json")
    # Not under its final name until it is whole.
    with open(path + ".partial", "w", encoding="utf-8") as file:
        write(results, file)
    os.replace(path + ".partial", path)
    print(path)


if __name__ == "__main__":
    main()
