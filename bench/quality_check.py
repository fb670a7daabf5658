#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Checks the errors that `quality` found against figures of an independent prototype.

    quality_check.py QUALITY.json

The prototype had the same definitions and other draws: exact expectations of the noise, over 1024
groups of its own. So a figure may differ by what the draws of two sides allow, and by half a unit
of its last digit. Both standard errors are taken to be ours; all comparisons together would alarm
falsely once in a million draws, were the seeds not fixed.

Left out are sets whose groups are not independent (channel scales, outlier channels, maps): one
draw of 32 scales says little, and our standard errors would not know.
"""
import json
import math
import statistics
import sys

FALSE_ALARM = 1e-6

# (bits, codec): NMSE as it was printed.
FIGURES = {
    "gauss": {
        (1, "affine/plain"): "7.00",
        (1, "affine/subtractive/best_alpha"): "2.69",
        (2, "affine/plain"): "0.596",
        (2, "affine/nearest"): "0.300",
        (2, "affine/subtractive"): "0.299",
        (2, "affine/subtractive/best_alpha"): "0.299",
        (4, "affine/plain"): "0.0238",
        (4, "affine/subtractive/best_alpha"): "0.0120",
        (1, "sign_magnitude/plain"): "1.26",
        (1, "sign_magnitude/subtractive"): "0.68",
        (2, "sign_magnitude/plain"): "0.150",
        (2, "sign_magnitude/subtractive"): "0.076",
    },
    "relu": {
        (1, "affine/plain"): "1.27",
        (1, "affine/subtractive/best_alpha"): "0.973",
        (2, "affine/plain"): "0.151",
        (2, "affine/nearest"): "0.076",
        (2, "affine/subtractive"): "0.152",
        (2, "affine/subtractive/best_alpha"): "0.113",
        (2, "affine/subtractive/known_zeros"): "0.076",
        (4, "affine/plain"): "0.0060",
        (4, "affine/subtractive/best_alpha"): "0.0045",
    },
    "gelu": {
        (1, "affine/plain"): "1.90",
        (1, "affine/subtractive/best_alpha"): "1.39",
        (2, "affine/plain"): "0.275",
        (2, "affine/nearest"): "0.119",
        (2, "affine/subtractive"): "0.199",
        (2, "affine/subtractive/best_alpha"): "0.180",
        (4, "affine/plain"): "0.0140",
        (4, "affine/subtractive/best_alpha"): "0.0078",
    },
    "t3": {
        (1, "affine/plain"): "24.6",
        (1, "affine/subtractive/best_alpha"): "10.2",
        (2, "affine/plain"): "2.26",
        (2, "affine/nearest"): "1.11",
        (2, "affine/subtractive"): "1.14",
        (2, "affine/subtractive/best_alpha"): "1.14",
        (4, "affine/plain"): "0.0910",
        (4, "affine/subtractive/best_alpha"): "0.0455",
    },
    "lognormal": {
        (1, "affine/plain"): "2.29",
        (1, "affine/subtractive/best_alpha"): "2.18",
        (2, "affine/plain"): "0.584",
        (2, "affine/nearest"): "0.133",
        (2, "affine/subtractive"): "1.33",
        (2, "affine/subtractive/best_alpha"): "0.520",
        (4, "affine/plain"): "0.0567",
        (4, "affine/subtractive/best_alpha"): "0.0416",
    },
}

# Bits stored beside a code's own, of full groups of 256: two bfloat16 parameters, and a plane.
BITS_BESIDE = {
    "affine/plain": 0.125,
    "affine/nearest": 0.125,
    "affine/subtractive": 0.125,
    "affine/subtractive/best_alpha": 0.125,
    "affine/subtractive/known_zeros": 1.125,
    "sign_magnitude/plain": 1.125,
    "sign_magnitude/subtractive": 1.125,
}


def complaints(results):
    found = {(row["set"], row["bits"], row["codec"]): row for row in results}
    comparisons = sum(len(figures) for figures in FIGURES.values())
    deviations = statistics.NormalDist().inv_cdf(1 - FALSE_ALARM / comparisons / 2)
    for name, figures in FIGURES.items():
        for (bits, codec), figure in figures.items():
            row = found.get((name, bits, codec))
            what = f"{codec} at {bits} bits on {name}"
            if row is None:
                yield f"{what}: no result"
                continue
            half_unit = 0.5 * 10.0 ** -len(figure.partition(".")[2])
            allowed = deviations * math.sqrt(2) * row["standard_error"] + half_unit
            if not abs(row["nmse"] - float(figure)) <= allowed:
                yield f"{what}: NMSE {row['nmse']}, expected {figure} to within {allowed:.2g}"
            stored = bits + BITS_BESIDE[codec]
            if row["stored_bits"] != stored:
                yield f"{what}: {row['stored_bits']} stored bits, expected {stored}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        wrong = list(complaints(json.load(file)["quality"]))
    for complaint in wrong:
        print(complaint)
    print(f"{sum(map(len, FIGURES.values()))} figures, {len(wrong)} complaints")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
