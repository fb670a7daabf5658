#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Draws a run's results: speed against size, and error against stored bits.

    results_picture.py RESULTS.json > RESULTS.svg

RESULTS.json is what collect_results.py wrote.
"""
import json
import math
import sys

import results_table

BLACK, BLUE, ORANGE, RED, GREEN, GREY = (
    "#222222", "#1f77d4", "#e8730c", "#b3243c", "#2a8c4a", "#999999")

# Name in the legend, verb, width (None: the verb has none), colour, dashes.
SPEEDS = (
    ("quantize, 2 bits, stochastic", "quantize/stochastic", 2, BLUE, ""),
    ("quantize, 2 bits, nearest", "quantize/nearest", 2, BLUE, "6 4"),
    ("dequantize, 2 bits, plain", "dequantize/plain", 2, ORANGE, ""),
    ("dequantize, 2 bits, subtractive", "dequantize/subtractive", 2, ORANGE, "6 4"),
    ("encode sign + 2 bits", "sign_magnitude_encode/stochastic", 2, GREEN, ""),
    ("decode sign + 2 bits, subtractive", "sign_magnitude_decode/subtractive", 2, GREEN, "6 4"),
    ("read only", "read_only", None, GREY, ""),
    ("write only", "write_only", None, GREY, "6 4"),
    ("zfp, 4 bits, compress", "zfp_fixed_rate_compress", 4, RED, ""),
    ("zfp, 4 bits, decompress", "zfp_fixed_rate_decompress", 4, RED, "6 4"),
)
ERRORS = (
    ("affine, plain", "affine/plain", BLACK, ""),
    ("affine, nearest (biased)", "affine/nearest", BLACK, "6 4"),
    ("affine, subtractive", "affine/subtractive", BLUE, ""),
    ("affine, subtractive, best alpha", "affine/subtractive/best_alpha", BLUE, "6 4"),
    ("affine, subtractive, zeros known from a mask", "affine/subtractive/known_zeros", GREY, ""),
    ("affine, widths by group, subtractive", "affine_by_group/subtractive", ORANGE, ""),
    ("sign + magnitude, plain", "sign_magnitude/plain", GREEN, "6 4"),
    ("sign + magnitude, subtractive", "sign_magnitude/subtractive", GREEN, ""),
    ("zfp, fixed rate", "zfp/fixed_rate", RED, ""),
)
ERROR_SETS = ("gauss", "block_1_output")  # the second only where there is a trainer

WIDTH, TOP, BOTTOM, LEGEND = 360, 52, 380, 450


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


class Panel:
    """Curves in two logarithmic axes, or one, with a legend below."""

    def __init__(self, left, title, subtitle, x_title, y_title, curves, x_ticks, is_x_log):
        self.left, self.is_x_log = left, is_x_log
        self.title, self.subtitle, self.x_title, self.y_title = title, subtitle, x_title, y_title
        self.curves = [curve for curve in curves if curve[3]]
        self.x_ticks = x_ticks
        values = [y for *_, points in self.curves for _, y in points if y > 0]
        self.low = 10 ** math.floor(math.log10(min(values, default=0.1)))
        self.high = 10 ** math.ceil(math.log10(max(values, default=1) * 1.0001))

    def x(self, value):
        first, last = self.x_ticks[0][0], self.x_ticks[-1][0]
        if self.is_x_log:
            share = math.log(value / first) / math.log(last / first)
        else:
            share = (value - first) / (last - first)
        return self.left + WIDTH * share

    def y(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return BOTTOM - (BOTTOM - TOP) * share

    def lines(self):
        middle = self.left + WIDTH / 2
        right = self.left + WIDTH
        yield f'<text x="{middle}" y="20" text-anchor="middle">{escaped(self.title)}</text>'
        yield (f'<text x="{middle}" y="38" text-anchor="middle" font-size="11">'
               f'{escaped(self.subtitle)}</text>')
        for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1):
            y = self.y(10.0**power)
            yield f'<path d="M{self.left} {y:.1f}H{right}" stroke="#ddd"/>'
            yield (f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">'
                   f'{10.0**power:g}</text>')
        for value, name in self.x_ticks:
            x = self.x(value)
            yield f'<path d="M{x:.1f} {BOTTOM}v5" stroke="black"/>'
            yield f'<text x="{x:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{name}</text>'
        yield f'<path d="M{self.left} {TOP}V{BOTTOM}H{right}" fill="none" stroke="black"/>'
        yield f'<text x="{middle}" y="{BOTTOM + 42}" text-anchor="middle">{self.x_title}</text>'
        yield (f'<text transform="translate({self.left - 46} {(TOP + BOTTOM) / 2}) rotate(-90)" '
               f'text-anchor="middle">{self.y_title}</text>')
        for i, (name, color, dashes, points) in enumerate(self.curves):
            stroke = f'fill="none" stroke="{color}" stroke-width="1.6" stroke-dasharray="{dashes}"'
            places = [(self.x(x), self.y(max(y, self.low))) for x, y in points]
            yield f'<polyline {stroke} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
            for x, y in places:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
            row = LEGEND + 20 * i
            yield f'<path d="M{self.left} {row}h28" {stroke}/>'
            yield f'<text x="{self.left + 36}" y="{row + 4}">{escaped(name)}</text>'


def speed_panel(results, left):
    rows = results_table.rows_of(results_table.medians(results["benchmarks"])[0])
    curves = [("memcpy", BLACK, "", [(1 << 16, 1), (1 << 26, 1)])]
    for name, verb, bits, color, dashes in SPEEDS:
        points = sorted(
            (4 * row["numel"], row["vs_copy"]) for row in rows
            if row["verb"] == verb and row.get("bits") == bits and row.get("type") == "float"
            and row.get("threads", 1) == 1)
        curves.append((name, color, dashes, points))
    ticks = [(1 << 16, "64 KiB"), (1 << 20, "1 MiB"), (1 << 26, "64 MiB")]
    context = results["context"]
    subtitle = f"{context['cpu']} ({context['cpu_numbers']}), {context['instruction_set']}"
    return Panel(left, "speed, one thread", subtitle, "bytes of the tensor (float)",
                 "speed of memcpy of the tensor = 1", curves, ticks, True)


def error_panel(results, left, name):
    curves = []
    for title, codec, color, dashes in ERRORS:
        points = sorted((row["stored_bits"], row["nmse"]) for row in results["quality"]
                        if row["codec"] == codec and row["set"] == name)
        curves.append((title, color, dashes, points))
    ticks = [(bits, str(bits)) for bits in range(1, 11)]
    return Panel(left, f"error: {name}", results["sets"][name],
                 "stored bits per value, all included", "NMSE", curves, ticks, False)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    panels = [speed_panel(results, 70)]
    for name in ERROR_SETS:
        if name in results["sets"]:
            panels.append(error_panel(results, 70 + 450 * len(panels), name))
    width = 450 * len(panels) + 10
    height = LEGEND + 20 * max(len(panel.curves) for panel in panels)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
          f'font-family="sans-serif" font-size="13">\n'
          f'<rect width="{width}" height="{height}" fill="white"/>')
    for panel in panels:
        for line in panel.lines():
            print(line)
    print("</svg>")


if __name__ == "__main__":
    main()
