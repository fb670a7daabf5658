# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Reports results: a line as soon as it is measured, a JSON file, Markdown tables."""
import dataclasses
import json
import os
import statistics

from loss_picture import LossPicture
from measurements import OK
from methods import BASELINE, METHODS

MIB, GIB = 1 << 20, 1 << 30
LAST_SHARE = 0.2  # of the steps: their mean loss is in the table


class Report:
    """Holds the rows, and rewrites the file with each of them, in case the run is cut short."""

    def __init__(self, context, prefix):
        self.context, self.prefix = context, prefix
        self.steps, self.largest_batches, self.losses = [], [], []

    def add_step(self, row):
        self.steps.append(row)
        self._write()
        say(" ".join(f"{text:>{width}}" for text, width in zip(
            self._step_cells(row), (26, 6, 10, 8, 10, 8, 10, 12, 8))))

    def add_largest_batch(self, row):
        self.largest_batches.append(row)
        self._write()
        say(f"{METHODS[row.method].title}: largest batch {self._largest_batch_cells(row)[1]}")

    def add_losses(self, row):
        self.losses.append(row)
        self._write()
        with open(f"{self.prefix}.svg", "w", encoding="utf-8") as file:
            file.write(self._picture())
        say(f"{METHODS[row.method].title}: mean loss {self._loss_cells(row)[2]} at the end")

    def markdown(self):
        parts = [self._heading()]
        if self.steps:
            unit = self.context["unit"]
            parts.append(table(
                ("method", "batch", "stored MiB", "less than full", "peak MiB", "less than full",
                 "whole MiB", f"{unit} a second", "of full's"),
                [self._step_cells(row) for row in self.steps]))
            parts.append(
                "stored: what the forward pass leaves behind for the backward pass; peak: the most "
                "at any time of a step; both beyond parameters, gradients, the optimizer's state "
                "and the batch, which were there before; whole: the most with everything, of a "
                f"step that begins without gradients. {self._fixed_bytes()}")
        if self.largest_batches:
            budget = self.largest_batches[0].budget_bytes / GIB
            parts.append(table(
                ("method", f"largest batch in {budget:g} GiB", "of full's"),
                [self._largest_batch_cells(row) for row in self.largest_batches]))
        if self.losses:
            parts.append(table(
                ("method", "steps", f"mean loss of the last {LAST_SHARE:.0%}", "beyond full's"),
                [self._loss_cells(row) for row in self.losses]))
        return "\n\n".join(parts) + "\n"

    def has_failures(self):
        return any(row.outcome.startswith("failed")
                   for row in (*self.steps, *self.largest_batches, *self.losses))

    def _heading(self):
        context = self.context
        return (f"{context['workload']}, {context['parameters']:,} parameters, {context['bits']} "
                f"bits, full precision is {context['full_precision']}, on {context['device']}, "
                f"PyTorch {context['torch']}: `{context['command']}`")

    def _fixed_bytes(self):
        """The same for every method, so it comes from the first."""
        fixed = next((row.bytes for row in self.steps if row.bytes), None)
        return "" if fixed is None else (
            f"Parameters are {mebibytes(fixed.parameters)} MiB, gradients "
            f"{mebibytes(fixed.gradients)}, the optimizer's state {mebibytes(fixed.optimizer)}.")

    def _step_cells(self, row):
        title = METHODS[row.method].title
        if row.outcome != OK:
            return (title, f"{row.batch_size}", row.outcome, *6 * ("",))
        full = self._full(self.steps, batch_size=row.batch_size)
        return (title, f"{row.batch_size}", mebibytes(row.bytes.stored),
                ratio(full and full.bytes.stored, row.bytes.stored), mebibytes(row.bytes.peak),
                ratio(full and full.bytes.peak, row.bytes.peak), mebibytes(row.bytes.whole),
                f"{row.units_per_second:.1f}",
                ratio(row.units_per_second, full and full.units_per_second))

    def _largest_batch_cells(self, row):
        full = self._full(self.largest_batches)
        found = f"{row.batch_size}" if row.outcome == OK else row.outcome
        return METHODS[row.method].title, found, ratio(row.batch_size, full and full.batch_size)

    def _loss_cells(self, row):
        title = METHODS[row.method].title
        if row.outcome != OK:
            return title, "", row.outcome, ""
        full = self._full(self.losses)
        difference = f"{last_loss(row) - last_loss(full):+.3f}" if full else ""
        return title, f"{len(row.losses)}", f"{last_loss(row):.3f}", difference

    def _full(self, rows, **where):
        """The full-precision row for the comparison, or None."""
        return next((row for row in rows if row.method == BASELINE.name and row.outcome == OK
                     and all(getattr(row, key) == value for key, value in where.items())), None)

    def _picture(self):
        curves = [(METHODS[row.method].title, row.losses) for row in self.losses]
        batch_size = self.losses[0].batch_size
        title = f"{self.context['workload']}, batch {batch_size}, generated data"
        return LossPicture(title, curves, self.context["loss_bound"]).svg()

    def _write(self):
        rows = {name: [dataclasses.asdict(row) for row in getattr(self, name)]
                for name in ("steps", "largest_batches", "losses")}
        # A loss that has overflowed becomes null: JSON has no other word for it.
        contents = json.loads(json.dumps({"context": self.context, **rows}),
                              parse_constant=lambda name: None)
        path = f"{self.prefix}.json"
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(contents, file, indent=1)
        os.replace(path + ".part", path)


def say(text):
    print(text, flush=True)


def last_loss(row):
    return statistics.fmean(row.losses[-max(1, int(LAST_SHARE * len(row.losses))):])


def mebibytes(count):
    return "n/a" if count is None else f"{count / MIB:.1f}"


def ratio(whole, part):
    return f"{whole / part:.2f}x" if whole and part else ""


def table(titles, rows):
    lines = [titles, ("---",) + ("---:",) * (len(titles) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
