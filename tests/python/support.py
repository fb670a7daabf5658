# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Shared by the tests: devices, statistics of rounded gradients, bytes that the allocator counts.
import ctypes
import functools
import gc
import itertools
import math
import os
import unittest

import actpack
import torch
from actpack import packed

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True

DEVICES = [torch.device("cpu")]
if torch.cuda.is_available() and actpack.has_cuda:
    DEVICES.append(torch.device("cuda"))


def on_devices(test):
    """Runs a test, which takes `device`, on every device at hand, with torch's seed set."""

    @functools.wraps(test)
    def run(self):
        for device in DEVICES:
            with self.subTest(device=device.type):
                torch.manual_seed(0)
                test(self, device)

    return run


def joined(tensors):
    """All elements in one vector, in double precision."""
    return torch.cat([tensor.detach().double().reshape(-1).cpu() for tensor in tensors])


def parameter_gradients(model, forward):
    """The joined gradients of forward()'s sum for all trained parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return joined(torch.autograd.grad(forward().float().sum(), parameters))


def relative_error(result, exact):
    return ((result - exact).norm() / exact.norm()).item()


def is_close(result, exact):
    """Equal except for the rounding of a normalisation's few float operations."""
    if result.shape != exact.shape:
        return False
    largest = max([1.0, *exact.detach().abs().flatten().tolist()])
    return bool(((result - exact).abs() <= 2.0**-20 * largest).all())


class Draws:
    """Gradients of one batch, each with noise of its own, beside the exact one.

    V = sum ||g_k - mean||² / (K - 1) estimates the variance of one draw. Without bias, therefore,
    k · ||mean of k draws - exact||² / V, the `excess`, is 1 on average. It is a sum of squares of
    independent normal variables, whose variances are the eigenvalues of the covariance. The draws'
    Gram matrix gives these, and with them `sigma`, the excess's deviation for one mean.
    """

    deviations_allowed = 5

    def __init__(self, draw, exact, count=64):
        self.count, self.exact = count, exact
        self._draws = torch.stack([draw() for _ in range(count)])
        centred = self._draws - self._draws.mean(0)
        gram = centred @ centred.t()
        self.variance = gram.trace().item() / (count - 1)
        # tr(S²) of a sample exceeds that of the covariance: sigma errs on the safe side.
        self.sigma = math.sqrt(2) * gram.norm().item() / max(gram.trace().item(), 1e-300)

    def excess(self, k=None):
        k = k or self.count
        means = self._draws.reshape(self.count // k, k, -1).mean(1)
        errors = (means - self.exact).square().sum(1)
        return (k * errors.mean() / self.variance).item()

    def allowed(self, k=None):
        """How far the excess may be from 1: an average over the disjoint means of k draws."""
        return self.deviations_allowed * self.sigma * math.sqrt((k or self.count) / self.count)

    def noise(self):
        """The standard deviation of one draw, relative to the gradient."""
        return math.sqrt(self.variance) / self.exact.norm().item()

    def detectable(self):
        """The smallest bias, relative to the gradient, that is more likely found than not."""
        return self.noise() * math.sqrt(self.allowed() / self.count)

    def is_exact(self):
        """No noise, and no error beyond that of sums in float."""
        return self.noise() < 1e-6 and relative_error(self._draws[0], self.exact) < 1e-5

    def is_unbiased(self):
        return self.excess() <= 1 + self.allowed()


class StatisticalCase(unittest.TestCase):

    def assert_unbiased(self, draws, detectable=0.1):
        """Asserts also that there was noise, and that a bias of `detectable` would be found."""
        self.assertGreater(draws.noise(), 1e-6, "there was no noise to average out")
        self.assertLess(draws.detectable(), detectable, "the test has too little power")
        self.assertLessEqual(draws.excess(), 1 + draws.allowed())

    def assert_falls_as_root(self, draws):
        """Asserts that the error of a mean of k draws falls as 1 / √k."""
        k = 1
        while k <= draws.count:
            self.assertLessEqual(abs(draws.excess(k) - 1), draws.allowed(k), f"mean of {k}")
            k *= 4


def restart_streams():
    """Restarts the noise: from now on it is the same as after the last call."""
    packed._streams = itertools.count()
    torch.manual_seed(0)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def _glibc():
    """Returns the C library, or None if it is not glibc. Tells it to map every block of 64 KiB or
    more by itself, so that pages come and go with their block. Must run while the heap is small: a
    large enough free rest of it would be used first."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Mallinfo2
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    library.mallopt(m_mmap_threshold, 1 << 16)
    library.mallopt(m_trim_threshold, 1 << 15)
    library.mallopt(m_top_pad, 0)
    return library


_libc = _glibc()


class MemoryCase(unittest.TestCase):
    """Bytes as the allocator counts them: those of tensors on a GPU; those of the whole process on
    the CPU, of which a few KiB are not tensors."""

    @classmethod
    def setUpClass(cls):
        if _libc is None:
            raise unittest.SkipTest("needs glibc, 2.33 or newer")

    @staticmethod
    def allocated(device):
        if device.type == "cuda":
            return torch.cuda.memory_allocated(device)
        info = _libc.mallinfo2()
        return info.uordblks + info.hblkhd  # in use in the heaps of all threads, and mapped

    def stored(self, forward, device):
        """The bytes that forward() leaves alive, its result included. It runs once before, because
        libraries may keep something for good the first time."""
        forward()
        gc.collect()
        before = self.allocated(device)
        result = forward()
        stored = self.allocated(device) - before
        del result
        return stored

    def peak(self, step, device):
        """The peak of step(), beyond the bytes from before.

        On the CPU it is the kernel's record of resident pages, which misses nothing. Large blocks
        come and go with their pages. step() runs once before, so that smaller blocks and code are
        resident already.
        """
        step()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            step()
            return torch.cuda.max_memory_allocated(device) - before
        with open("/proc/self/clear_refs", "w") as record:
            record.write("5")
        before = _resident("VmHWM")
        step()
        return _resident("VmHWM") - before


def _resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


class Chain(torch.nn.Sequential):
    """`depth` times convolution, batch normalisation and ReLU, all of one shape."""

    channels = 16

    def __init__(self, depth):
        layers = []
        for _ in range(depth):
            layers += [torch.nn.Conv2d(self.channels, self.channels, 1, bias=False),
                       torch.nn.BatchNorm2d(self.channels), torch.nn.ReLU()]
        super().__init__(*layers)

    @classmethod
    def batch(cls, device, size=8):
        if device.type == "cuda":
            size *= 16  # so that cuDNN's own memory is small beside it
        return torch.randn(size, cls.channels, 64, 64, device=device)
