#!/usr/bin/env python3
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Compares the memory and the speed of training with several ways of keeping activations.

For every method and batch it measures the bytes that the forward pass leaves for the backward pass,
the peak of a step, and images or tokens per second; then the largest batch within a budget, by real
steps; then loss curves on the same generated data in the same order. It prints each row and writes
it to PREFIX.json at once; the Markdown tables and the curves, in PREFIX.svg, come last.

Full precision means TF32 in matrix products and convolutions; AMP means autocast to bfloat16.
cuDNN searches for the fastest algorithms, except during the search for the largest batch. For that
search set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, from PyTorch 2.1 on; otherwise blocks
of many sizes leave gaps, most for methods with few large blocks.
The methods that need the package actpack find it on PYTHONPATH.
"""
import argparse
import datetime
import os
import platform
import sys
import time

import devices
import torch
import workloads
from measurements import Bench
from methods import METHODS, Codec
from report import GIB, Report, say

DEFAULT_BATCHES = {"resnet50": (64, 128, 256), "vit_s16": (64, 128, 256),
                   "vit_b16": (64, 128, 256), "gpt2": (8, 16, 32)}
DEFAULT_LOSS_METHODS = ("full", "actnn", "hooks", "actpack")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=workloads.MAKERS, default="resnet50")
    parser.add_argument("--methods", type=method_list, default=list(METHODS.values()),
                        help=f"of {','.join(METHODS)}; all if left out")
    parser.add_argument("--batches", type=number_list, help="64,128,256; GPT-2 8,16,32")
    parser.add_argument("--bits", type=int, choices=(1, 2, 4, 8), default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a sequence")
    parser.add_argument("--loss-rows", type=int, default=1024, metavar="ROWS",
                        help="positions that GPT-2's head works on at a time; 0: all at once")
    parser.add_argument("--timed-steps", type=positive, default=10)
    parser.add_argument("--budget-gib", type=float, default=16, help="for the largest batch")
    parser.add_argument("--resolution", type=float, default=0.02, help="of the largest batch")
    parser.add_argument("--steps", type=positive, default=200, help="of the loss curves")
    parser.add_argument("--loss-methods", type=method_list, help="default: " +
                        ",".join(DEFAULT_LOSS_METHODS) + ", if among --methods")
    parser.add_argument("--loss-batch", type=positive, help="default: the first of --batches")
    parser.add_argument("--skip-steps", action="store_true", help="measure no bytes and seconds")
    parser.add_argument("--skip-largest-batch", action="store_true")
    parser.add_argument("--skip-losses", action="store_true")
    parser.add_argument("--time-limit", type=float, default=float("inf"), metavar="SECONDS",
                        help="begin no measurement after so many")
    parser.add_argument("--tiny", action="store_true", help="the same layers, few and narrow")
    parser.add_argument("--channels-last", action="store_true", help="images in memory")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", default="memory_table", metavar="PREFIX")
    arguments = parser.parse_args()
    arguments.batches = arguments.batches or DEFAULT_BATCHES[arguments.model]
    arguments.loss_batch = arguments.loss_batch or arguments.batches[0]
    if arguments.loss_methods is None:
        arguments.loss_methods = [method for method in arguments.methods
                                  if method.name in DEFAULT_LOSS_METHODS]
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU: --device cpu tries the script without one")
    if arguments.device == "cuda" and arguments.budget_gib * GIB > torch.cuda.mem_get_info()[1]:
        parser.error(f"--budget-gib {arguments.budget_gib:g} is more than the GPU has")
    if arguments.image_size % 16:
        parser.error(f"--image-size {arguments.image_size} is no multiple of 16, a patch's size")
    return arguments


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def number_list(text):
    return [positive(part) for part in text.split(",")]


def method_list(text):
    names = text.split(",")
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"no method is called {name}: {', '.join(METHODS)}")
    return [METHODS[name] for name in names]


def context_of(arguments, workload, device):
    return {
        "workload": workload.name + (", tiny" if arguments.tiny else "")
                    + (", channels last" if arguments.channels_last else ""),
        "unit": workload.unit,
        "units_per_sample": workload.units_per_sample,
        "parameters": sum(p.numel() for p in workload.initial_model.parameters()),
        "loss_bound": workload.loss_bound,
        "bits": arguments.bits,
        "seed": arguments.seed,
        "device": device.name,
        "full_precision": device.full_precision,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command_line(),
    }


def command_line():
    """The command line, with the settings of PyTorch's allocator."""
    settings = (f"{name}={os.environ[name]}"
                for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF") if name in os.environ)
    return " ".join((*settings, *sys.argv))


def measurements_of(arguments, bench, report):
    """Everything that the command line asks for: who takes the row, who makes it, and from what."""
    if not arguments.skip_steps:
        for batch_size in arguments.batches:
            for method in arguments.methods:
                yield report.add_step, bench.measure_step, (
                    method, batch_size, arguments.timed_steps)
    if not arguments.skip_largest_batch and bench.device.has_bytes:
        budget_bytes = int(arguments.budget_gib * GIB)
        for method in arguments.methods:
            yield report.add_largest_batch, bench.find_largest_batch, (
                method, budget_bytes, arguments.resolution, arguments.batches[0])
    if not arguments.skip_losses:
        for method in arguments.loss_methods:
            yield report.add_losses, bench.train, (
                method, arguments.loss_batch, arguments.steps)


def main():
    arguments = parse_arguments()
    began = time.monotonic()
    device = devices.Cuda() if arguments.device == "cuda" else devices.Cpu()
    workload = workloads.make_workload(
        workloads.Settings(arguments.model, arguments.image_size, arguments.context,
                           arguments.loss_rows, arguments.seed, arguments.tiny,
                           arguments.channels_last), device.device)
    report = Report(context_of(arguments, workload, device), arguments.out)
    bench = Bench(workload, Codec(arguments.bits, arguments.seed), device, say)
    skipped = 0
    for add, measure, what in measurements_of(arguments, bench, report):
        if time.monotonic() - began < arguments.time_limit:
            add(measure(*what))
        else:
            skipped += 1
    say("\n" + report.markdown())
    if skipped:
        say(f"Left out after {arguments.time_limit:g} s: {skipped} measurements.")
    sys.exit(1 if report.has_failures() else 0)


if __name__ == "__main__":
    main()
