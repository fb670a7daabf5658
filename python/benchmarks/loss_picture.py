# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Draws the loss curves of several methods in one SVG picture."""
import math

LEFT, RIGHT, TOP, BOTTOM, LEGEND = 70, 820, 40, 420, 480
COLORS = ("#222222", "#1f77d4", "#e8730c", "#b3243c", "#2a8c4a", "#8a4fbf", "#999999", "#b8860b")
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)
LOWEST = 1e-3  # of the losses on a logarithmic axis


def smoothed(losses):
    """The means of about 60 equal intervals: the noise of single steps would hide the curve."""
    interval = max(1, len(losses) // 60)
    for first in range(0, len(losses), interval):
        part = losses[first:first + interval]
        mean = sum(part) / len(part)
        if math.isfinite(mean):
            yield first + 0.5 * len(part), max(mean, LOWEST)


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


class LossPicture:
    """`curves`: titles with losses, one per step. `bound`: the least possible loss, or 0."""

    def __init__(self, title, curves, bound=0):
        self.title, self.bound = title, bound
        self.curves = [(name, list(smoothed(losses))) for name, losses in curves]
        self.steps = max([1] + [len(losses) for _, losses in curves])
        values = [loss for _, points in self.curves for _, loss in points] or [1]
        self.lowest = 0.9 * min(values + [bound] * (bound > 0))
        self.highest = 1.1 * max(values)

    def svg(self):
        parts = (self._frame(), *self._loss_axis(), *self._step_axis(), *self._bound(),
                 *(self._curve(index) for index in range(len(self.curves))))
        height = LEGEND + 22 * ((len(self.curves) + 1) // 2)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 {height}" '
                f'font-family="sans-serif" font-size="13">\n'
                f'<rect width="840" height="{height}" fill="white"/>\n{"".join(parts)}</svg>\n')

    def _x(self, step):
        return LEFT + (RIGHT - LEFT) * step / self.steps

    def _y(self, loss):
        share = math.log(loss / self.lowest) / math.log(self.highest / self.lowest)
        return BOTTOM - (BOTTOM - TOP) * share

    def _frame(self):
        middle = (TOP + BOTTOM) / 2
        return (f'<text x="{LEFT}" y="24" font-size="15">{escaped(self.title)}</text>\n'
                f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="black"/>\n'
                f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 42}" text-anchor="middle">step'
                f'</text>\n'
                f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">'
                f'training loss (log scale)</text>\n')

    def _loss_axis(self):
        for tick in TICKS:
            if self.lowest <= tick <= self.highest:
                y = self._y(tick)
                yield (f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                       f'stroke="#ddd"/>\n<text x="{LEFT - 8}" y="{y + 4:.1f}" '
                       f'text-anchor="end">{tick:g}</text>\n')

    def _step_axis(self):
        magnitude = 10 ** math.floor(math.log10(max(self.steps, 2) / 2))
        between = 2 * magnitude if self.steps > 10 * magnitude else magnitude
        for tick in range(0, self.steps + 1, between):
            x = self._x(tick)
            yield (f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 5}" '
                   f'stroke="black"/>\n<text x="{x:.1f}" y="{BOTTOM + 20}" '
                   f'text-anchor="middle">{tick}</text>\n')

    def _bound(self):
        if not self.bound:
            return
        y = self._y(self.bound)
        yield (f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#999999" '
               f'stroke-dasharray="6 4"/>\n<text x="{RIGHT}" y="{y - 6:.1f}" text-anchor="end" '
               f'fill="#777777">the data\'s entropy</text>\n')

    def _curve(self, index):
        name, points = self.curves[index]
        color = COLORS[index % len(COLORS)]
        path = " ".join(f"{self._x(step):.1f},{self._y(loss):.1f}" for step, loss in points)
        x = LEFT if index % 2 == 0 else (LEFT + RIGHT) / 2
        y = LEGEND + 22 * (index // 2)
        return (f'<polyline fill="none" stroke-width="1.6" stroke="{color}" points="{path}"/>\n'
                f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" stroke-width="3" '
                f'stroke="{color}"/>\n<text x="{x + 32}" y="{y + 4}">{escaped(name)}</text>\n')
