# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Measures a method: bytes and seconds of a step, the largest batch, losses."""
import dataclasses
import statistics
import traceback

import devices
import torch
from methods import BASELINE, Trainer

OK = "ok"
OUT_OF_MEMORY = "out of memory"

WARM_UP_STEPS = 3
STEPS_OF_A_TRIAL = 2  # the second finds the allocator's blocks as the first left them


@dataclasses.dataclass
class Bytes:
    """The bytes of one step, beyond those that every method has before it: parameters, gradients,
    the optimizer's state and the batch."""

    stored: int | None = None  # left by the forward pass for the backward pass
    peak: int | None = None    # at any time, beyond the bytes from before
    whole: int | None = None   # at any time, with everything
    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0


@dataclasses.dataclass
class StepRow:
    method: str
    batch_size: int
    outcome: str = OK
    bytes: Bytes | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    units_per_second: float | None = None  # of the median step


@dataclasses.dataclass
class LargestBatchRow:
    method: str
    budget_bytes: int
    outcome: str = OK
    batch_size: int | None = None
    resolution: float | None = None  # a batch larger by more than this share did not fit


@dataclasses.dataclass
class LossRow:
    method: str
    batch_size: int
    outcome: str = OK
    losses: list[float] = dataclasses.field(default_factory=list)


def attempt(measure, device):
    """Returns measure()'s result and OK, or None and the reason: a failure costs one row."""
    result, outcome = None, OK
    try:
        result = measure()
    except Exception as error:
        if devices.is_out_of_memory(error):
            outcome = OUT_OF_MEMORY
        else:
            traceback.print_exc()
            outcome = f"failed: {type(error).__name__}"
    device.release()  # not before `error` is gone: its traceback holds the tensors of the step
    return result, outcome


class Bench:
    """Measures methods on one workload, with a new model each time."""

    def __init__(self, workload, codec, device, say=print):
        self.workload, self.codec, self.device, self.say = workload, codec, device, say

    def measure_step(self, method, batch_size, timed_steps):
        def measure():
            trainer = self._trainer(method)
            batch = self.workload.data.batch(batch_size, 0)
            for _ in range(WARM_UP_STEPS):
                trainer.step(batch)
            return (self._bytes_of_step(trainer, batch),
                    self.device.seconds(lambda: trainer.step(batch), timed_steps))

        row = StepRow(method.name, batch_size)
        measured, row.outcome = attempt(measure, self.device)
        if measured:
            row.bytes, row.seconds = measured
            units = batch_size * self.workload.units_per_sample
            row.units_per_second = units / statistics.median(row.seconds)
        return row

    def find_largest_batch(self, method, budget_bytes, resolution, known_size):
        """Searches by real steps under a real limit, starting from batches up to `known_size`."""
        row = LargestBatchRow(method.name, budget_bytes, resolution=resolution)
        self.device.release()
        self.device.limit(budget_bytes)
        # Every batch has a shape of its own: searching would take longer than the steps.
        self.device.find_fastest_convolutions(False)
        try:
            guess, row.outcome = attempt(
                lambda: self._guess_largest_batch(method, budget_bytes, known_size),
                self.device)
            if row.outcome == OUT_OF_MEMORY:
                guess, row.outcome = 1, OK
            if row.outcome == OK:
                row.batch_size, row.outcome = attempt(
                    lambda: largest_passing(lambda size: self._fits(method, size), guess,
                                            resolution), self.device)
        finally:
            self.device.find_fastest_convolutions(True)
            self.device.unlimit()
        return row

    def train(self, method, batch_size, steps):
        def measure():
            trainer = self._trainer(method)
            losses = []
            for step in range(steps):
                losses.append(trainer.step(self.workload.data.batch(batch_size, step)))
                if step % max(1, steps // 5) == 0:
                    self.say(f"  {method.title}, step {step}: loss {losses[-1].item():.3f}")
            return torch.stack(losses).tolist()

        row = LossRow(method.name, batch_size)
        losses, row.outcome = attempt(measure, self.device)
        row.losses = losses or []
        return row

    def _trainer(self, method):
        return Trainer(self.workload, method, self.codec, self.device.device)

    def _bytes_of_step(self, trainer, batch):
        # Later gradients are added to those of this step. So these belong to the bytes from
        # before, as parameters and the optimizer's state do.
        trainer.forward(batch).backward()
        result = Bytes(parameters=trainer.parameter_bytes(), gradients=trainer.gradient_bytes(),
                       optimizer=trainer.optimizer_bytes())
        if self.device.has_bytes:
            before = self.device.allocated()
            self.device.reset_peak()
            loss = trainer.forward(batch)
            result.stored = self.device.allocated() - before
            loss.backward()
            trainer.update()
            result.peak = self.device.peak() - before
        elif trainer.method is BASELINE:
            result.stored = saved_bytes(trainer, batch)
        trainer.optimizer.zero_grad(set_to_none=True)
        if self.device.has_bytes:
            result.whole = self._whole_bytes(trainer, batch)
        return result

    def _whole_bytes(self, trainer, batch):
        """The peak of a step as trainers run it, with no gradients before it."""
        self.device.reset_peak()
        trainer.step(batch)
        return self.device.peak()

    def _guess_largest_batch(self, method, budget_bytes, known_size):
        """The largest batch if bytes are affine in it."""
        trainer = self._trainer(method)
        small, large = max(2, known_size // 2), max(3, known_size)
        trainer.step(self.workload.data.batch(small, 0))  # makes the optimizer's state
        peaks = [self._whole_bytes(trainer, self.workload.data.batch(size, 0))
                 for size in (small, large)]
        per_sample = max(1.0, (peaks[1] - peaks[0]) / (large - small))
        return max(1, int(small + (budget_bytes - peaks[0]) / per_sample))

    def _fits(self, method, batch_size):
        def measure():
            trainer = self._trainer(method)
            trainer.step(self.workload.data.batch(2, 0))  # makes the optimizer's state
            batch = self.workload.data.batch(batch_size, 0)
            for _ in range(STEPS_OF_A_TRIAL):
                trainer.step(batch).item()

        _, outcome = attempt(measure, self.device)
        self.say(f"  {method.title}, batch {batch_size}: {outcome}")
        if outcome not in (OK, OUT_OF_MEMORY):
            raise RuntimeError(f"batch {batch_size}: {outcome}")
        return outcome == OK


def largest_passing(passes, guess, resolution):
    """The largest n that passes, provided that every smaller n passes too; 0 if none does.

    n itself has passed, and one larger by the share `resolution`, or by 1, has failed.
    """
    lower, upper = 0, None
    trial, stride = max(1, guess), max(1, guess // 16)
    while trial > 0 and (upper is None or lower == 0):
        if passes(trial):
            lower = trial
        else:
            upper = trial
        trial = lower + stride if upper is None else max(0, upper - stride)
        stride *= 2
    while upper - lower > max(1, int(resolution * lower)):
        middle = (lower + upper) // 2
        if passes(middle):
            lower = middle
        else:
            upper = middle
    return lower


def saved_bytes(trainer, batch):
    """The bytes of the distinct storages that PyTorch saves in a forward pass, without the
    parameters and the batch. For devices whose allocator counts nothing."""
    saved = {}

    def count(tensor):
        storage = storage_of(tensor)
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = trainer.forward(batch)
    for known in (*trainer.model.parameters(), *trainer.model.buffers(), batch.input, batch.target):
        saved.pop(storage_of(known).data_ptr(), None)
    del loss  # not before: a storage that is freed may give its address to another
    return sum(saved.values())


def storage_of(tensor):
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
